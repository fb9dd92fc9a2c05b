"""What a frozen run keeps when it is resumed: the fingerprint it was written with, what the spec leaves out, where its weights lay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from orchestrator.errors import SpecError, UserError
from orchestrator.frozen import Frozen
from orchestrator.launch import lead
from orchestrator.resolving import code_versions, freeze, resolve
from orchestrator.run_log import log_resources, new_writer
from orchestrator.spec import Spec
from orchestrator.stores import find_run
from orchestrator.training.worker import main
from tests.gang import GangMachines
from tests.orchestrator.weights.starts import frozen_at, weights
from tests.runs import Small

# As the version wrote it that had neither recipes nor model.init, with gelu as the default.
OLD = """
format: 1
fingerprint: f3dceb895b1b75b7
code: {mixer-pretrain: 0.0.9, torch: 2.12.0}
data:
  train: {samples: 1000, mean_bytes: 5000.0, digest: abababababababababababababababababababababababababababababababab}
  val: null
geometry: {samples: 1000, block: 1, lanes: 8, window: 1, seed: 0}
spec:
  name: old
  store: null
  model: {preset: S/32, classes: 10, image_size: 224, patch: null, dim: null, depth: null, token_dim: null, channel_dim: null,
          drop_path: 0.0, activation: gelu, loss: softmax}
  data: {train: /d, val: null, decode: rrc, scale: [0.08, 1.0], ratio: [0.75, 1.3333333333333333], flip: false,
         augment: {randaugment: null, mixup: 0.0}, resident: 64000000, window_memory: 2000000000, bad_share: 0.0001, threads: 2}
  train: {global_batch: 64, micro_batch: 8, epochs: 2.0, steps: null,
          optimizer: {lr: 0.001, weight_decay: 0.1, betas: [0.9, 0.999], eps: 1.0e-08}, warmup_steps: 0 steps, schedule: linear,
          clip: 1.0, precision: fp32, zero: 2, compile: true, compile_cache: true, activation_checkpointing: false, seed: 0}
  checkpoint: {every: 500 steps, keep: 3, async: true}
  workers: {min: 1, max: 4, gpus: 0, cpus: 1.0}
  recovery: {failures: 5, preemptions: unlimited, wait: 60 minutes, spike: null, left_out: 3, stragglers: report}
  evaluate: {every: null}
  events: {sample_ids: false}
