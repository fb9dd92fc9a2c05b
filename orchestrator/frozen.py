"""A spec bound to its data: durations become steps, the order of the data is fixed, the identity gets a fingerprint.

Spec + the digests of its data sets and first weights -> Frozen, written once as `spec.yaml` beside the run. `model`, `train`, the way
images are made (`data` without its urls and resources) and the digests are the identity: a rerun that differs there is refused.
The rest may change between attempts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import yaml

from data_pipeline.order import Geometry, choose_geometry
from orchestrator.errors import UserError
from orchestrator.spec import Spec
from orchestrator.spec_text import validate

FORMAT = 1
# A copy of the same data elsewhere is the same data, and neither threads nor a cache nor what evaluation sees change a pixel
# that is trained on.
_DATA_RESOURCES = {"train", "val", "eval_crop", "threads", "cache", "bad", "bad_share"}
_TRAIN_RESOURCES = {"compile_cache"}


@dataclass(frozen=True)
class DataFacts:
    """What a run must know of a packed data set: its samples, its mean sample size in bytes and its digest."""

    samples: int
    mean_bytes: float
    digest: str


@dataclass(frozen=True)
class InitFacts:
    """Where a run's first weights came from, and where its own copy of them lies: in `path` of its folder, as a checkpoint of weights."""

    source: str  # url of a run, or of a file
    step: int | None  # of that run
    head: str  # keep, new
    factor: int  # K: the side of the image, times that of the source's
    sha256: str  # of the copy's file
    path: str
    manifest: str  # SHA-256 of the copy's manifest
    weights: str | None = (
        None  # SHA-256 of names, shapes and values; None in runs that are identified by `sha256`
    )

    @property
    def digest(self) -> str:
        """What identifies the weights. The file's own digest holds its header too, and that the network's config."""
        return self.weights or self.sha256

    @property
    def words(self) -> str:
        """For people."""
        place = f" at step {self.step}" if self.step is not None else ""
        head = "its head kept" if self.head == "keep" else "a new head"
        size = f", images {self.factor} times the side" if self.factor > 1 else ""
        return f"{self.source}{place}: {head}{size}"


@dataclass(frozen=True)
class Frozen:
    """A run's spec with everything derived from it once and for all."""

    spec: Spec
    train: DataFacts
    val: DataFacts | None
    geometry: Geometry
    steps: int
    warmup_steps: int
    save_steps: int | None  # None: by wall time, or as it pays, `spec.checkpoint.every`
    evaluate_steps: int | None
    fingerprint: str
    code: dict[str, str]
    init: InitFacts | None = None  # None: the weights are drawn

    @property
    def remarks(self) -> list[str]:
        """What the spec asks for and this run cannot come to."""
        if self.warmup_steps <= self.steps:
            return []
        lr, warmup = self.spec.train.optimizer.lr, self.warmup_steps
        return [
            f"train.warmup_steps is {warmup:,} and the run has {self.steps:,} steps: its rate ends at {lr * self.steps / warmup:.2g} and "
            f"never gets to {lr:g}; give fewer, such as `5 epochs`, or a longer run"
        ]

    def to_yaml(self) -> str:
        """The text of `spec.yaml`."""
        tree = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "code": self.code,
            "data": {"train": asdict(self.train), "val": asdict(self.val) if self.val else None},
            "geometry": json.loads(self.geometry.to_json()),
            **({"init": asdict(self.init)} if self.init else {}),
            "spec": self.spec.model_dump(mode="json", by_alias=True),
        }
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str) -> Frozen:
        """The Frozen of a `spec.yaml`. UserError when a newer version wrote it."""
        tree = yaml.safe_load(text)
        if tree.get("format") != FORMAT:
            raise UserError(
                f"spec.yaml has format {tree.get('format')}, this version reads {FORMAT}; use the version that wrote it"
            )
        facts = {name: DataFacts(**given) if given else None for name, given in tree["data"].items()}
        assert facts["train"] is not None
        geometry = Geometry.from_json(json.dumps(tree["geometry"]))
        bound = bind(
            validate(tree["spec"]),
            facts["train"],
            facts["val"],
            code=tree["code"],
            geometry=geometry,
            init=InitFacts(**tree["init"]) if "init" in tree else None,
        )
        # The one it was made with: keys that came since are in what is computed now, and were not then.
        return replace(bound, fingerprint=tree["fingerprint"])

    def with_resources(self, spec: Spec) -> Frozen:
        """This run with the resources of `spec`, a spec of the same identity. Its first weights are named as they were at first."""
        kept = spec.model_copy(update={"model": self.spec.model})
        bound = bind(kept, self.train, self.val, code=self.code, geometry=self.geometry, init=self.init)
        return replace(bound, fingerprint=self.fingerprint)


