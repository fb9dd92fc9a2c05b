"""A whole schedule: as many runs, one after the other, as it takes to use up its faults, each one judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.accounts.status import Book
from orchestrator.run_store import Run
from tests.chaos.judge import Verdict, faultless, judge, total
from tests.chaos.play import Played, Tell, play
from tests.chaos.scene import Scene
from tests.chaos.schedule import Planned, plan
from tests.gang import RankFailed

MOST_EMPTY_RUNS = 2  # in a row: what is left cannot be done here


@dataclass
class Told:
    """A schedule's end: the totals, and each run with its own."""

    verdict: Verdict
    runs: list[tuple[Played, Verdict]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)  # kinds that found nothing to hit for a whole run

    def as_json(self) -> dict[str, Any]:
        """The totals, then the runs with every fault."""
        runs = [
            {
                "run": played.name,
                "steps": one.steps,
                "faults": [record.as_json() for record in played.records],
            }
            for played, one in self.runs
        ]
        return {**self.verdict.as_json(), "replaced": self.replaced, "runs": runs}


def run_schedule(scene: Scene, planned: Sequence[Planned], *, seed: int, tell: Tell) -> Iterator[Told]:
    """Play `planned` on runs named chaos-<seed>-<n>; what has come of it so far, after each."""
    left, empty = list(planned), 0
    told = Told(Verdict(seed=seed))
    while left and empty < MOST_EMPTY_RUNS:
        name = f"chaos-{seed}-{len(told.runs) + 1}"
        tell(f"run {name}: {len(left)} faults to go", 0)
        played = play(scene, name, left, tell)
        left, empty = played.left, 0 if played.records else empty + 1
        if empty and (others := scene.kinds - {fault.kind for fault in left}):
            tell(f"what is left cannot be done here; {len(left)} others instead", 0)
            told.replaced += [fault.kind for fault in left]
            left = plan(seed + len(told.runs), len(left), sorted(others))
        told.runs.append((played, _judge(scene, played)))
        records = [record for played, _ in told.runs for record in played.records]
        told.verdict = total([one for _, one in told.runs], records, seed)
        tell(_line(told.runs[-1][1]), 0)
        yield told


def _judge(scene: Scene, played: Played) -> Verdict:
    book = Book(Run(f"{scene.store}/runs/{played.name}"))
    try:
        wanted = faultless(book, scene.folder / f"replay-{played.name}")
    except RankFailed as error:
        verdict = judge(played, book, {})
        verdict.problems.append(f"the replay failed: {error}")
        return verdict
    return judge(played, book, wanted)


def _line(verdict: Verdict) -> str:
    head = "nothing lost" if verdict.clean else f"WRONG: {'; '.join(verdict.problems)}"
    return (
        f"{verdict.faults} faults over {verdict.steps} steps: {verdict.samples_skipped} skipped, "
        f"{verdict.samples_repeated} repeated, {verdict.losses_unequal} losses unequal, {verdict.silent} silent; {head}"
    )
