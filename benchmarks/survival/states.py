"""Real engines with real state for the benchmarks of saving and loading."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

SPEC = """
name: bench
model: {{preset: {preset}, classes: 1000, image_size: 224}}
data: {{train: /nowhere}}
train: {{global_batch: 2, micro_batch: 1, steps: 10, precision: fp32, zero: {zero}, compile: false}}
workers: {{max: 2}}
"""


def alone() -> None:
    """Make this process a group of one."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update({**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})


def make_engine(preset: str, zero: int) -> Any:
    """An engine after one optimizer step, so that every moment holds something."""
    import torch

    from orchestrator.spec_text import parse_spec
    from orchestrator.training.engine import Engine, join

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    engine = Engine(parse_spec(SPEC.format(preset=preset, zero=zero)), join())
    generator = torch.Generator().manual_seed(engine.place.rank)
    images = torch.randint(0, 256, (1, 224, 224, 3), generator=generator, dtype=torch.uint8)
    for turn in range(engine.rounds):
        if turn:
            engine.close_micro_batch()
        engine.forward_backward(images, torch.tensor([turn]), turn, real=True)
    engine.step(1e-3)
    return engine


def forget(folder: Path) -> int:
    """Write out and drop from the page cache every file in `folder`, so that reading it reads the disk; its bytes."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
            total += path.stat().st_size
    return total
