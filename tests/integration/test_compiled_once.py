"""What one attempt compiled serves the next, on an empty machine too; a tar that is not the one in the log is refused, and said."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.accounts.status import Book
from orchestrator.run_store import Run
from orchestrator.training.worker import main as worker_main
from tests.gang import GangMachines
from tests.runs import make_small, wait_for

COUNTS = "MIXER_TEST_COUNTS"
LONG = ("train.compile=true", "train.steps=100000", "workers.min=2", "checkpoint.every=100000 steps")


def counting_main(config: dict[str, Any]) -> str:
    """The main of a rank on a machine with an empty cache; afterwards, what was compiled."""
    counts = Path(os.environ[COUNTS])
    os.environ["MIXER_CACHE"] = str(counts / f"cache-{config['attempt']}")
    from torch._dynamo.utils import counters

    outcome = worker_main(config)
    inductor = counters["inductor"]
    said = {"hits": inductor["fxgraph_cache_hit"], "misses": inductor["fxgraph_cache_miss"]}
    (counts / f"{config['attempt']}-{os.environ['RANK']}.json").write_text(json.dumps(said))
    return outcome


def stop_after_first_steps(run: Run, machines: GangMachines) -> None:
    def attempt() -> int:
        began = Book(run).entries
        return max((entry.n for entry in began if entry.kind == "attempt started"), default=0)

    seen = attempt()
    number = wait_for(lambda: (n := attempt()) > seen and n)

    def shared_or_at_work() -> bool:
        said = run.read_json(f"progress/{number}.json") or {}
        return said.get("step", 0) > 3 and ("compile_cache" in said or not needs_to_share(run, number))

    wait_for(shared_or_at_work, timeout=100)
    run.request("stop")


def needs_to_share(run: Run, number: int) -> bool:
    whats = [event["what"] for event in notes(Book(run), number)]
    return "taken" not in whats


def notes(book: Book, number: int) -> list[dict[str, Any]]:
    return [
        event
        for event in book.events
        if event["kind"] == "compile cache" and event["attempt"] == number and event["rank"] == 0
    ]


@pytest.mark.timeout(400)
def test_an_attempt_compiles_nothing_that_an_earlier_one_compiled(tmp_path: Path, digits: str) -> None:
    small = make_small(tmp_path, digits)
    counts = tmp_path / "counts"
    counts.mkdir()

    def lead() -> tuple[Book, int, list[dict[str, int]]]:
        code, book = small.lead(
            "warm", *LONG, fn=counting_main, during=stop_after_first_steps, env={COUNTS: str(counts)}
        )
        assert code == 3
        number = max(entry.n for entry in book.entries if entry.kind == "attempt started")
        ranks = [json.loads((counts / f"{number}-{rank}.json").read_text()) for rank in range(2)]
        return book, number, ranks

    book, first, ranks = lead()
    assert sum(rank["misses"] for rank in ranks) > 0
    logged = [entry.facts for entry in book.entries if entry.kind == "compile cache"]
    assert len(logged) == 1
    tar = tmp_path / "store" / "runs" / "warm" / logged[0]["path"]
    assert hashlib.sha256(tar.read_bytes()).hexdigest() == logged[0]["sha256"]

    book, second, ranks = lead()
    assert [rank["misses"] for rank in ranks] == [0, 0]
    assert all(rank["hits"] > 0 for rank in ranks)
    assert [event["what"] for event in notes(book, second)] == ["taken"]
    assert kernels(counts / f"cache-{second}") == kernels(counts / f"cache-{first}") != set()

    with tarfile.open(tar, "a") as more:  # a kernel of somebody else's
        more.addfile(tarfile.TarInfo("ab/evil.so"))
    book, third, ranks = lead()
    assert sum(rank["misses"] for rank in ranks) > 0
    said = notes(book, third)
    assert [event["what"] for event in said] == ["refused", "shared"]
    assert "SHA-256" in said[0]["why"]
    assert not list(counts.glob(f"cache-{third}/**/evil.so"))
    logged = [entry.facts for entry in book.entries if entry.kind == "compile cache"]
    tar = tmp_path / "store" / "runs" / "warm" / logged[1]["path"]
    assert hashlib.sha256(tar.read_bytes()).hexdigest() == logged[1]["sha256"], "the next one would take it"


def kernels(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*.so")}