"""


# -- the fingerprint --------------------------------------------------------------------------------------------------------
def test_a_run_of_an_older_version_keeps_the_fingerprint_it_was_written_with() -> None:
    old = Frozen.from_yaml(OLD)
    assert old.fingerprint == "f3dceb895b1b75b7"
    assert (old.spec.model.activation, old.spec.train.recompute) == ("gelu", "none")
    workers = old.spec.workers.model_copy(update={"max": 2})
    later = old.with_resources(old.spec.model_copy(update={"workers": workers}))
    assert (later.fingerprint, later.spec.workers.max) == ("f3dceb895b1b75b7", 2)
    assert Frozen.from_yaml(later.to_yaml()) == later


def test_who_takes_a_run_over_logs_its_code_and_says_what_is_another_than_the_run_was_made_with(
    small: Small,
) -> None:
    path = Path(small.store) / "runs" / "old" / "spec.yaml"
    frozen_at(small, "old", "recovery.wait=0.01 min")
    tree = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**tree, "code": {**tree["code"], "torch": "2.12.0"}}))
    lead(
        resolve("old", store=small.store),
        take_over=False,
        say=small.said.append,
        machines=GangMachines(main, room=0),
    )
    now = code_versions()
    entry = next(e for e in resolve("old", store=small.store).run.log().entries if e.kind == "taken over")
    assert entry.facts["code"] == now
    assert f"run old was made with torch 2.12.0; here it is {now['torch']}" in small.said


# -- what a spec leaves out -------------------------------------------------------------------------------------------------
def test_a_default_that_changed_since_does_not_part_a_spec_from_its_run(small: Small) -> None:
    frozen_at(small, "old", "model.activation=gelu", "train.optimizer.eps=1e-6")
    again = small.resolve("old", "workers.max=1")
    assert (again.new, again.frozen.spec.model.activation, again.frozen.spec.workers.max) == (
        False,
        "gelu",
        1,
    )
    assert again.frozen.spec.train.optimizer.eps == 1e-6
    freeze(again, small.said.append, submitted=True)
    assert (
        "run old keeps what the spec leaves out: model.activation: 'gelu' (a new run has 'gelu_tanh')"
        in small.said
    )
    assert any("train.optimizer.eps: 1e-06 (a new run has 1e-08)" in line for line in small.said)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.activation=gelu_tanh", "model.activation: 'gelu' -> 'gelu_tanh'"),
        ("train.optimizer.name=sgd", "train.optimizer.name: 'adamw' -> 'sgd'"),
        ("train={global_batch: 64, micro_batch: 8, epochs: 3, precision: fp32}", "train.epochs: None -> 3.0"),
        ("model.loss=sigmoid", "model.loss: 'softmax' -> 'sigmoid'"),
    ],
)
def test_what_a_spec_says_must_agree_with_the_run_still(small: Small, override: str, said: str) -> None:
    frozen_at(small, "old", "model.activation=gelu", "model.label_smoothing=0.1")
    with pytest.raises(SpecError) as caught:
        small.resolve("old", override)
    assert said in str(caught.value)


def test_an_old_key_stands_for_the_new_one_when_its_run_is_resumed(small: Small) -> None:
    frozen_at(small, "old", "model.activation=gelu", "train.activation_checkpointing=true")
    assert small.resolve("old", "train.activation_checkpointing=true").frozen.spec.train.recompute == "block"


# -- first weights ----------------------------------------------------------------------------------------------------------
def test_another_path_of_the_same_weights_is_neither_logged_nor_read_again(
    small: Small, tmp_path: Path
) -> None:
    source = weights(tmp_path / "a.safetensors")
    before = frozen_at(small, "tuned", f"model.init={source}")
    copy = shutil.copy(source, tmp_path / "b.safetensors")
    again = small.resolve("tuned", f"model.init={copy}", "workers.max=1")
    assert again.frozen.spec.model.init == source
    log_resources(again.run.log(new_writer()), again.frozen.spec)
    Path(source).unlink()
    Path(copy).unlink()
    by_name = resolve("tuned", store=small.store)
    assert (by_name.frozen.init, by_name.frozen.spec.workers.max) == (before.init, 1)
    assert resolve("tuned", store=small.store, overrides=["workers.max=2"]).frozen.init == before.init


def test_a_log_that_names_another_path_is_no_reason_to_read_it(small: Small, tmp_path: Path) -> None:
    """As older versions logged it."""
    source = weights(tmp_path / "a.safetensors")
    frozen = frozen_at(small, "tuned", f"model.init={source}")
    model = frozen.spec.model.model_copy(update={"init": str(tmp_path / "gone.safetensors")})
    spec: Spec = frozen.spec.model_copy(update={"model": model})
    log_resources(small.resolve("tuned", f"model.init={source}").run.log(new_writer()), spec)
    assert resolve("tuned", store=small.store).frozen.spec.model.init == source


# -- a name that is no run's ------------------------------------------------------------------------------------------------
def test_of_many_runs_the_one_that_was_meant_is_named(tmp_path: Path) -> None:
    for name in ("digits", *(f"run-{number}" for number in range(11))):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "spec.yaml").touch()
    with pytest.raises(UserError, match=r"no run digts in .*; there: digits, run-0, .* and 4 more$"):
        find_run("digts", str(tmp_path))
    with pytest.raises(UserError, match=r"no run x in .*/none; there: none$"):
        find_run("x", str(tmp_path / "none"))
    with pytest.raises(UserError, match="the name of a run got ''; give one of `mixer ls`"):
        find_run("", str(tmp_path))


def test_an_empty_name_is_refused_and_begins_no_other_run(small: Small) -> None:
    """As `--name "$NAME"` is where the variable is not set."""
    with pytest.raises(UserError, match="--name got ''; allowed are letters"):
        small.resolve("")
