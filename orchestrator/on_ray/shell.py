"""What Ray Train starts as a worker: a shell that holds the place, and runs one rank after another as a process of its own.

A shell imports no torch. It arrives at the desk, and on each order has the warm server of its node fork a rank, tells the desk what
the rank is doing and how it ended, and waits for the next order. A rank that dies leaves its shell in place: the next attempt needs no
placing. A shell that dies takes its rank with it (training/warm.py).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from clusters.processes import free_port
from orchestrator.near.client import ENVIRONMENT as NEAR
from orchestrator.on_ray.rank import Rank, stack_of
from orchestrator.training import pulse
from orchestrator.training.warm_files import DUMP, near_socket_of, socket_of

PULSE_EVERY_S, LOOK_EVERY_S, SERVER_WAIT_S = 0.25, 0.02, 120.0
DESK_WAIT_S = 40.0  # a little longer than the driver
_SIOCGIFADDR = 0x8915  # Linux: an interface's address


@dataclass(frozen=True)
class Seat:
    """A shell's place in its placement."""

    placement: int
    rank: int
    local_rank: int
    world: int
    local_world: int
    node: str
    ip: str


class NoWarmServer(Exception):
    """The node's warm server does not answer."""


class Shell:
    """Serves orders until told to leave, or until the desk is gone."""

    def __init__(self, desk: Any, seat: Seat) -> None:
        self._desk, self._seat = desk, seat
        self._number = 0
        self._order: dict[str, Any] | None = None
        self._gone = Event()
        self._folder = Path(tempfile.mkdtemp(prefix="mixer-rank-", dir=_memory_folder()))
        self._listener = Thread(target=self._listen, name="orders", daemon=True)

    def serve(self) -> None:
        """Arrive, then run a rank for each start order."""
        seat = self._seat
        facts = {"node": seat.node, "ip": seat.ip, "pid": os.getpid(), "port": free_port()}
        self._call("arrive", facts)
        self._listener.start()
        try:
            while not self._gone.is_set():
                order = self._next()
                if order is None or order["kind"] == "leave":
                    return
                if order["kind"] == "start":
                    self._run(order)
        finally:
            for left in self._folder.iterdir():
                left.unlink()
            self._folder.rmdir()

    # -- orders ---------------------------------------------------------------------------------------------------------
    def _listen(self) -> None:
        import ray

        number, heard = 0, time.monotonic()
        while not self._gone.is_set():
            try:
                order = ray.get(self._desk.order.remote(self._seat.placement, self._seat.rank, number))
                heard = time.monotonic()
            except ray.exceptions.ActorUnavailableError:  # the way to it broke: it may live
                if time.monotonic() > heard + DESK_WAIT_S:
                    self._gone.set()
                time.sleep(LOOK_EVERY_S)
                continue
            except Exception:  # the desk went with its driver
                self._gone.set()
                return
            if order is not None:
                self._order, number = order, order["number"]

    def _next(self) -> dict[str, Any] | None:
        """The next order that is new, None when there will be none."""
        while not self._gone.is_set():
            if (order := self._new()) is not None:
                return order
            time.sleep(LOOK_EVERY_S)
        return None

    def _new(self) -> dict[str, Any] | None:
        """The order that stands, when it was not taken before; now it is."""
        order = self._waiting()
        if order is not None:
            self._number = order["number"]
        return order

    def _waiting(self) -> dict[str, Any] | None:
        order = self._order
        return order if order is not None and order["number"] > self._number else None

    # -- a rank ---------------------------------------------------------------------------------------------------------
    def _run(self, order: dict[str, Any]) -> None:
        attempt, marks, dump = order["attempt"], self._folder / "pulse", self._folder / "stack"
        marks.unlink(missing_ok=True)
        try:
            line = self._connect(socket_of(self._seat.node, order["warm"]))
            rank = Rank(line, order["config"], self._env(order, marks, dump))
        except (OSError, NoWarmServer) as error:
            return self._report(attempt, {"kind": "died", "error": f"{type(error).__name__}: {error}"})
        told = 0.0
        try:
            while not rank.over and not self._gone.is_set():
                rank.look()
                if time.monotonic() - told >= PULSE_EVERY_S:
                    told = time.monotonic()
                    self._tell_pulse(attempt, rank, marks)
                if (waiting := self._waiting()) is not None:
                    if waiting["kind"] != "dump":
                        break  # it is for serve(), when this rank is gone
                    self._new()
                    self._report(attempt, {"kind": "dump", "dump": stack_of(rank, dump)})
                time.sleep(LOOK_EVERY_S)
        finally:
            rank.kill()
        return self._report(attempt, rank.outcome())

    def _connect(self, path: str) -> socket.socket:
        """To the warm server, which may still be importing. NoWarmServer when it stays away, or another order comes."""
        deadline = time.monotonic() + SERVER_WAIT_S
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(path)
                return line
            except (FileNotFoundError, ConnectionRefusedError):
                line.close()
            if time.monotonic() > deadline:
                raise NoWarmServer(f"the warm server of this node did not answer in {SERVER_WAIT_S:.0f} s")
            if self._gone.is_set() or self._waiting() is not None:
                raise NoWarmServer("the order was withdrawn before the warm server of this node answered")
            time.sleep(LOOK_EVERY_S)

    def _tell_pulse(self, attempt: int, rank: Rank, marks: Path) -> None:
        beat = pulse.read(str(marks))
        now = time.monotonic()
        unmarked = {"phase": "start", "step": 0, "age_s": now - rank.asked, "busy_s": 0.0}
        facts = beat.facts(now) if beat else unmarked
        self._call("pulse", attempt, {**facts, "stopped_s": rank.stopped_s(), "pid": rank.pid}, wait=False)

    def _report(self, attempt: int, facts: dict[str, Any]) -> None:
        if facts["kind"] != "dump":
            facts = {**facts, "port": free_port()}
        self._call("report", attempt, facts)

    def _env(self, order: dict[str, Any], marks: Path, dump: Path) -> dict[str, str]:
        seat = self._seat
        place = {
            "RANK": seat.rank,
            "LOCAL_RANK": seat.local_rank,
            "WORLD_SIZE": seat.world,
            "LOCAL_WORLD_SIZE": seat.local_world,
            "MASTER_ADDR": order["master"][0],
            "MASTER_PORT": order["master"][1],
            "OMP_NUM_THREADS": max(1, int(order["config"]["cpus"])),
            "MIXER_NODE": seat.node,
            pulse.ENVIRONMENT: marks,
            DUMP: dump,
            NEAR: near_socket_of(seat.node, order["warm"]),
        }
        env = dict(os.environ)
        if card := interface_of(seat.ip):  # a host's own name may stand for another of its addresses
            env = {"GLOO_SOCKET_IFNAME": card, "NCCL_SOCKET_IFNAME": card, **env}
        if not order["config"]["gpus"]:
            env["CUDA_VISIBLE_DEVICES"] = (
                ""  # Ray leaves a machine's GPUs in sight of workers that asked for none
            )
        return {**env, **{key: str(value) for key, value in place.items()}}

    def _call(self, method: str, *args: Any, wait: bool = True) -> None:
        import ray

        until = time.monotonic() + DESK_WAIT_S
        with suppress(Exception):  # a desk that is gone is noticed by the listener
            while not self._gone.is_set():
                answer = getattr(self._desk, method).remote(self._seat.placement, self._seat.rank, *args)
                try:
                    if wait:
                        ray.get(answer)
                    return
                except ray.exceptions.ActorUnavailableError:
                    if time.monotonic() > until:
                        return
                    time.sleep(LOOK_EVERY_S)


def run_shell(config: dict[str, Any]) -> None:
    """What Ray Train calls on each worker: config is {"desk", "placement"}."""
    import ray
    from ray.train import get_context

    context = get_context()
    seat = Seat(
        placement=config["placement"],
        rank=context.get_world_rank(),
        local_rank=context.get_local_rank(),
        world=context.get_world_size(),
        local_world=context.get_local_world_size(),
        node=ray.get_runtime_context().get_node_id(),
        ip=ray.util.get_node_ip_address(),
    )
    Shell(config["desk"], seat).serve()


def interface_of(ip: str) -> str | None:
    """The network interface that has the IPv4 address `ip`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == ip:
                    return name
    return None


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
