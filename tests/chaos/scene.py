"""Where runs are played: a Ray cluster of three nodes, digits, and a store; the real S3 one has a faulty proxy before it.

Everything is started by `on_rgw` or `on_folder` and gone after the block. The run and its machines know the proxy's address only; who
watches and judges asks the store itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clusters import local
from data_pipeline.packing.pack import pack
from tests.ceph import Gateway
from tests.chaos import memory
from tests.chaos.arena import STORE_KINDS, Arena, LocalArena
from tests.chaos.disk import Disk, small_disk
from tests.chaos.environment import environment
from tests.chaos.front import Front, fronting

SPEC = """
name: chaos
model: {patch: 8, dim: 32, depth: 2, token_dim: 16, channel_dim: 64, classes: 10, image_size: 32}
data: {train: DATA/train, val: DATA/val, decode: rrc, scale: [0.6, 1.0], flip: false, resident: 0, threads: 1}
train: {global_batch: 64, micro_batch: 8, steps: STEPS, precision: fp32, zero: 2, compile: false, warmup_steps: 5,
        optimizer: {lr: 3e-3, weight_decay: 0.05}}
checkpoint: {every: 10 steps, keep: 3}
workers: {min: 1, max: 3, cpus: 1}
events: {sample_ids: true}
"""
NODES = 3
CLUSTER = "chaos"


@dataclass(frozen=True)
class Scene:
    """An arena, the spec's path, the store's url, a folder for what drivers print, and proxy or disk of the store if there is one."""

    arena: Arena
    spec: Path
    store: str
    folder: Path
    front: Front | None = None
    disk: Disk | None = None

    @property
    def kinds(self) -> frozenset[str]:
        """The faults that can be done here."""
        of_store = (STORE_KINDS if self.front else frozenset()) | (
            {"full disk"} if self.disk else frozenset()
        )
        return self.arena.kinds | of_store


@contextmanager
def on_rgw(gateway: Gateway, folder: Path, *, bucket: str, steps: int, seed: int = 0) -> Iterator[Scene]:
    """A scene on a running Ceph RGW. `folder` must be short (a unix socket lies in it)."""
    with environment(gateway.env), fronting(gateway.endpoint, folder, seed) as front:
        env = {**gateway.env, "AWS_ENDPOINT_URL": front.endpoint}
        with _on(make_bucket(bucket), env, folder, steps, front, None) as scene:
            yield scene


@contextmanager
def on_folder(folder: Path, *, steps: int) -> Iterator[Scene]:
    """A scene on a local folder, whose disk may be full."""
    with (
        small_disk(folder / "store") as disk,
        _on(str(folder / "store"), {}, folder, steps, None, disk) as scene,
    ):
        yield scene


@contextmanager
def _on(
    store: str, env: Mapping[str, str], folder: Path, steps: int, front: Front | None, disk: Disk | None
) -> Iterator[Scene]:
    spec = furnish(folder, store, steps)
    machine = {**env, **noticing(folder)}
    with local.running(nodes=NODES, cpus=1, name=CLUSTER, env=machine, tied=True) as cluster:
        try:
            yield Scene(LocalArena(CLUSTER, machine), spec, store, folder, front, disk)
        finally:
            memory.tidy(cluster.mark)


def furnish(folder: Path, store: str, steps: int) -> Path:
    """Pack digits into the store, and write the spec of a run of `steps` on them into `folder`; its path."""
    data = f"{store}/digits"
    pack("sklearn:digits", data)
    spec = folder / "chaos.yaml"
    spec.write_text(SPEC.replace("DATA", data).replace("STEPS", str(steps)))
    return spec


def noticing(folder: Path) -> dict[str, str]:
    """The environment of machines that look for notices in a folder below `folder`."""
    notices = folder / "notices"
    notices.mkdir(mode=0o700, exist_ok=True)
    return {"MIXER_NOTICES": "file", "MIXER_NOTICE_DIR": str(notices)}


def make_bucket(name: str) -> str:
    """The url of a new bucket in the store that AWS_* name now; boto3's own session would remember the one before."""
    from data_pipeline.storage.s3_client import new_session

    new_session().client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"
