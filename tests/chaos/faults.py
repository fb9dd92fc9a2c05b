"""What can be done to a run. Each function does one fault on a Stage and says what it hit; None when there was nothing to hit.

What belongs to a fault and comes later (a process goes on, a node's deadline passes, the store answers again) is left in
`Stage.later`, for the player to do when it is time.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from types import MappingProxyType

from clusters.processes import Process
from tests.chaos.disk import Disk
from tests.chaos.keeper import awaken
from tests.chaos.schedule import Planned
from tests.chaos.stage import Stage, scaled
from tests.chaos.store_faults import strike_store

HANG_LIMIT_S = 90.0  # a run that has not ended its stopped rank by then does not see hangs
SQUEEZE_LIMIT_S = 15.0
GCS_AWAY_S = 2.0
SIZES = ((1, 1), (1, 2), (1, 3))  # a larger minimum would rightly wait for machines that do not come
FEWEST_NODES = 1  # besides the head


Fault = Callable[[Stage, Planned], str | None]


def strike(stage: Stage, planned: Planned) -> str | None:
    """Do the fault; what it hit."""
    if planned.kind.startswith("store "):
        return strike_store(stage, planned)
    return FAULTS[planned.kind](stage, planned)


# -- processes --------------------------------------------------------------------------------------------------------------
def _rank(stage: Stage, planned: Planned) -> tuple[int, Process] | None:
    ranks = stage.ranks()
    return ranks[int(planned.pick * len(ranks))] if ranks else None


def _kill_rank(stage: Stage, planned: Planned) -> str | None:
    if (target := _rank(stage, planned)) is None:
        return None
    target[1].signal(signal.SIGKILL)
    return f"rank {target[0]}"


def _kill_ranks(stage: Stage, planned: Planned) -> str | None:
    ranks = stage.ranks()
    for _, process in ranks:
        process.signal(signal.SIGKILL)
    return f"ranks {', '.join(str(rank) for rank, _ in ranks)}" if ranks else None


def _pause_rank(stage: Stage, planned: Planned) -> str | None:
    if (target := _rank(stage, planned)) is None:
        return None
    seconds = scaled(planned, 0.5, 4.0)
    target[1].signal(signal.SIGSTOP)
    stage.after(seconds, planned, lambda: _go_on(target[1]))
    return f"rank {target[0]} for {seconds:.1f} s"


def _go_on(process: Process) -> str:
    process.signal(signal.SIGCONT)
    return ""


def _hang_rank(stage: Stage, planned: Planned) -> str | None:
    if (target := _rank(stage, planned)) is None:
        return None
    target[1].signal(signal.SIGSTOP)
    stage.after(HANG_LIMIT_S, planned, lambda: _unseen(target[1]))
    return f"rank {target[0]}"


def _unseen(process: Process) -> str:
    if not process.alive():
        return ""
    process.signal(signal.SIGKILL)
    return "UNSEEN: nobody ended the stopped process"


def _kill_shell(stage: Stage, planned: Planned) -> str | None:
    shells = stage.arena.shells([process for _, process in stage.ranks()])
    if not shells:
        return None
    shells[int(planned.pick * len(shells))].signal(signal.SIGKILL)
    return f"one of {len(shells)} processes of Ray"


def _squeeze(stage: Stage, planned: Planned) -> str | None:
    if (target := _rank(stage, planned)) is None:
        return None
    stage.arena.squeeze(target[1])
    stage.after(SQUEEZE_LIMIT_S, planned, lambda: "it needed no memory" if target[1].alive() else "")
    return f"rank {target[0]}"


# -- machines ---------------------------------------------------------------------------------------------------------------
def _node(stage: Stage, planned: Planned) -> int | None:
    """A node that may go, rather one with ranks; another one joins first where too few would be left."""
    if len(stage.arena.nodes()) <= FEWEST_NODES:
        stage.arena.add_node()
    nodes = stage.arena.nodes()
    if len(nodes) <= FEWEST_NODES:
        return None  # what joins is not up yet
    busy = [node for _, process in stage.ranks() if (node := stage.arena.node_of(process)) in nodes]
    choice = sorted({node for node in busy if node is not None}) or nodes
    return choice[int(planned.pick * len(choice))]


def _cut_power(stage: Stage, planned: Planned) -> str | None:
    node = _node(stage, planned)
    if node is None:
        return None
    stage.arena.cut_power(node)
    return f"node {node}"


def _kill_raylet(stage: Stage, planned: Planned) -> str | None:
    node = _node(stage, planned)
    if node is None:
        return None
    stage.arena.kill_raylet(node)
    return f"node {node}"


def _cut_cable(stage: Stage, planned: Planned) -> str | None:
    node = _node(stage, planned)
    if node is None:
        return None
    seconds = scaled(planned, 2.0, 20.0)
    stage.arena.cut_cable(node)
    stage.after(seconds, planned, lambda: _healed(stage, node))
    return f"node {node} for {seconds:.1f} s"


def _healed(stage: Stage, node: int) -> str:
    stage.arena.heal_cable(node)
    return ""


def _join(stage: Stage, planned: Planned) -> str | None:
    node = stage.arena.add_node()
    return None if node is None else f"node {node}"


def _announced(tell: Callable[[Stage, int, float], None]) -> Fault:
    def fault(stage: Stage, planned: Planned) -> str | None:
        node = _node(stage, planned)
        if node is None:
            return None
        seconds = scaled(planned, 5.0, 20.0)
        tell(stage, node, seconds)
        stage.after(seconds, planned, lambda: _gone(stage, node))
        return f"node {node} in {seconds:.1f} s"

    return fault


def _gone(stage: Stage, node: int) -> str:
    stage.arena.cut_power(node)  # also where Ray on it has ended by itself: a drained raylet does
    return ""


def _kill_gcs(stage: Stage, planned: Planned) -> str | None:
    stage.arena.kill_gcs()
    stage.after(GCS_AWAY_S, planned, lambda: _head_is_back(stage))
    return "gcs_server"


def _cut_head(stage: Stage, planned: Planned) -> str | None:
    seconds = scaled(planned, 4.0, 15.0)
    stage.arena.cut_head()
    stage.after(seconds, planned, lambda: _head_is_back(stage))
    return f"head for {seconds:.1f} s"


def _head_is_back(stage: Stage) -> str:
    stage.arena.restart_head()
    return ""


# -- the store's disk ---------------------------------------------------------------------------------------------------------
def _full_disk(stage: Stage, planned: Planned) -> str | None:
    if (disk := stage.disk) is None:
        return None
    seconds = scaled(planned, 2.0, 12.0)
    size = disk.fill()
    stage.after(seconds, planned, lambda: _freed(disk))
    return f"for {seconds:.1f} s, {size >> 20} MB were free"


def _freed(disk: Disk) -> str:
    disk.free()
    return ""


# -- drivers ----------------------------------------------------------------------------------------------------------------
def _kill_driver(stage: Stage, planned: Planned) -> str | None:
    if stage.keeper.driver.poll() is not None:
        return None
    return f"pid {stage.keeper.kill()}"


def _rival(stage: Stage, planned: Planned) -> str | None:
    if stage.keeper.driver.poll() is not None or not stage.watch.entries:
        return None
    seconds = scaled(planned, 8.0, 40.0)  # 30 s without a sign make a holder stale
    old = stage.keeper.rival()
    stage.after(seconds, planned, lambda: awaken(stage.arena, old))
    return f"pid {old.pid} for {seconds:.1f} s"


def _stop(stage: Stage, planned: Planned) -> str | None:
    if stage.keeper.driver.poll() is not None or not stage.watch.seen[-1].attempt:
        return None
    stage.keeper.expected.add(stage.keeper.driver.pid)
    asked = stage.keeper.ask("stop")
    stage.after(45.0, planned, lambda: "" if asked.poll() is not None else "mixer stop still waits")
    return "mixer stop"


def _scale(stage: Stage, planned: Planned) -> str | None:
    if not stage.watch.seen[-1].training:
        return None
    world = stage.watch.seen[-1].world
    sizes = [size for size in SIZES if not size[0] <= world <= size[1]] or list(SIZES)
    low, high = sizes[int(planned.pick * len(sizes))]
    stage.keeper.ask("scale", f"{low}:{high}")
    return f"{world} -> {low}:{high}"


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "kill rank": _kill_rank,
        "kill ranks": _kill_ranks,
        "pause rank": _pause_rank,
        "hang rank": _hang_rank,
        "kill shell": _kill_shell,
        "memory": _squeeze,
        "cut power": _cut_power,
        "cut cable": _cut_cable,
        "kill raylet": _kill_raylet,
        "kill gcs": _kill_gcs,
        "cut head": _cut_head,
        "join": _join,
        "notice": _announced(lambda stage, node, seconds: stage.arena.notice(node, seconds)),
        "drain": _announced(lambda stage, node, seconds: stage.arena.drain(node, seconds)),
        "kill driver": _kill_driver,
        "rival driver": _rival,
        "stop": _stop,
        "scale": _scale,
        "full disk": _full_disk,
    }
)
