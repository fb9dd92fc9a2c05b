"""The supervisor's Machines on a Ray cluster: what its living nodes hold, what will go, and attempts over placements of shells.

Desk and agents belong to this driver and go with it. A placement is used again by the next attempt when its shells live, the world is
the same and none of its nodes is to go: then a restart places nothing.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from clusters import capacity
from clusters.notices import Notice
from orchestrator.on_ray.agents import Agents
from orchestrator.on_ray.attempt import NO_ROOM, Attempt
from orchestrator.on_ray.desk import DeskGone, Line
from orchestrator.on_ray.placement import ENVIRONMENT, Placement
from orchestrator.spec import Workers

TEND_EVERY_S, ASK_EVERY_S, CROWDED_S = 1.0, 10.0, 120.0


class RayMachines:
    """The cluster at RAY_ADDRESS, or one of this machine that lives as long as this process."""

    def __init__(
        self, workers: Workers, *, compiles: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> None:
        os.environ.update(ENVIRONMENT)  # before Ray starts: its processes inherit
        capacity.connect()
        self._kind = ["cuda" if workers.gpus else "cpu", *(["compile"] if compiles else [])]
        self._say = say
        self._open()
        self._placement: Placement | None = None
        self._drained: dict[str, float | None] = {}
        self._tended = self._asked = 0.0
        self._crowded = 0, 0.0  # a world that found no room, and until when that is believed
        self._wanted = 0
        self._agents.tend(self.nodes())

    def _open(self) -> None:
        """A desk, and agents that report to it."""
        self._line, self._token = Line(), secrets.token_hex(16)
        self._agents = Agents(self._line.desk, self._token, self._kind)

    def available(self, workers: Workers, without: str | None = None) -> int:
        """Workers that the living nodes can hold, without those that are to go, and `without`."""
        out = {without, *self._going()}
        nodes = {node: has for node, has in capacity.living_nodes().items() if node not in out}
        room = capacity.count_workers(nodes, cpus=workers.cpus, gpus=workers.gpus)
        taken, until = self._crowded
        return min(room, taken - 1) if time.monotonic() < until and taken > 1 else room

    def nodes(self) -> set[str]:
        """Ids of the living nodes that are not to go."""
        return set(capacity.living_nodes()) - self._going().keys()

    def notices(self) -> list[Notice]:
        """What was announced since the last call, by the nodes' agents and by whoever drains a node in Ray."""
        self._tend()
        found = []
        with suppress(DeskGone):  # the attempt tells
            found = [Notice(**facts) for facts in self._line.notices()]
        for node, deadline in capacity.draining_nodes().items():
            if node not in self._drained and node not in [notice.node for notice in found]:
                self._drained[node] = deadline
                found.append(Notice(node, deadline, "the node is drained in Ray", "ray"))
        return found

    def drain(self, notice: Notice) -> None:
        """Place nothing more on the node of `notice`."""
        self._drained[notice.node] = notice.deadline
        try:
            capacity.drain(notice.node, deadline=notice.deadline, cause=notice.cause)
        except Exception as error:  # the node may be gone already; we place nothing there in any case
            self._say(f"node {notice.node[:12]} could not be drained in Ray: {type(error).__name__}")

    def ask_for(self, count: int, workers: Workers) -> None:
        """Ask Ray's autoscaler for room for `count` workers; 0 withdraws it."""
        if count == self._wanted and time.monotonic() - self._asked < ASK_EVERY_S:
            return
        self._wanted, self._asked = count, time.monotonic()
        bundle = {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}
        with suppress(Exception):  # a cluster without an autoscaler
            capacity.ask_for([bundle] * count)

    def attempt(self, name: str, world: int, workers: Workers, config: dict[str, Any]) -> Attempt:
        """An attempt, not started. None of the ones before it may be working."""
        self._tend()
        if self._placement is None or not self._usable(self._placement, world, workers):
            self._clear()
            if self._line.gone:
                self._agents.close()
                self._open()
                self._agents.tend(set(capacity.living_nodes()))
            self._placement = Placement(self._line, world, workers)
        return Attempt(
            self._placement,
            config["attempt"],
            config,
            line=self._line,
            token=self._token,
            room=lambda: capacity.count_workers(
                capacity.living_nodes(), cpus=workers.cpus, gpus=workers.gpus
            ),
        )

    def release(self) -> None:
        """End every worker that this driver started, by leaving the cluster."""
        with suppress(Exception):  # the cluster may be what is gone
            if self._wanted:
                capacity.ask_for([])
            self._clear()
        capacity.disconnect()

    def _usable(self, placement: Placement, world: int, workers: Workers) -> bool:
        same = (placement.world, placement.workers.cpus, placement.workers.gpus) == (
            world,
            workers.cpus,
            workers.gpus,
        )
        if placement.over or not same:
            return False
        try:
            shells = placement.board()
        except DeskGone:
            return False
        quiet = [rank for rank, heard in shells.heard.items() if shells.now - heard > 2 * TEND_EVERY_S + 5]
        on = {facts["node"] for facts in shells.arrivals.values()}
        return len(shells.arrivals) == world and not quiet and on <= self.nodes()

    def _clear(self) -> None:
        if self._placement is not None:
            self._placement.close(self._agents.kill)
            if type(self._placement.error).__name__ in NO_ROOM:  # somebody else is on those nodes
                self._crowded = self._placement.world, time.monotonic() + CROWDED_S
            self._placement = None
        capacity.free_leftovers()

    def _going(self) -> dict[str, float | None]:
        return {**capacity.draining_nodes(), **self._drained}

    def _tend(self) -> None:
        """See to it that every node has its agent."""
        if time.monotonic() - self._tended > TEND_EVERY_S:
            self._tended = time.monotonic()
            self._agents.tend(set(capacity.living_nodes()))
            with suppress(DeskGone):
                for complaint in self._line.complaints():
                    self._say(complaint)
