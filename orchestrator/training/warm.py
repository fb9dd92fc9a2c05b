"""The warm server of a node: a process that has imported what a rank needs, and forks ranks off itself in milliseconds.

`python -m orchestrator.training.warm SOCKET DEVICE [compile]` listens on a unix socket. A shell connects and sends one line of JSON
(`config` for worker.main, `env` of the rank) with its stdout and stderr; the rank is forked and answers {"pid"}, then {"kind", ...} when
it is done; the server adds {"exit"}. The connection is the rank's life line: when the shell's end closes, the rank and what it started
are killed. The server itself ends when its stdin does, and takes all ranks with it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import Any

from orchestrator.errors import DamagedCheckpoint, Diverged, PeerLost, needs_the_user
from orchestrator.near import lines
from orchestrator.training.warm_files import DUMP, near_beside

_PR_SET_PDEATHSIG = 1
_REQUEST_TIMEOUT_S = 10.0


def serve(path: str, device: str, *, compiles: bool) -> None:
    """Import, listen, fork, until stdin ends."""
    preload(device)
    if compiles:
        warm_up(device)
    Server(path).run()


def preload(device: str) -> None:
    """Import what a rank would, without starting threads or touching a GPU."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # the other check would bind CUDA to this process
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch
    import torch._dynamo
    import torch._inductor.compile_fx

    from orchestrator.training import worker
    from orchestrator.training.engine import preload as preload_engine

    preload_engine(torch.device(device))
    worker.preload()


def warm_up(device: str) -> None:
    """Do once what every process's first compilation does again: probe the compiler and the CPU, fill Dynamo's tables.

    No kernel is compiled, no thread is started and no gradient computed here: those would not survive a fork.
    """
    import torch
    from torch._inductor import codecache

    if device == "cpu":
        from torch._inductor import cpp_builder, cpu_vec_isa

        cpu_vec_isa.pick_vec_isa()
        cpp_builder.get_cpp_compiler()
    codecache.torch_key()
    layer = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 4), torch.nn.GELU())
    with torch.no_grad():
        torch.compile(layer, backend="aot_eager")(torch.zeros(2, 4))
    torch._dynamo.reset()


class Server:
    """The listening socket and the life lines of the ranks."""

    def __init__(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._ranks: dict[int, socket.socket] = {}  # by pid
        self._selector = selectors.DefaultSelector()
        self._woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, self._reap)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._parent_gone)
        self._living = True

    def run(self) -> None:
        """Until stdin ends; then every rank is killed."""
        print("ready", flush=True)
        while self._living:
            for key, _ in self._selector.select():
                key.data()
        for pid in list(self._ranks):
            _kill_group(pid)
        for path in (
            self._path,
            near_beside(self._path),
        ):  # the node's memory ends with whoever holds our stdin
            with suppress(OSError):
                os.unlink(path)

    def _accept(self) -> None:
        try:
            line, _ = self._listener.accept()
        except OSError as error:  # no file descriptor is free, or the shell is gone again
            return print(f"warm: {error}", file=sys.stderr)
        try:
            line.settimeout(_REQUEST_TIMEOUT_S)
            request, files = _receive(line)
        except (OSError, ValueError) as error:
            print(f"warm: a shell's request was not understood: {error}", file=sys.stderr)
            request, files = None, []
        if request is None:
            return line.close()
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes: its shell sees the line end
            print(f"warm: {error}", file=sys.stderr)
            return line.close()
        if pid == 0:
            self._become_rank(line, request, files, server)
        for file in files:
            os.close(file)
        line.setblocking(False)
        self._ranks[pid] = line
        self._selector.register(line, selectors.EVENT_READ, lambda: self._shell_gone(pid))
        return None

    def _become_rank(
        self, line: socket.socket, request: dict[str, Any], files: list[int], server: int
    ) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.setsid()
        if os.getppid() != server:  # it died before the line above could bind us to it
            os._exit(1)
        self._selector.close()
        self._listener.close()
        for other in self._ranks.values():
            other.close()
        for number, file in zip((1, 2), files, strict=False):
            os.dup2(file, number)
            os.close(file)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        line.settimeout(None)
        os._exit(_rank(line, request))

    def _shell_gone(self, pid: int) -> None:
        """The shell has closed its end, or half of it, and waits for the rank's exit then."""
        line = self._ranks.get(pid)
        if line is not None:  # else it has been reaped in this very round
            _kill_group(pid)
            self._selector.unregister(line)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what the rank had started
            line = self._ranks.pop(pid, None)
            if line is not None:
                with suppress(KeyError):
                    self._selector.unregister(line)
                with suppress(OSError):
                    line.sendall(json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
                line.close()

    def _parent_gone(self) -> None:
        self._living = bool(os.read(sys.stdin.fileno(), 4096))


def _receive(line: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The request and the files that came with it; None for an empty line, by which an agent asks whether we are here."""
    request, files = lines.receive(line)
    if request is not None and not {"config", "env"} <= request.keys():
        raise ValueError("it lacks config or env")
    return request, files


def _rank(line: socket.socket, request: dict[str, Any]) -> int:
    """What a forked rank does; its exit code."""
    os.environ.clear()
    os.environ.update(request["env"])
    if path := os.environ.get(DUMP):
        faulthandler.register(signal.SIGUSR2, file=open(path, "w", encoding="utf-8"), all_threads=True)  # noqa: SIM115
    line.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\n")
    from orchestrator.training import worker

    try:
        result: dict[str, Any] = {"kind": "ok", "said": worker.main(request["config"])}
    except BaseException as error:
        result = describe(error)
        traceback.print_exc()
    with suppress(OSError):
        line.sendall(json.dumps(result).encode() + b"\n")
    sys.stdout.flush()
    sys.stderr.flush()
    return 0 if result["kind"] == "ok" else 1


def describe(error: BaseException) -> dict[str, Any]:
    """How a rank's error travels: its kind (peer, damaged, diverged, refused or failed), text and traceback."""
    kind = "refused" if needs_the_user(error) else "failed"
    facts: dict[str, Any] = {}
    if isinstance(error, PeerLost):
        kind = "peer"
    elif isinstance(error, DamagedCheckpoint):
        kind = "damaged"
    elif isinstance(error, Diverged):
        kind = "diverged"
        facts = {"batch": getattr(error, "batch", None), "step": getattr(error, "step", None)}
    text = "".join(traceback.format_exception(error))
    return {
        "kind": kind,
        "error": f"{type(error).__name__}: {error}",
        "text": str(error),
        "traceback": text[-8000:],
        **facts,
    }


def _kill_group(pid: int) -> None:
    """Kill a rank and what it started; its session is its process group."""
    for end in (os.killpg, os.kill):  # in its first moment it has no group of its own yet
        with suppress(ProcessLookupError, PermissionError):
            end(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], compiles="compile" in sys.argv[3:])
