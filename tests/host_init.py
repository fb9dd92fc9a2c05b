"""Inside of a host (tests/hosts.py), as a program: `boot` is its first process, `enter` starts another in it.

boot NETNS NAME FOLDER: joins the network namespace, makes the others, forks process 1 of the host, which
mounts what a host has of its own and then only reaps; writes its pid to FOLDER/ready, and ends it when
standard input closes. enter PID PROGRAM...: joins the namespaces of PID, passes signals on, ends as the
program ends. Standard library only, and no import that `python -I -S` does not have.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
BIND, REC, PRIVATE = 4096, 16384, 1 << 18
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
SHARED_MEMORY = b"size=2g"
_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: str, kind: int) -> None:
    """Join the namespace at `path`: this thread only, where it is a network's."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(handle, kind), path)
    finally:
        os.close(handle)


def _boot(name_of_network: str, name: str, folder: str) -> None:
    enter(f"/run/netns/{name_of_network}", NEWNET)
    _check(_libc.unshare(NEWNS | NEWUTS | NEWIPC | NEWPID), "unshare")
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        _die_with_parent()
        _furnish(name, folder)
        os.write(said, b"1")
        os.close(said)
        _reap_for_ever()
    os.close(said)
    if os.read(heard, 1):
        with open(f"{folder}/ready.new", "w") as file:
            file.write(str(child))
        os.rename(f"{folder}/ready.new", f"{folder}/ready")
        ended = os.pidfd_open(child)
        select.select([sys.stdin.fileno(), ended], [], [])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _furnish(name: str, folder: str) -> None:
    os.setsid()
    _check(_libc.sethostname(name.encode(), len(name)), "sethostname")
    _mount(None, "/", None, REC | PRIVATE)
    _mount("proc", "/proc", "proc")
    _mount("tmpfs", "/dev/shm", "tmpfs", data=SHARED_MEMORY)
    os.makedirs("/tmp/ray", exist_ok=True)
    _mount(f"{folder}/ray", "/tmp/ray", None, BIND)
    _mount(f"{os.path.dirname(folder)}/hosts", "/etc/hosts", None, BIND)
    if os.path.exists("/etc/resolv.conf"):  # there is nobody to ask, and asking takes seconds
        _mount(os.devnull, "/etc/resolv.conf", None, BIND)


def _reap_for_ever() -> None:
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps for who ignores
    while True:
        signal.pause()


def _enter(pid: str, argv: list[str]) -> int:
    cwd = os.getcwd()
    for kind, flag in (("net", NEWNET), ("uts", NEWUTS), ("ipc", NEWIPC), ("pid", NEWPID), ("mnt", NEWNS)):
        enter(f"/proc/{pid}/ns/{kind}", flag)
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    child = os.fork()
    if child == 0:
        _die_with_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        os.chdir(cwd)
        os.execvp(argv[0], argv)
    for number in PASSED_ON:
        signal.signal(number, lambda given, _: os.kill(child, given))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _die_with_parent() -> None:
    _libc.prctl(1, signal.SIGKILL)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int = 0, data: bytes | None = None
) -> None:
    texts = [text.encode() if text else None for text in (source, target, kind)]
    _check(_libc.mount(*texts, ctypes.c_ulong(flags), data), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    if sys.argv[1] == "boot":
        _boot(*sys.argv[2:])
    else:
        sys.exit(_enter(sys.argv[2], sys.argv[3:]))