def bind(
    spec: Spec,
    train: DataFacts,
    val: DataFacts | None,
    *,
    code: dict[str, str],
    geometry: Geometry | None = None,
    init: InitFacts | None = None,
) -> Frozen:
    """`spec` bound to its data sets and its first weights. UserError when the data cannot give what the spec asks for."""
    if train.samples < 1:
        raise UserError(f"data.train {spec.data.train} holds no samples; pack or index it first")
    if geometry is None and val and val.samples < 1:  # of a new run: one that is frozen already still loads
        raise UserError(f"data.val {spec.data.val} holds no samples; pack or index it first")
    batch, seed = spec.train.global_batch, spec.train.seed
    geometry = geometry or choose_geometry(
        train.samples,
        train.mean_bytes,
        batch,
        spec.train.micro_batch,
        seed,
        resident_bytes=spec.data.resident,
        window_bytes=spec.data.window_memory,
    )
    size = {"samples": train.samples, "batch": batch}
    steps = spec.train.steps or max(1, -(-round((spec.train.epochs or 0) * train.samples) // batch))
    every, evaluate = spec.checkpoint.every, spec.evaluate.every
    return Frozen(
        spec=spec,
        train=train,
        val=val,
        geometry=geometry,
        steps=steps,
        warmup_steps=spec.train.warmup_steps.steps(**size),
        save_steps=None if every.auto or every.seconds is not None else max(1, every.steps(**size)),
        evaluate_steps=max(1, evaluate.steps(**size)) if evaluate else None,
        fingerprint=fingerprint(identity(spec, train, val, init)),
        code=code,
        init=init,
    )


def identity(
    spec: Spec, train: DataFacts, val: DataFacts | None, init: InitFacts | None = None
) -> dict[str, Any]:
    """The keys of the run's identity, flat: `model.depth` -> value. Of first weights it is their digest, not where they came from."""
    tree = identity_tree(spec)
    tree["model"]["init"] = f"sha256:{init.digest}" if init else None
    tree["data"]["train (digest)"], tree["data"]["val (digest)"] = train.digest, val.digest if val else None
    return flat(tree)


def identity_tree(spec: Spec) -> dict[str, dict[str, Any]]:
    """The sections of a spec that are identity, without what of them may change between attempts."""
    tree = spec.model_dump(mode="json", by_alias=True)
    data = {key: value for key, value in tree["data"].items() if key not in _DATA_RESOURCES}
    train = {key: value for key, value in tree["train"].items() if key not in _TRAIN_RESOURCES}
    return {"model": tree["model"], "data": data, "train": train}


def resources(spec: Spec) -> dict[str, Any]:
    """The keys that may change between attempts, flat."""
    tree = spec.model_dump(mode="json", by_alias=True)
    data = {key: value for key, value in tree["data"].items() if key in _DATA_RESOURCES}
    train = {key: value for key, value in tree["train"].items() if key in _TRAIN_RESOURCES}
    rest = {key: tree[key] for key in ("checkpoint", "workers", "recovery", "evaluate", "events")}
    return flat({"data": data, "train": train, **rest})


def fingerprint(facts: dict[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of `facts` as canonical JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old -> new` for every key whose value differs."""
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in keys]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their whole key: `model.depth`."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
