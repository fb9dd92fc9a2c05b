"""The desk: a small Ray actor of the driver, where shells and node agents report and the driver gives orders.

Everything here is about one driver; what must outlive it is in the bucket. A *placement* is a group of shells; its number is given
by the driver. An order is {"number", "kind": start | kill | dump | leave, ...} and stands until the next one. The driver waits for news
with `changed`, so what a shell reports is known in milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from clusters import capacity
from orchestrator.errors import MixerError

LONG_POLL_S = 5.0
DRIVER_AWAY_S = 120.0  # a shell without work does not wait longer for a driver that says nothing
ANSWER_S, AGAIN_S = 30.0, 0.2


@dataclass
class Board:
    """What the desk knows of one placement, by rank."""

    arrivals: dict[int, dict[str, Any]] = field(default_factory=dict)  # node, ip, pid, port
    reports: dict[int, dict[str, Any]] = field(default_factory=dict)  # of the attempt that was ordered last
    pulses: dict[int, dict[str, Any]] = field(default_factory=dict)
    heard: dict[int, float] = field(
        default_factory=dict
    )  # when a shell was last heard of, on the desk's monotonic clock
    order: dict[str, Any] | None = None
    now: float = 0.0


class Desk:
    """The actor. Asynchronous: every method runs on one event loop."""

    def __init__(self) -> None:
        self._boards: dict[int, Board] = {}
        self._notices: list[dict[str, Any]] = []
        self._complaints: list[str] = []
        self._version = 0
        self._driver_seen = time.monotonic()
        self._news = asyncio.Condition()

    # -- shells and agents ----------------------------------------------------------------------------------------------
    async def arrive(self, placement: int, rank: int, facts: dict[str, Any]) -> None:
        """A shell is there and waits for orders."""
        board = self._board(placement)
        board.arrivals[rank] = facts
        board.heard[rank] = time.monotonic()
        await self._tell()

    async def order(self, placement: int, rank: int, after: int) -> dict[str, Any] | None:
        """The order that stands, when its number is above `after`; None when there was none for some seconds."""
        board = self._board(placement)
        deadline = time.monotonic() + LONG_POLL_S
        while board.order is None or board.order["number"] <= after:
            board.heard[rank] = time.monotonic()
            if time.monotonic() - self._driver_seen > DRIVER_AWAY_S:
                return {
                    "number": after + 1,
                    "kind": "leave",
                }  # the run may be another driver's, and want the room
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            await self._wait(left)
        return board.order

    async def report(self, placement: int, rank: int, attempt: int, facts: dict[str, Any]) -> None:
        """How a rank ended, or its stack (`facts["kind"] == "dump"`)."""
        board = self._board(placement)
        board.heard[rank] = time.monotonic()
        if facts.get("port"):
            board.arrivals[rank]["port"] = facts["port"]
        if board.order is not None and board.order.get("attempt") == attempt:
            kept = board.reports.setdefault(rank, {})
            kept.update({"dump": facts["dump"]} if facts["kind"] == "dump" else facts)
        await self._tell()

    async def pulse(self, placement: int, rank: int, attempt: int, facts: dict[str, Any]) -> None:
        """What a rank is doing."""
        board = self._board(placement)
        board.heard[rank] = time.monotonic()
        if board.order is not None and board.order.get("attempt") == attempt:
            board.pulses[rank] = {**facts, "at": time.monotonic()}

    async def notice(self, facts: dict[str, Any]) -> None:
        """A node will go, or should be left."""
        self._notices.append(facts)
        await self._tell()

    async def complain(self, text: str) -> None:
        """Something that the run's user should know of."""
        self._complaints.append(text)

    # -- the driver -----------------------------------------------------------------------------------------------------
    async def command(self, placement: int, order: dict[str, Any]) -> None:
        """Give an order; `start` clears what was reported before."""
        board = self._board(placement)
        if board.order is not None and order["number"] <= board.order["number"]:
            return  # it came before; its answer was lost
        if order["kind"] == "start":
            board.reports, board.pulses = {}, {}
        board.order = order
        await self._tell()

    async def look(self, placement: int) -> Board:
        """What is known now."""
        board = self._board(placement)
        board.now = self._driver_seen = time.monotonic()
        return board

    async def forget(self, placement: int) -> None:
        """The placement is over."""
        self._boards.pop(placement, None)

    async def notices(self, seen: int) -> list[dict[str, Any]]:
        """The notices after the first `seen`."""
        self._driver_seen = time.monotonic()
        return self._notices[seen:]

    async def complaints(self, seen: int) -> list[str]:
        """What was complained of, after the first `seen`."""
        return self._complaints[seen:]

    async def changed(self, version: int, seconds: float) -> int:
        """Returns when something was reported since `version`, or after `seconds`; the version now."""
        if self._version == version:
            await self._wait(seconds)
        return self._version

    def _board(self, placement: int) -> Board:
        return self._boards.setdefault(placement, Board())

    async def _tell(self) -> None:
        async with self._news:
            self._version += 1
            self._news.notify_all()

    async def _wait(self, seconds: float) -> None:
        try:
            async with self._news:
                await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return


class DeskGone(MixerError):
    """The desk's process has ended. Its shells end by themselves; what it knew is worth nothing without them."""


class Line:
    """The driver's end: a desk on the driver's own node, asked and waited for. DeskGone once it has ended.

    What is asked may be asked twice, when the way to the desk broke before the answer came.
    """

    def __init__(self) -> None:
        import ray

        options = {
            "num_cpus": 0,
            "scheduling_strategy": capacity.on_node(capacity.here()),
            "max_concurrency": 1000,
        }
        self.desk = ray.remote(Desk).options(**options).remote()
        self.gone = False
        self._notices = self._complaints = 0

    def notices(self) -> list[dict[str, Any]]:
        """Those since the last call."""
        found: list[dict[str, Any]] = self.ask("notices", self._notices)
        self._notices += len(found)
        return found

    def complaints(self) -> list[str]:
        """Those since the last call."""
        found: list[str] = self.ask("complaints", self._complaints)
        self._complaints += len(found)
        return found

    def ask(self, method: str, *args: Any) -> Any:
        """What the desk's `method` returns."""
        import ray

        if self.gone:
            raise DeskGone("the desk of this driver has ended")
        until = time.monotonic() + ANSWER_S
        while True:
            try:
                return ray.get(getattr(self.desk, method).remote(*args), timeout=ANSWER_S)
            except ray.exceptions.ActorUnavailableError as error:  # the way to it broke: it may live
                if time.monotonic() > until:
                    raise self._lost("cannot be reached", method, error) from error
                time.sleep(AGAIN_S)
            except ray.exceptions.RayActorError as error:
                raise self._lost("has ended", method, error) from error
            except ray.exceptions.GetTimeoutError as error:
                raise self._lost(f"does not answer within {ANSWER_S:.0f} s", method, error) from error

    def _lost(self, how: str, method: str, error: Exception) -> DeskGone:
        import ray

        self.gone = True
        ray.kill(self.desk)
        why = " ".join(str(error).split())[:300]
        return DeskGone(f"the desk of this driver {how} ({method}); its workers end with it. Ray says: {why}")
