"""What an attempt's end means for the run: errors of our code, damaged checkpoints, bad samples, damaged shards, the clock."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.accounts.proof import delivered_once
from orchestrator.run_log import live_checkpoints
from orchestrator.run_store import Run
from tests import killing
from tests.runs import Small, make_small

pytestmark = pytest.mark.timeout(240)


def fails_once(config: dict[str, Any]) -> Any:
    """A worker whose code raises at step 12 of the first attempt, on rank 1."""
    return _worker(
        config, lambda task: task.step == 12 and config["attempt"] == 1 and task.engine.place.rank == 1
    )


def fails_always(config: dict[str, Any]) -> Any:
    """A worker whose code raises at step 12, whatever the attempt."""
    return _worker(config, lambda task: task.step == 12 and task.engine.place.rank == 1)


def loses_its_mind(config: dict[str, Any]) -> Any:
    """A worker that finds a NaN in the loss of step 13, each time it comes by."""
    from orchestrator.training.engine import Engine

    true_agree, steps = Engine.agree, [0]

    def agree(self: Engine, numbers: list[float]) -> list[float]:
        found = true_agree(self, numbers)
        return [float("nan"), *found[1:]] if steps[0] == 12 else found

    def look(task: Any) -> bool:
        steps[0] = task.step
        return False

    Engine.agree = agree  # type: ignore[method-assign]
    return _worker(config, look)


def _worker(config: dict[str, Any], wrong: Any) -> Any:
    from orchestrator.training import loop, worker

    true_step = loop.one_step

    def one_step(task: loop.Task) -> tuple[bool, bool]:
        if wrong(task):
            raise ValueError("an error of our code")
        return true_step(task)

    loop.one_step = one_step
    return worker.main(config)


def outcomes(book: Any) -> list[str]:
    return [entry.facts["outcome"] for entry in book.entries if entry.kind == "attempt ended"]


def test_an_error_of_the_code_is_tried_again_and_told_with_its_traceback(small: Small) -> None:
    code, book = small.lead("once", fn=fails_once)
    assert code == 0
    assert outcomes(book) == ["failed", "finished"]
    cause = next(entry.facts["cause"] for entry in book.entries if entry.kind == "attempt ended")
    assert "an error of our code" in cause
    assert "one_step" in cause, "the traceback says where"
    said = [line.partition(" at step")[0].partition(":")[0] for line in small.said]
    told = [words for words in said if words.startswith("attempt ")]
    assert told == ["attempt 1", "attempt 1 failed", "attempt 2", "attempt 2 finished"]


def test_an_error_that_comes_back_ends_the_run_with_1(small: Small) -> None:
    code, book = small.lead("always", fn=fails_always)
    assert code == 1
    assert outcomes(book) == ["failed", "failed"]
    assert book.entries[-1].kind == "gave up"
    assert "same failure twice" in book.entries[-1].facts["why"]
    assert book.state() == "failed"


def test_a_loss_that_is_not_finite_is_never_saved(small: Small) -> None:
    code, book = small.lead("nan", fn=loses_its_mind)
    assert code == 1
    assert "Diverged" in book.entries[-1].facts["why"]
    assert max(entry.facts["step"] for entry in live_checkpoints(book.entries)) <= 12
    json.dumps(book.status(), allow_nan=False)


def test_a_damaged_checkpoint_is_left_for_an_older_one_and_kept(small: Small) -> None:
    def flip(run: Run) -> str:
        newest = live_checkpoints(run.log().entries)[-1].facts["path"]
        file = Path(run.url) / newest / "rank-00000.safetensors"
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 1
        file.write_bytes(raw)
        return str(newest)

    code, whole = small.lead("whole", "workers.min=2")
    assert code == 0
    resolved = small.resolve("flip", "workers.min=2")
    code, _ = small.lead(
        "flip", "workers.min=2", "recovery.failures=0", fn=killing.main, env=killing.at_step(24)
    )
    assert code == 1, "no failure allowed: the kill ends the run"
    path = flip(resolved.run)
    code, book = small.lead("flip", "workers.min=2", "recovery.failures=5")
    assert code == 0
    assert "damaged" in outcomes(book)
    assert [entry.facts["path"] for entry in book.entries if entry.kind == "checkpoint damaged"] == [path]
    assert (Path(resolved.run.url) / path / "manifest.json").exists(), (
        "what is damaged is kept for somebody to look at"
    )
    assert [line.facts["loss"] for line in book.history] == [line.facts["loss"] for line in whole.history]


def test_images_that_do_not_decode_are_replaced_alike_at_every_world_size(
    tmp_path: Path, digits: str
) -> None:
    from tests.runs import break_images

    shutil.copytree(digits, tmp_path / "broken")
    broken = break_images(tmp_path / "broken" / "train", {3, 700})
    small = make_small(tmp_path, str(tmp_path / "broken"))
    books = []
    for world in (1, 2):
        args = (f"workers.min={world}", f"workers.max={world}", "train.steps=46", "data.bad_share=0.01")
        code, book = small.lead(f"w{world}", *args)
        assert code == 0
        books.append(book)
    one, two = ([line.as_json()["id_digest"] for line in book.history] for book in books)
    assert one == two
    told = {(event["id"], event["substitute"]) for event in books[1].events if event["kind"] == "bad sample"}
    assert {sample for sample, _ in told} <= broken
    assert told
    assert books[1].status()["bad_samples"] >= len(told)
    assert delivered_once(books[0]) == delivered_once(books[1])


def test_more_bad_images_than_allowed_stop_the_run_by_name(tmp_path: Path, digits: str) -> None:
    from tests.runs import break_images

    shutil.copytree(digits, tmp_path / "broken")
    break_images(tmp_path / "broken" / "train", set(range(0, 1437, 9)))
    small = make_small(tmp_path, str(tmp_path / "broken"))
    code, book = small.lead("bad")
    assert code == 2
    assert "bad_share" in book.entries[-1].facts["why"] or "undecodable" in book.entries[-1].facts["why"]


def test_bytes_that_stay_wrong_stop_the_run_with_the_shards_name(tmp_path: Path, digits: str) -> None:
    shutil.copytree(digits, tmp_path / "torn")
    shard = tmp_path / "torn" / "train" / "train-000002.tar"
    raw = bytearray(shard.read_bytes())
    raw[5000] ^= 1
    shard.write_bytes(raw)
    small = make_small(tmp_path, str(tmp_path / "torn"))
    code, book = small.lead("torn")
    assert code == 2, "nothing but the user can mend it"
    assert "train-000002.tar" in book.entries[-1].facts["why"]


def test_the_ledger_adds_up_to_the_clock_on_the_wall(small: Small) -> None:
    began = time.time()
    code, book = small.lead(
        "clock", "train.steps=60", "workers.min=2", fn=killing.main, env=killing.at_step(25)
    )
    seconds = time.time() - began
    assert code == 0
    ledger = book.ledger
    assert sum(ledger.seconds.values()) == pytest.approx(ledger.wall_s, rel=1e-6)
    assert ledger.wall_s == pytest.approx(seconds, rel=0.02, abs=0.3)
    assert ledger.seconds["recovery"] > 0
    assert ledger.seconds["productive"] > 0
    assert set(ledger.recoveries()[0]) >= {"detect", "place", "import", "engine", "load"}


@pytest.mark.parametrize(("zero", "precision"), [(0, "fp32"), (1, "bf16"), (3, "bf16")])
def test_stages_and_precisions_resume_bit_by_bit(small: Small, zero: int, precision: str) -> None:
    overrides = (f"train.zero={zero}", f"train.precision={precision}", "workers.min=2", "train.steps=30")
    code, broken = small.lead("broken", *overrides, fn=killing.main, env=killing.at_step(14))
    assert code == 0
    code, whole = small.lead("whole", *overrides)
    assert code == 0
    assert [line.facts["loss"] for line in broken.history] == [line.facts["loss"] for line in whole.history]


def test_a_rerun_of_another_identity_is_refused_with_the_keys(small: Small) -> None:
    from orchestrator.errors import SpecError

    code, _ = small.lead("mine", "train.steps=5")
    assert code == 0
    with pytest.raises(SpecError, match=r"train\.seed: 0 -> 1.*another --name"):
        small.resolve("mine", "train.steps=5", "train.seed=1")
    assert small.resolve("mine", "train.steps=5", "workers.max=1").new is False


def test_mixup_stochastic_depth_and_randaugment_do_not_depend_on_the_world_size(small: Small) -> None:
    extra = (
        "model.drop_path=0.3",
        "data.augment.mixup=0.5",
        "data.augment.randaugment={ops: 2, magnitude: 9}",
        "model.loss=sigmoid",
    )
    found = []
    for world in (1, 3):
        code, book = small.lead(
            f"aug{world}", *extra, f"workers.min={world}", f"workers.max={world}", "train.steps=12"
        )
        assert code == 0
        found.append([line.facts["loss"] for line in book.history])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
