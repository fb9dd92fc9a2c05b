"""The compile cache in the bucket: what one attempt compiled, later attempts need not compile again, on any machine that is alike.

facts that matter -> key -> <cache root>/<key>, inductor's folder on this machine -> `compile-cache/<key>-<n>.tar`, packed by rank 0 after
its first step -> the driver's log entry, with the tar's SHA-256. What is in it is code: it is unpacked only when its SHA-256 is the
one in the log, and nothing in it can be written outside its folder. Whatever goes wrong is noted, and compiling does the rest.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipeline.storage import Store
from mixer_model.config import config
from orchestrator.errors import MixerError
from orchestrator.redact import redact
from orchestrator.spec import Spec
from orchestrator.training.contact import Contact
from orchestrator.training.events import Events

FORMAT = 2  # of the key; to be raised when engine.py compiles with other options
PACKAGES = Path(__file__).parents[2]  # where the packages lie
SOURCES = (
    "mixer_model/layers.py",
    "mixer_model/mixer.py",
    "mixer_model/token_mixers/*.py",
    "orchestrator/training/blocks.py",
)
MOST_BYTES = 1 << 30  # of an unpacked cache; a block's kernels are some MB
_LIBRARIES = ("torch", "triton", "deepspeed")
_PASSING = (".lock", ".tmp")  # ends of names of files that hold nothing to keep


class BadCache(MixerError):
    """A packed cache that must not be used."""


# -- the key ----------------------------------------------------------------------------------------------------------------
def facts(spec: Spec, device: str, threads: int) -> dict[str, Any]:
    """Everything that decides which kernels a run needs and which machines can run them; `device` as describe_device says it."""
    train = spec.train
    return {
        "format": FORMAT,
        "sources": sources(PACKAGES),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "system": [platform.system(), platform.machine(), *platform.libc_ver()],
        "device": device,
        "threads": threads,
        "model": asdict(config(spec.model.preset, **spec.model.overrides())),
        "micro_batch": train.micro_batch,
        "precision": train.precision,
        "zero": train.zero,
        "recompute": train.recompute,
        "options": {key: value for key, value in os.environ.items() if key.startswith("TORCHINDUCTOR_")}
        | {"TORCHINDUCTOR_CACHE_DIR": None},
    }


def sources(packages: Path) -> str:
    """SHA-256 of the code that is compiled, and of how it is told to be: another network of the same shape has another key."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in packages.glob(pattern)):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(packages).as_posix()} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def key(found: dict[str, Any]) -> str:
    """32 hex digits that differ when any of `found` does."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:32]


def describe_device(device: Any) -> str:
    """A torch.device by what kernels depend on: a GPU's name and capability, a CPU's instruction sets."""
    import torch

    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        return f"{name} {capability} CUDA {torch.version.cuda}"
    return f"{torch.backends.cpu.get_cpu_capability()} {_instructions()} {torch.__config__.show()}"


def _instructions() -> str:
    """The flags that this CPU states; code compiled for it may use any of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return " ".join(sorted(flags.partition(":")[2].split()))


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def root() -> Path:
    """Where this machine keeps caches: MIXER_CACHE, or ~/.cache/mixer/inductor."""
    return Path(os.environ.get("MIXER_CACHE") or "~/.cache/mixer/inductor").expanduser().absolute()


