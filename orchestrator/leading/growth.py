"""Whether a larger world is worth a restart: a pure rule, asked at a committed checkpoint only.

Seconds per step go with the rounds of a step, ceil(M/W). A larger world W' is worth it when what it saves until the next expected
loss, or the end of the run, is more than the restart takes:

    gain = min(time to the next loss, rest of the run at W') * (rounds(W) / rounds(W') - 1)  >  seconds of a restart

Leaving saves the step it leaves at, so no work is lost by it. The time to the next loss is what the run has seen, with one loss an
hour believed beforehand (`loss_every`): a cluster that flaps shortens it, and growing stops by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.order import useful_world

RESTART_S = 20.0  # until one has been seen
BELIEVED_S = 3600.0  # one loss in this time is believed before any is seen
STEADY_S = 5.0  # capacity younger than this does not count
APART_S, APART_RESTARTS = 60.0, 10.0


@dataclass(frozen=True)
class Seen:
    """What the rule rests on. `room`: workers that could be placed, at most workers.max; `slots` is M; times in seconds."""

    world: int
    room: int
    slots: int
    step_s: float | None  # of a step at `world`; None: none seen yet
    steps_left: int
    restart_s: float = RESTART_S
    loss_every_s: float = BELIEVED_S
    since_growth_s: float | None = None  # None: this driver has not grown the run
    lost_since: bool = False  # whether an attempt was lost since then


@dataclass(frozen=True)
class Verdict:
    """`world`: the one to grow to, or None; `why` in one line, without figures that change by the second."""

    world: int | None
    why: str


def consider(seen: Seen) -> Verdict:
    """Whether to grow, and to what."""
    world = useful_world(seen.room, seen.slots) if seen.room else 0
    now, then = _rounds(seen.slots, seen.world), _rounds(seen.slots, max(world, 1))
    if then >= now:
        return Verdict(None, "")
    step = f"{seen.world} -> {world} workers"
    if seen.step_s is None:
        return Verdict(None, f"{step}: no step has been timed yet")
    apart = max(APART_S, APART_RESTARTS * seen.restart_s)
    if seen.lost_since and seen.since_growth_s is not None and seen.since_growth_s < apart:
        return Verdict(None, f"{step}: a loss followed the growth before, so not within {apart:.0f} s of it")
    rest = seen.steps_left * seen.step_s * then / now
    horizon = min(seen.loss_every_s, rest)
    gain = horizon * (now / then - 1)
    until = "the end" if rest <= seen.loss_every_s else "the next expected loss"
    if gain <= seen.restart_s:
        return Verdict(None, f"{step}: would save less until {until} than a restart takes")
    return Verdict(world, f"{step}: saves {gain:.0f} s until {until}, a restart takes {seen.restart_s:.0f} s")


def _rounds(slots: int, world: int) -> int:
    return -(-slots // world)


def loss_every(losses: Sequence[float], worked_s: float, now: float) -> float:
    """Expected seconds between losses, from the Unix times of the `losses` of a run whose attempts worked for `worked_s`.

    (worked + 3600) / (losses + 1): the mean of a Poisson rate under a Gamma(1, 1 h) prior. The last hour alone counts where it has
    had two losses or more and says worse: a long calm must not hide that a cluster has begun to flap.
    """
    whole = (worked_s + BELIEVED_S) / (len(losses) + 1)
    recent = sum(now - moment < BELIEVED_S for moment in losses)
    if recent < 2:
        return whole
    return min(whole, (min(worked_s, BELIEVED_S) + BELIEVED_S) / (recent + 1))


class Room:
    """The room that has been there for STEADY_S: a node that comes and goes does not count."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def look(self, room: int, now: float) -> int:
        """Note `room` at `now` (seconds, monotonic); the least room of the last STEADY_S, 0 before so much has been seen."""
        self._seen.append((now, room))
        while len(self._seen) > 1 and self._seen[1][0] <= now - STEADY_S:
            self._seen.popleft()
        young = self._seen[0][0] > now - STEADY_S
        return 0 if young else min(room for _, room in self._seen)
