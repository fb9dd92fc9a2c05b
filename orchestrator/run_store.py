"""The bucket's layout for one run, and who may lead it.

`<store>/runs/<run>/` holds spec.yaml, log/, holder.json, requests/, control/, progress/, events/, checkpoints/, exports. A Run is
this folder; it knows keys and small objects, and nothing of training. A driver shows it is alive in `holder.json` (rewritten every
10 s, advisory); what fences a stale driver is the log.
"""

from __future__ import annotations

import difflib
import json
import os
import secrets
import socket
import string
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from data_pipeline.storage import NotFound, Store, StoreError, open_store
from orchestrator.errors import RunBusy, UserError
from orchestrator.frozen import Frozen
from orchestrator.run_log import Entry, RunLog, new_writer
from orchestrator.spec_text import validate

HOLDER_EVERY_S, HOLDER_STALE_S = 10.0, 30.0
MENTIONED = 8  # names of runs, in a message
_ALPHABET = string.ascii_lowercase + string.digits


@dataclass(frozen=True)
class Holder:
    """Who leads a run: writer, host, pid, and when it last said so (Unix seconds)."""

    writer: str
    host: str
    pid: int
    since: float
    seen: float
    job: str | None = None
    claim: int = 0  # the log number by which it leads

    def alive(self, now: float) -> bool:
        """Fresh; a holder of this host whose process is gone is not alive however fresh."""
        fresh = now - self.seen < HOLDER_STALE_S
        return fresh and not (self.host == host_id() and not _process_exists(self.pid))


def host_id() -> str:
    """This host and its boot and pid namespace, so that a pid is compared only where it means something."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()[:8]
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot}/{space}"


def _process_exists(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


class Run:
    """One run's folder in the bucket."""

    def __init__(self, url: str, *, patience_s: float | None = None) -> None:
        self.url = url.rstrip("/")
        self.name = self.url.rsplit("/", 1)[-1]
        self.store: Store = (
            open_store(self.url) if patience_s is None else open_store(self.url, patience_s=patience_s)
        )

    def exists(self) -> bool:
        """Whether a run lies here."""
        return self.store.head("spec.yaml") is not None

    def frozen(self) -> Frozen:
        """The frozen spec. UserError when no run lies here."""
        try:
            return Frozen.from_yaml(self.store.get("spec.yaml").decode())
        except NotFound:
            raise UserError(f"no run at {self.url}; `mixer ls` shows the runs of a store") from None

    def log(self, writer: str | None = None, *, conditional: bool = True) -> RunLog:
        """The log, read to its end. Only a writer may append."""
        log = RunLog(self.store, writer or new_writer(), conditional=conditional)
        log.refresh()
        return log

    # -- who leads ------------------------------------------------------------------------------------------------------
    def holder(self) -> Holder | None:
        """Who last said it leads the run."""
        tree = self.read_json("holder.json")
        return Holder(**tree) if tree else None

    def require_free(self, *, take_over: bool) -> None:
        """RunBusy when another driver is alive, unless it is to be taken over."""
        holder, now = self.holder(), time.time()
        if holder and holder.alive(now) and not take_over:
            raise RunBusy(
                f"run {self.name} is led by {holder.writer}, seen {now - holder.seen:.0f} s ago; wait for it, stop it with "
                f"`mixer stop {self.name}`, or start with --take-over if you know that it is gone"
            )

    # -- small objects --------------------------------------------------------------------------------------------------
    def read_json(self, key: str) -> dict[str, Any] | None:
        """The JSON object at `key`, or None."""
        try:
            tree = json.loads(self.store.get(key))
        except NotFound:
            return None
        assert isinstance(tree, dict)
        return tree

    def write_json(self, key: str, tree: dict[str, Any]) -> None:
        """Write a JSON object."""
        self.store.put(key, json.dumps(tree).encode())

    def request(self, kind: str, **facts: Any) -> str:
        """Leave a request (stop, scale, save) for whoever leads the run; its id."""
        number = f"{time.time_ns():020d}-{secrets.token_hex(3)}"
        self.write_json(f"requests/{number}.json", {"id": number, "kind": kind, "time": time.time(), **facts})
        return number

    def requests(self, seen: set[str]) -> Iterator[dict[str, Any]]:
        """Requests whose ids are not in `seen`, oldest first."""
        for info in self.store.list("requests/"):
            number = info.key.rsplit("/", 1)[-1].removesuffix(".json")
            tree = self.read_json(info.key) if number not in seen else None
            if tree:
                yield tree


class Heartbeat:
    """Rewrites `holder.json` while a driver leads. A context manager."""

    def __init__(self, run: Run, writer: str, job: str | None = None, claim: int = 0) -> None:
        self._run, self._done = Run(run.url, patience_s=HOLDER_EVERY_S / 2), threading.Event()
        now = time.time()
        self._holder = Holder(writer, host_id(), os.getpid(), now, now, job, claim)
        self._thread = threading.Thread(target=self._beat, name="holder", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=HOLDER_EVERY_S)
        with suppress(StoreError):  # it goes stale by itself
            mine = self._run.holder()
            if mine and mine.writer == self._holder.writer:
                self._run.store.delete("holder.json")

    def _write(self) -> None:
        tree = {**asdict(self._holder), "seen": time.time()}
        self._run.write_json("holder.json", tree)

    def _beat(self) -> None:
        while not self._done.wait(HOLDER_EVERY_S):
            try:
                other = self._run.holder()
                if other and other.claim > self._holder.claim:
                    return  # taken over; the log will say so at the next commit
                self._write()
            except StoreError:
                continue  # advisory: the next beat tries again


def new_name(spec_name: str) -> str:
    """`<spec name>-<6 characters>`."""
    return f"{spec_name}-{''.join(secrets.choice(_ALPHABET) for _ in range(6))}"


def runs_url(store: str) -> str:
    """Where a store keeps its runs."""
    return f"{store.rstrip('/')}/runs"


def list_runs(store: str) -> list[str]:
    """The names of a store's runs, in order."""
    return sorted(open_store(runs_url(store)).folders())


def likest(name: str, there: list[str]) -> str:
    """The names `there` in words, those like `name` first; at most MENTIONED, and how many more."""
    close = difflib.get_close_matches(name, there, n=MENTIONED, cutoff=0.5)
    first = [*close, *(other for other in there if other not in close)][:MENTIONED]
    more = f" and {len(there) - len(first)} more" if len(there) > len(first) else ""
    return (", ".join(first) or "none") + more


def create(run: Run, frozen: Frozen, writer: str, *, conditional: bool, submitted: bool = False) -> Entry:
    """Freeze a new run: spec.yaml, then log entry 0. UserError when the name is taken."""
    if not run.store.put_if_absent("spec.yaml", frozen.to_yaml().encode()):
        raise UserError(
            f"a run named {run.name} exists at {run.url}; resume it by its name, or give another --name"
        )
    log = RunLog(run.store, writer, conditional=conditional)
    facts = {"fingerprint": frozen.fingerprint, "code": frozen.code, "steps": frozen.steps}
    return log.append("created", run=run.name, submitted=submitted, **facts)


def effective(frozen: Frozen, entries: list[Entry]) -> Frozen:
    """The run with the resources that its log names last."""
    changed = [entry for entry in entries if entry.kind == "resources changed"]
    return frozen.with_resources(validate(changed[-1].facts["spec"])) if changed else frozen