# -- the tar ----------------------------------------------------------------------------------------------------------------
def pack(folder: Path) -> bytes:
    """The files of `folder` as a tar: the same files, the same bytes. No links, owners, times or paths of this machine."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(_names(folder)):
            data = (folder / name).read_bytes()
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, BytesIO(data))
    return buffer.getvalue()


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and not path.is_symlink() and not name.name.endswith(_PASSING):
            yield name.as_posix()


def unpack(data: bytes, sha256: str, folder: Path) -> int:
    """Make `folder`, which is missing or empty, hold what `data` packs; the number of files. It appears whole or not at all.

    BadCache when `data` is not what `sha256` stands for, or holds anything but files with plain relative names.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadCache("its SHA-256 is not the one in the run's log")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        beside.mkdir(mode=0o700)
        count = _extract(data, beside)
        beside.rename(folder)
    except (tarfile.TarError, EOFError) as error:
        raise BadCache(f"it is no tar: {error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return count


def _extract(data: bytes, folder: Path) -> int:
    count = total = 0
    with tarfile.open(fileobj=BytesIO(data), mode="r:") as tar:
        for info in tar:
            name = PurePosixPath(info.name)
            plain = not name.is_absolute() and ".." not in name.parts and "\\" not in info.name and name.parts
            if not info.isreg() or not plain:
                raise BadCache(f"it holds {info.name[:100]!r}, which is no file with a plain relative name")
            total, count = total + info.size, count + 1
            if total > MOST_BYTES:
                raise BadCache(f"it holds more than {MOST_BYTES} bytes")
            file, path = tar.extractfile(info), folder / name
            assert file is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read())
    return count


# -- a rank's part ----------------------------------------------------------------------------------------------------------
class CompileCache:
    """The cache of one rank: take() before anything is compiled, share() after the first step."""

    def __init__(self, store: Store, events: Events, attempt: int, key: str) -> None:
        self._store, self._events, self._attempt, self.key = store, events, attempt, key
        self.folder = root() / key
        self._warm = False  # what this run needs was here, or came from the bucket
        self._thread: threading.Thread | None = None

    def take(self, offer: dict[str, Any] | None) -> None:
        """Let inductor use this key's folder; fill it with `offer` ({"key", "sha256", "path"}) when it is empty. Never raises.

        Of the ranks on a machine one unpacks, the others wait for it.
        """
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder)
        os.environ.pop("TRITON_CACHE_DIR", None)  # inductor puts it into its own folder
        if offer is None:
            return
        began = time.time()
        try:
            with self._locked():
                self._warm = self._fill(offer)
        except Exception as error:
            self._note("refused", path=offer.get("path"), why=redact(str(error))[:500])
        else:
            self._note("taken" if self._warm else "not for this machine", start=began)

    def share(self, contact: Contact | None) -> None:
        """In a thread, once: pack what was compiled, upload it, and tell the driver. On rank 0, where `contact` is. Never raises."""
        if contact is None or self._warm or self._thread is not None:
            return
        self._thread = threading.Thread(
            target=self._share, args=(contact,), name="compile cache", daemon=True
        )
        self._thread.start()

    def _fill(self, offer: dict[str, Any]) -> bool:
        if offer["key"] != self.key:
            return False
        if not (self.folder.is_dir() and any(self.folder.iterdir())):
            unpack(self._store.get(offer["path"]), offer["sha256"], self.folder)
        return True

    def _share(self, contact: Contact) -> None:
        try:
            data = pack(self.folder)
            if len(data) > MOST_BYTES:
                raise BadCache(f"{self.folder.name} packs to {len(data)} bytes, more than {MOST_BYTES}")
            path = f"compile-cache/{self.key}-{self._attempt}.tar"
            self._store.put_if_absent(path, data)
            facts = {"key": self.key, "sha256": hashlib.sha256(data).hexdigest(), "path": path}
            contact.tell(compile_cache={**facts, "bytes": len(data)})
            self._note("shared", path=path, bytes=len(data))
        except Exception as error:
            self._note("not shared", why=redact(str(error))[:500])

    def _note(self, what: str, **facts: Any) -> None:
        self._events.note("compile cache", what=what, key=self.key, **facts)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        root().mkdir(parents=True, exist_ok=True)
        with open(root() / f"{self.key}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def take_cache(
    spec: Spec, device: Any, store: Store, events: Events, order: dict[str, Any]
) -> CompileCache | None:
    """The cache of this rank, taken from what the attempt's `order` offers; None where the spec wants none."""
    if not (spec.train.compile and spec.train.compile_cache):
        return None
    import torch

    found = facts(spec, describe_device(device), torch.get_num_threads())
    cache = CompileCache(store, events, order["attempt"], key(found))
    cache.take(order.get("compile_cache"))
    return cache
