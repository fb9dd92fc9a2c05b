"""What a user may write, and what is said when it is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from orchestrator.durations import parse_bytes, parse_duration
from orchestrator.errors import SpecError, UserError
from orchestrator.frozen import DataFacts, Frozen, bind, differences, identity, resources
from orchestrator.spec_text import load_spec, parse_spec, validate
from orchestrator.training.engine import build_model

GOOD = """
name: t
model: {preset: S/32, classes: 10}
data: {train: /d}
train: {global_batch: 64, micro_batch: 8, epochs: 2, precision: fp32}
workers: {max: 4}
"""
FACTS = DataFacts(1000, 5000.0, "ab" * 32)


def problems(*overrides: str, text: str = GOOD) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, overrides)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.golbal_batch=8", "train.golbal_batch: unknown key; did you mean global_batch?"),
        ("chekpoint.keep=2", "chekpoint: unknown key; did you mean checkpoint?"),
        ("data.augment.mixup_=1", "data.augment.mixup_: unknown key; did you mean mixup?"),
        ("train.optimizer.lrr=1", "train.optimizer.lrr: unknown key; did you mean lr?"),
        (
            "train.optimizer.momentum=0.8",
            "train.optimizer: momentum got 0.8; adamw does not know it: leave it out",
        ),
        ("train.optimizer={name: sgd, eps: 1.0}", "eps got 1.0; sgd does not know it"),
        ("train.optimizer.name=lamb", "train.optimizer.name: got 'lamb'"),
        ("train.optimizer={name: sgd, momentum: 1}", "train.optimizer.momentum: got 1"),
        ("workers.max=9", "8 micro-batches"),
        ("workers.min=5", "min got 5, more than max 4"),
        ("train.micro_batch=7", "must divide global_batch 64"),
        ("train.steps=5", "train: give either epochs or steps; both were given"),
        ("train.epochs=null", "train: give either epochs or steps; neither was given"),
        (
            "train.optimizer=sgd",
            "train.optimizer: got 'sgd'; it is a section, with keys below it: name, lr, ",
        ),
        ("model=S/16", "model: got 'S/16'; it is a section, with keys below it: preset, classes, "),
        ("model.init={run: first}", "model.init: got {'run': 'first'}; input should be a valid string"),
        ("model.init=", "model: init got ''; give a run or a file of weights, or null"),
        ("model.init=[", "--set model.init=[: not YAML: "),
        ("model.init=a: b: c", "--set model.init=a: b: c: not YAML: "),
        ("train.zero=5", "train.zero: got 5"),
        ("train.recompute=all", "train.recompute: got 'all'"),
        ("train.activation_checkpointing=gelu", "got 'gelu'; give recompute: none, gelu or block"),
        ("model.preset=S/33", "no preset 'S/33'"),
        ("model.image_size=225", "not a multiple of patch 32"),
        ("checkpoint.every=3 weeks", "write a number and one of steps"),
        ("train.warmup_steps=5 min", "give steps, images or epochs"),
        ("data.scale=[0.5,1.5]", "at most 1.0"),
        ("data.eval_crop=centre", "data.eval_crop: got 'centre'"),
        ("model.label_smoothing=1", "model.label_smoothing: got 1"),
        ("model.drop_path_rescale=2", "model.drop_path_rescale: got 2"),
        ("name=Big Run", "name"),
        ("data.train=s3://key:secret@host/x", "credential"),
    ],
)
def test_mistakes_are_named(override: str, said: str) -> None:
    assert said in problems(override)


def test_zero_0_with_bf16_is_refused_with_the_reason() -> None:
    assert "DeepSpeed's first update is wrong" in problems("train.precision=bf16", "train.zero=0")


def test_the_old_name_beside_the_new_one_is_refused() -> None:
    assert "recompute, given too, has taken its place" in problems(
        "train.activation_checkpointing=true", "train.recompute=gelu"
    )


def test_all_mistakes_are_told_at_once() -> None:
    assert len(problems("train.x=1", "model.y=2").splitlines()) == 2


def test_a_key_that_is_given_twice_is_refused_and_none_of_the_two_is_lost(tmp_path: Path) -> None:
    twice = problems(text=GOOD + "model: {classes: 12}\n")
    assert "spec: not YAML: model is given twice" in twice
    assert "line 7" in twice
    assert "classes is given twice" in problems("model={classes: 10, preset: S/32, classes: 12}")
    (tmp_path / "merged.yaml").write_text(GOOD.replace("{max: 4}", "{<<: {max: 3}, max: 4}"))
    assert load_spec(tmp_path / "merged.yaml").workers.max == 4


def test_a_file_that_is_no_text_is_no_spec(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_bytes(b"\x80\x02\xff")
    with pytest.raises(UserError, match=r"weights.yaml: not text: .* give the path of a spec"):
        load_spec(path)


def test_a_missing_key_says_what_it_is_for() -> None:
    assert "data.train: missing; url of packed or indexed training shards" in problems(
        text=GOOD.replace("train: /d", "val: /d")
    )


def test_scientific_notation_is_a_number() -> None:
    assert parse_spec(GOOD, ["train.optimizer.lr=3e-3"]).train.optimizer.lr == 3e-3
    assert (
        parse_spec(GOOD.replace("epochs: 2", "epochs: 2, optimizer: {lr: 1e-3}")).train.optimizer.lr == 1e-3
    )


def test_an_optimizer_gets_what_it_knows_and_no_more() -> None:
    sgd = parse_spec(GOOD, ["train.optimizer.name=sgd"]).train.optimizer
    assert sgd.arguments() == {"lr": 0.03, "momentum": 0.9}
    assert sgd.weight_decay == 0
    adamw = parse_spec(GOOD, ["train.optimizer.betas=[0.9, 0.99]"]).train.optimizer
    assert adamw.arguments() == {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8}
    for spec in (parse_spec(GOOD, ["train.optimizer.name=sgd"]), parse_spec(GOOD)):
        assert validate(spec.model_dump(mode="json", by_alias=True)) == spec


def test_specs_frozen_before_there_was_a_choice_of_optimizers_still_load() -> None:
    tree = parse_spec(GOOD).model_dump(mode="json", by_alias=True)
    tree["train"]["optimizer"] = {"lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.999], "eps": 1e-8}
    assert validate(tree) == parse_spec(GOOD)


def test_a_spec_that_is_not_there_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the path of a spec"):
        load_spec(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "runs").glob("*.yaml")), ids=lambda path: path.name
)
def test_the_specs_we_ship_are_valid(path: Path) -> None:
    assert load_spec(path)


def test_durations_become_steps_once() -> None:
    frozen = bind(
        parse_spec(GOOD, ["train.warmup_steps=0.5 epochs", "checkpoint.every=640 images"]),
        FACTS,
        None,
        code={},
    )
    assert (frozen.steps, frozen.warmup_steps, frozen.save_steps) == (32, 8, 10)
    assert bind(parse_spec(GOOD, ["checkpoint.every=10 min"]), FACTS, None, code={}).save_steps is None


def test_a_frozen_spec_reads_back_equal() -> None:
    frozen = bind(parse_spec(GOOD), FACTS, DataFacts(7, 10.0, "cd"), code={"torch": "2"})
    assert Frozen.from_yaml(frozen.to_yaml()) == frozen


@pytest.mark.parametrize(("old", "now"), [("false", "none"), ("true", "block")])
def test_what_older_versions_froze_still_reads(old: str, now: str) -> None:
    frozen = bind(parse_spec(GOOD, [f"train.recompute={now}"]), FACTS, None, code={})
    text = frozen.to_yaml()
    assert f"recompute: {now}" in text
    before = text.replace(f"recompute: {now}", f"activation_checkpointing: {old}")
    assert Frozen.from_yaml(before) == frozen
    assert parse_spec(GOOD, [f"train.activation_checkpointing={old}"]) == frozen.spec


def test_identity_is_the_data_not_where_it_lies() -> None:
    here, there = (
        parse_spec(GOOD),
        parse_spec(GOOD, ["data.train=/elsewhere", "workers.max=2", "checkpoint.every=7"]),
    )
    assert not differences(identity(here, FACTS, None), identity(there, FACTS, None))
    other = parse_spec(GOOD, ["train.seed=1", "data.flip=false"])
    assert differences(identity(here, FACTS, None), identity(other, FACTS, None)) == [
        "data.flip: True -> False",
        "train.seed: 0 -> 1",
    ]
    assert differences(identity(here, FACTS, None), identity(here, DataFacts(1000, 5000.0, "ff"), None))


@pytest.mark.parametrize(("text", "steps"), [("500", 500), ("2 epochs", 32), ("1e3 images", 16), (7, 7)])
def test_durations(text: object, steps: int) -> None:
    assert parse_duration(text).steps(samples=1000, batch=64) == steps


def test_sizes() -> None:
    assert parse_bytes("64 MB") == 64_000_000
    assert parse_bytes("2GiB") == 2 << 30
    with pytest.raises(ValueError, match="number of bytes"):
        parse_bytes("many")


def test_a_cache_too_small_to_hold_blocks_is_refused() -> None:
    assert parse_spec(GOOD, ["data.cache.size=200 GB"]).data.cache is not None
    with pytest.raises(SpecError, match=r"data\.cache\.size: .*64000000"):
        parse_spec(GOOD, ["data.cache.size=1 MB"])


def test_smoothing_is_for_softmax() -> None:
    assert parse_spec(GOOD, ["model.label_smoothing=0.1"]).model.label_smoothing == 0.1
    assert "it is for loss: softmax, set it to 0 for sigmoid" in problems(
        "model.label_smoothing=0.1", "model.loss=sigmoid"
    )


@pytest.mark.parametrize(
    ("overrides", "bias"),
    [
        ([], 0.0),
        (["model.loss=sigmoid"], -math.log(10)),
        (["model.loss=sigmoid", "model.head_bias=-6.9"], -6.9),
    ],
)
def test_the_head_starts_where_the_loss_wants_it(overrides: list[str], bias: float) -> None:
    spec = parse_spec(GOOD, overrides)
    assert spec.model.first_bias == bias
    model = build_model(spec)
    assert model.head.bias.tolist() == pytest.approx([bias] * 10)
    assert not model.head.weight.any()


def test_a_spec_frozen_before_a_key_was_there_reads_as_it_ran() -> None:
    frozen = bind(parse_spec(GOOD), FACTS, None, code={})
    tree = yaml.safe_load(frozen.to_yaml())
    for section, keys in {
        "model": ("drop_path_rescale", "label_smoothing", "head_bias"),
        "data": ("eval_crop",),
    }.items():
        for key in keys:
            del tree["spec"][section][key]
    old = Frozen.from_yaml(yaml.safe_dump(tree))
    assert (old.spec, old.fingerprint) == (frozen.spec, frozen.fingerprint)
    model = old.spec.model
    assert (model.drop_path_rescale, model.label_smoothing, model.head_bias) == (False, 0.0, None)
    assert old.spec.data.eval_crop == "auto"


def test_what_evaluation_sees_may_change_between_attempts() -> None:
    one, other = parse_spec(GOOD), parse_spec(GOOD, ["data.eval_crop=resize-crop"])
    assert not differences(identity(one, FACTS, None), identity(other, FACTS, None))
    assert differences(resources(one), resources(other)) == ["data.eval_crop: 'auto' -> 'resize-crop'"]


def test_an_empty_validation_set_is_refused_before_the_run_that_would_end_with_it() -> None:
    with pytest.raises(UserError, match=r"data\.val None holds no samples; pack or index it first"):
        bind(parse_spec(GOOD), FACTS, DataFacts(0, 0.0, "ab"), code={})


def test_a_rescaling_of_nothing_is_refused_in_what_is_written_and_loads_where_it_is_frozen() -> None:
    said = "model.drop_path_rescale: got True; it goes with drop_path above 0"
    assert said in problems("model.drop_path_rescale=true")
    assert parse_spec(GOOD, ["model.drop_path_rescale=true", "model.drop_path=0.1"]).model.drop_path_rescale
    tree = yaml.safe_load(bind(parse_spec(GOOD), FACTS, None, code={}).to_yaml())
    tree["spec"]["model"]["drop_path_rescale"] = True
    assert Frozen.from_yaml(yaml.safe_dump(tree)).spec.model.drop_path_rescale
