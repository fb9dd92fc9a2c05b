"""A schedule of faults against loaders that go on and on: every batch is held against the undisturbed run.

Fault begins -> loaders (some world size, some number of threads) take steps until it was met -> either every batch has
the ids, labels and pixels of the undisturbed run, or an error names the object; then the fault is healed and the loaders
begin again where the error struck. What counts as lost: another batch, an error without a name, an error where the fault
was a passing one, a sample that was substituted, a step that neither came nor failed in time.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.loading import loader as loader_module
from data_pipeline.loading.loader import Batch, Loader
from data_pipeline.order import Order, owned_slots
from data_pipeline.pixels.augment import Recipe
from data_pipeline.shards.dataset import Dataset
from tests.data_faults.kinds import Fault, draw
from tests.data_faults.scene import BATCH, GEOMETRY, MICRO, Scene

SLOTS = BATCH // MICRO
STEPS_TO_MEET = 60
STEP_LIMIT_S = 120.0
PATIENCE_S = 3.0  # of the store, so that what lasts is raised soon
RECIPE = Recipe(12, scale=(0.3, 1.0), randaugment=(2, 15.0))


@dataclass
class Told:
    """What came of a schedule. `lost` names everything that should not have been."""

    seed: int
    met: Counter[str] = field(default_factory=Counter)
    raised: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    steps: int = 0
    retries: float = 0
    hedges: float = 0
    late: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return sum(self.met.values())


def play(
    scene: Scene, seed: int, faults: int, tell: Callable[[Told, str], None] = lambda told, line: None
) -> Told:
    """As many faults as asked for, each of them met."""
    told, dice = Told(seed), random.Random(seed)
    run, number = _Run(scene, told, dice), 0
    small, loader_module.SMALL_BYTES = loader_module.SMALL_BYTES, 0  # else one thread makes such small images
    try:
        while told.faults < faults and len(told.lost) < 10:
            number += 1
            fault = draw(number, scene.shards, dice)
            line = run.meet(fault)
            tell(told, f"{number:5d}  {fault.kind}: {line}")
    finally:
        run.close()
        loader_module.SMALL_BYTES = small
    return told


class _Run:
    """Loaders of all ranks of some world, and how far they are."""

    def __init__(self, scene: Scene, told: Told, dice: random.Random) -> None:
        self._scene, self._told, self._dice = scene, told, dice
        self._expected = _undisturbed(scene)
        self._known: dict[int, str] = {}
        self._step = 0
        self._loaders: list[Loader] = []
        self._pool = ThreadPoolExecutor(1)

    def meet(self, fault: Fault) -> str:
        """Let a fault happen, and heal it; what it did."""
        if fault.reopen:
            self._end()
        self._scene.begin(fault)
        outcome = "missed"
        try:
            for _ in range(STEPS_TO_MEET):
                raised = self._one_step(fault)
                if raised or (not fault.lasting and self._met(fault)):
                    outcome = raised or "delivered"
                    break
        finally:
            hits = self._scene.heal(fault)
        if outcome == "missed" or not hits:
            self._told.missed += 1
            return "missed: nothing read what it is about"
        self._told.met[fault.kind] += 1
        self._one_step(None)
        return outcome

    def _met(self, fault: Fault) -> bool:
        """Whether a passing fault has happened. A rule is looked up in the proxy by its counts."""
        return self._scene.front.met(fault.number) > 0

    def _one_step(self, fault: Fault | None) -> str:
        """The next step of all ranks; the error it ended in, empty where it came."""
        try:
            batches = self._pool.submit(self._take).result(STEP_LIMIT_S)
        except Late:
            self._told.lost.append(f"step {self._step} hangs under {fault}")
            self._end()
        except DataError as error:
            self._end()
            return self._judge(fault, error)
        else:
            if _digest(batches) != self._wanted(self._step):
                self._told.lost.append(f"step {self._step} differs under {fault}")
            self._step += 1
            self._told.steps += 1
        return ""

    def _take(self) -> list[Batch]:
        if not self._loaders:
            self._open()
        return [next(loader) for loader in self._loaders]

    def _open(self) -> None:
        world, threads = self._dice.choice([1, 2, 3, 5]), self._dice.choice([1, 4])
        dataset = Dataset.open(self._scene.url)
        dataset.store.patience_s = PATIENCE_S
        for rank in range(world):
            slots = owned_slots(rank, world, SLOTS)
            of_rank: dict[str, Any] = {"slots": slots, "threads": threads, "position": self._step * BATCH}
            told: dict[str, Any] = {"on_bad": self._substituted, "on_late": self._late}
            self._loaders.append(
                Loader(dataset, Order(GEOMETRY), RECIPE, batch=BATCH, micro_batch=MICRO, **of_rank, **told)
            )

    def _judge(self, fault: Fault | None, error: DataError) -> str:
        text = f"{type(error).__name__}: {error}"
        named = fault is not None and (fault.shard or ".") in text and ".tar" in text
        if fault is None or not fault.lasting or not named:
            self._told.lost.append(f"step {self._step} under {fault}: {text}")
        self._told.raised[type(error).__name__] += 1
        return text

    def _substituted(self, facts: dict[str, Any]) -> None:
        self._told.lost.append(f"step {self._step}: a sample was substituted: {facts}")

    def _late(self, facts: dict[str, Any]) -> None:
        self._told.late += 1

    def _wanted(self, step: int) -> str:
        while step not in self._known:
            number, digest = next(self._expected)
            self._known[number] = digest
        return self._known.pop(step) if step + 1 in self._known else self._known[step]

    def _end(self) -> None:
        for loader in self._loaders:
            stats = loader.stats()
            self._told.retries += stats["retries"]
            self._told.hedges += stats.get("hedges", 0)
            loader.close()
        self._loaders = []

    def close(self) -> None:
        self._end()
        self._pool.shutdown(wait=False)
        self._expected.close()  # type: ignore[attr-defined]


def _undisturbed(scene: Scene) -> Iterator[tuple[int, str]]:
    """(step, digest) of the run that reads the folder, at world 1, in one thread."""
    options: dict[str, Any] = {"batch": BATCH, "micro_batch": MICRO, "slots": range(SLOTS), "position": 0}
    with Loader(Dataset.open(scene.plain), Order(GEOMETRY), RECIPE, threads=1, **options) as loader:
        for step, batch in enumerate(loader):
            yield step, _digest([batch])


def _digest(batches: list[Batch]) -> str:
    """Of ids, labels and pixels of a step, in slot order."""
    found = hashlib.sha256()
    for micro in sorted((m for batch in batches for m in batch.micro_batches), key=lambda m: m.slot):
        found.update(micro.ids.tobytes() + micro.labels.numpy().tobytes() + micro.images.numpy().tobytes())
    return found.hexdigest()
