"""Notices: what says that a node will go, made into one event: node, deadline, cause, source.

A Watcher per node reads the cloud's metadata server in a thread (metadata.py), once a second, and the node's notice files whenever it is
asked: `take()` gives each notice once. `write_notice` is how everybody else says it: Kubernetes' preStop, Slurm's warning signal, an
administrator (`mixer notice`), clusters.node.

A notice whose deadline is None is advice (AWS rebalance, a live migration): the node stays as good as it was, a save is cheap, and
nobody need leave.

MIXER_NOTICES    aws, gcp, azure: this cloud, unasked, and files. file: files only. none: nothing. Else: the cloud that answers, and files
MIXER_NOTICE_DIR the folder of the files; else /tmp/mixer-notices-<uid>. It must belong to this user and be closed to the writing of others.
                 A file in it is for every node of this user on the host; one in the folder <node> below it for that node
MIXER_NODE       another name of this node, beside the one Ray gave it, where several share the folder

They are read from the environment of the raylet's processes, not of the driver.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from clusters import metadata
from clusters.announcements import Event
from clusters.metadata import Cloud

EVERY_S = 1.0
FIND_AFTER_S = (0.0, 5.0, 30.0)  # a metadata server may come up after the node
LEFTOVER_S = 60.0  # a file is no news so long after its deadline: the machine is still here, or here again
KEEP_S = 86_400.0
CHOICES = (*metadata.CLOUDS, "file", "none")


class NoticeError(Exception):
    """What the user can do something about: the text says what."""


@dataclass(frozen=True)
class Notice:
    """This node will go. deadline: Unix seconds, None for advice; source: aws, gcp, azure, file, or what else told it."""

    node: str
    deadline: float | None
    cause: str
    source: str


def write_notice(deadline_s: float | None, cause: str, node: str | None = None) -> Path:
    """Say that this host (or only `node`) goes in `deadline_s` seconds; None: advice. The file. NoticeError."""
    if deadline_s is not None and not 0 <= deadline_s < math.inf:
        raise NoticeError(f"a notice got the deadline {deadline_s} s; allowed are 0 or more seconds from now")
    folder = _folder(node or os.environ.get("MIXER_NODE"))
    _make_private(folder)
    now = time.time()
    _drop_old(folder, now)
    deadline = None if deadline_s is None else now + deadline_s
    path = folder / f"{time.time_ns():020d}-{secrets.token_hex(3)}.json"
    unseen = path.with_suffix(".new")
    try:
        unseen.write_text(json.dumps({"deadline": deadline, "cause": cause, "written": now}))
        return unseen.rename(path)
    except OSError as error:
        raise NoticeError(f"no notice can be written: {error}") from None


class Watcher:
    """Watches what concerns one node, until close(). `say` gets one line for each kind of trouble, once."""

    def __init__(self, node: str, say: Callable[[str], None] | None = None) -> None:
        self.node = node
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._said: set[tuple[str, str]] = set()
        self._read: set[Path] = set()
        self._standing: set[str] = set()  # keys of what the cloud announces and we told
        self._news: SimpleQueue[Notice] = SimpleQueue()
        self._done = threading.Event()
        self._choice = _choice()
        self._thread: threading.Thread | None = None
        if self._choice not in ("file", "none"):
            self._thread = threading.Thread(target=self._watch, name="notices", daemon=True)
            self._thread.start()

    def take(self) -> list[Notice]:
        """What is new since the last call. Never raises, never waits."""
        found = []
        with suppress(Empty):
            while True:
                found.append(self._news.get_nowait())
        return found if self._choice == "none" else [*found, *self._from_files()]

    def close(self) -> None:
        """End the thread (within some seconds; it may be asking)."""
        self._done.set()
        if self._thread:
            self._thread.join(timeout=10)

    # -- the cloud ------------------------------------------------------------------------------------------------------
    def _watch(self) -> None:
        cloud = metadata.CLOUDS[self._choice]() if self._choice else self._find()
        while cloud and not self._done.is_set():
            try:
                self._look(cloud)
            except Exception as error:  # whatever a server says, the files and the next look must come
                self._once(cloud.name, type(error).__name__, f"{error}")
            self._done.wait(EVERY_S)

    def _find(self) -> Cloud | None:
        for pause in FIND_AFTER_S:
            if self._done.wait(pause):
                return None
            if cloud := metadata.find():
                return cloud
        return None

    def _look(self, cloud: Cloud) -> None:
        events, problems = cloud.look(time.time())
        for event in events:
            if event.key not in self._standing:
                self._news.put(self._notice(event, cloud.name))
        present = {event.key for event in events}
        self._standing = self._standing | present if problems else present
        for problem in problems:
            self._once(problem.url, problem.kind, str(problem))

    # -- files ----------------------------------------------------------------------------------------------------------
    def _from_files(self) -> list[Notice]:
        found = []
        for path in self._new_files():
            self._read.add(path)
            try:
                event, written = _parse(path.read_text())
            except (OSError, ValueError, TypeError, LookupError) as error:
                self._once(str(path), "bad", f"the notice {path} is not understood: {error}")
                continue
            if (event.deadline or written) + LEFTOVER_S > time.time():
                found.append(self._notice(event, "file"))
        return found

    def _new_files(self) -> list[Path]:
        try:
            names = [None, self.node, os.environ.get("MIXER_NODE")]
            folders = dict.fromkeys(_folder(name) for name in names)
            if not _is_private(_folder(None)):
                return []
            listed = [path for folder in folders for path in sorted(folder.glob("*.json"))]
        except (OSError, NoticeError) as error:
            self._once("files", type(error).__name__, f"{error}")
            return []
        return [path for path in listed if path not in self._read]

    def _notice(self, event: Event, source: str) -> Notice:
        return Notice(self.node, event.deadline, event.cause, source)

    def _once(self, where: str, kind: str, text: str) -> None:
        if (where, kind) not in self._said:
            self._said.add((where, kind))
            self._say(f"notices of node {self.node}: {text}")


def _choice() -> str:
    """What MIXER_NOTICES asks for; empty for: find out."""
    given = os.environ.get("MIXER_NOTICES", "")
    if given and given not in CHOICES:
        raise NoticeError(f"MIXER_NOTICES got {given!r}; allowed: {', '.join(CHOICES)}, or leave it unset")
    return given


def _parse(text: str) -> tuple[Event, float]:
    """A notice file's event, and when it was written."""
    tree = json.loads(text)
    deadline = None if tree["deadline"] is None else float(tree["deadline"])
    return Event("", deadline, str(tree["cause"])), float(tree["written"])


def _folder(node: str | None) -> Path:
    base = Path(os.environ.get("MIXER_NOTICE_DIR") or f"/tmp/mixer-notices-{os.getuid()}")
    if node and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", node):
        raise NoticeError(
            f"the node's name {node!r} cannot name a folder; allowed are letters, digits and . _ -"
        )
    return base / node if node else base


def _make_private(folder: Path) -> None:
    base = _folder(None)
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        _is_private(base)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise NoticeError(
            f"no notice can be written: {error}; set MIXER_NOTICE_DIR to another folder"
        ) from None


def _is_private(base: Path) -> bool:
    """False when it is not there. NoticeError when others could write in it: /tmp belongs to everybody."""
    try:
        found = base.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise NoticeError(
            f"{base} must be a folder of user {os.getuid()} that nobody else can write in; remove it, or set MIXER_NOTICE_DIR"
        )
    return True


def _drop_old(folder: Path, now: float) -> None:
    for path in folder.glob("*.json"):
        with suppress(OSError):
            if path.stat().st_mtime < now - KEEP_S:
                path.unlink()
