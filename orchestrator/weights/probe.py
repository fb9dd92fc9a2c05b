"""How good a run's features are: a linear probe on a few images of each class, tried on the validation set.

newest checkpoint -> features of a few images of each class (`data.train`, no augmentation) -> for every number of shots and every seed a
probe by ridge regression (mixer_model/few_shot.py) -> its accuracy on the validation set. The network's head plays no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch

from data_pipeline.loading.class_sample import ClassSample
from data_pipeline.shards.dataset import Dataset
from mixer_model.few_shot import Probe, choose, fit
from mixer_model.mixer import Mixer, to_input
from orchestrator.data_sets import check_classes
from orchestrator.errors import UserError
from orchestrator.frozen import Frozen
from orchestrator.run_store import Run
from orchestrator.training.data import block_cache, evaluation_batches, open_dataset, recipe
from orchestrator.urls import absolute
from orchestrator.weights.network import evaluated_as, here, load_network

PER_CLASS = 30  # samples that seeds draw from: what the authors' pool holds of each ImageNet class at least
POOL = 65  # samples read for each class at most, on average: their pool is the first 65,000 for 1,000 classes
NAMED = 5  # classes with too few

Tell = Callable[[str, int, int], None]
Part = tuple[torch.Tensor, torch.Tensor]  # features [n, C] and labels int64 [n]
Batches = Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Wanted:
    """What to probe with: each of `shots`, `seeds` times. `pool` bounds the samples read; None is POOL for each class."""

    shots: tuple[int, ...]
    seeds: int
    pool: int | None = None

    def __post_init__(self) -> None:
        if not self.shots or min(*self.shots, self.seeds, self.pool or 1) < 1:
            raise UserError(
                f"--few-shot got {', '.join(map(str, self.shots)) or 'nothing'}, --seeds {self.seeds}, --pool {self.pool}; "
                "give 1 or more"
            )


@torch.no_grad()
def few_shot(
    run: Run,
    wanted: Wanted,
    *,
    crop: str | None = None,
    data: str | None = None,
    train_data: str | None = None,
    tell: Tell = lambda what, done, total: None,
) -> dict[str, Any]:
    """Accuracy of probes on the newest checkpoint's features, in percent of the validation set, by shots and seed.

    `train_data` and `data` take the place of the run's two sets; both given, they may be of any classes. `tell` hears what goes on.
    """
    model, frozen, step = load_network(run)
    frozen = evaluated_as(run, frozen, crop, None)
    train, test = _sets(frozen, train_data, data)
    place = here()
    model = model.to(place.device)
    taken = ClassSample(
        train,
        recipe(frozen),
        per_class=max(PER_CLASS, *wanted.shots),
        at_most=wanted.pool or POOL * (train.max_label + 1),
        micro_batch=frozen.spec.train.micro_batch,
        threads=frozen.spec.data.threads,
        cache=block_cache(frozen),
    )
    pool = _pool(_features(model, _told(taken, tell)), train)
    probes = _probes(pool, wanted, max(train.max_label, test.max_label) + 1)
    seen = _features(model, evaluation_batches(frozen, test, place))
    shares, samples = _tried(probes, seen, lambda done: tell("testing", done, test.samples))
    return {
        "run": run.name,
        "step": step,
        "train_data": train.url,
        "data": test.url,
        "crop": frozen.spec.data.eval_crop,
        "samples": samples,
        "classes": train.max_label + 1,
        "few_shot": [_line(shots, shares[i :: len(wanted.shots)]) for i, shots in enumerate(wanted.shots)],
        "pool": _of_pool(taken, max(wanted.shots), train.classes),
    }


def _sets(frozen: Frozen, train_url: str | None, test_url: str | None) -> tuple[Dataset, Dataset]:
    """Where shots are taken from and where probes are tried. UserError when there is none, or they number classes otherwise."""
    data = frozen.spec.data
    train = Dataset.open(absolute(train_url)) if train_url else open_dataset(data.train, frozen.train)
    if test_url:
        test = Dataset.open(absolute(test_url))
    elif data.val and frozen.val:
        test = open_dataset(data.val, frozen.val)
    else:
        raise UserError("the run has no data.val; give --data URL to try the probes on")
    check_classes(train, test)
    if test.labels_per_sample > 1:
        raise UserError(
            f"samples of {test.url} have several labels; a probe is tried on a set with one label a sample"
        )
    return train, test


def _told(taken: ClassSample, tell: Tell) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    for batch in taken:
        yield batch
        tell("sampling", taken.read, taken.at_most)


def _features(model: Mixer, batches: Batches) -> Iterator[Part]:
    """Features fp32 [n, C] and labels int64 [n], on the CPU, of what is real in each batch."""
    device = next(model.parameters()).device
    for images, labels, real in batches:
        features = model.features(to_input(images.to(device))).cpu()
        yield features[real], labels[real]


def _pool(parts: Iterable[Part], train: Dataset) -> Part:
    """All parts as one. UserError when there is nothing in them."""
    listed = list(parts)
    features, labels = [part[0] for part in listed], [part[1] for part in listed]
    if not sum(map(len, labels)):
        raise UserError(
            f"no sample of {train.url} that was read decodes; `mixer verify {train.url}` says why"
        )
    return torch.cat(features), torch.cat(labels)


def _probes(pool: Part, wanted: Wanted, classes: int) -> list[Probe]:
    """A probe for every seed and, within it, for each of the shots."""
    features, labels = pool
    chosen = [choose(labels.numpy(), shots, seed) for seed in range(wanted.seeds) for shots in wanted.shots]
    return [fit(features[each], labels[each], classes) for each in map(torch.from_numpy, chosen)]


def _tried(
    probes: Sequence[Probe], parts: Iterable[Part], tell: Callable[[int], None]
) -> tuple[list[float], int]:
    """The share of samples that each probe has right, and how many samples there are."""
    right, seen = [0] * len(probes), 0
    for features, labels in parts:
        seen += len(labels)
        right = [
            n + int((probe.predict(features) == labels).sum()) for n, probe in zip(right, probes, strict=True)
        ]
        tell(seen)
    return [n / seen for n in right], seen


def _line(shots: int, accuracies: Sequence[float]) -> dict[str, Any]:
    spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
    return {
        "shots": shots,
        "accuracy": fmean(accuracies),
        "std": spread,
        "accuracies": list(accuracies),
    }


def _of_pool(taken: ClassSample, shots: int, names: list[str] | None) -> dict[str, Any]:
    """What was read for the shots, and which classes have fewer than `shots`."""
    short = [number for number, count in enumerate(taken.kept) if count < shots]
    return {
        "read": taken.read,
        "kept": int(taken.kept.sum()),
        "undecodable": len(taken.bad),
        "short": [names[number] if names else str(number) for number in short],
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """What a person reads of `few_shot`."""
    pool = facts["pool"]
    said = [
        f"{line['shots']:>3}-shot  {line['accuracy']:.2%} ± {line['std']:.2%}  ({len(line['accuracies'])} seeds)"
        for line in facts["few_shot"]
    ]
    said.append(
        f"step {facts['step']}; {facts['classes']} classes, tried on {facts['samples']} samples of {facts['data']}; "
        f"{pool['read']} samples of {facts['train_data']} read, {pool['kept']} kept"
    )
    if pool["undecodable"]:
        said.append(f"{pool['undecodable']} did not decode and were left out")
    if short := pool["short"]:
        more = ", ..." if len(short) > NAMED else ""
        most = max(line["shots"] for line in facts["few_shot"])
        said.append(
            f"{len(short)} classes have fewer than {most} in what was read ({', '.join(short[:NAMED])}{more}): "
            "their probes have what there is; --pool N reads more"
        )
    return said
