"""How long a step waits for a save: ours, a plain copy of the same bytes, DeepSpeed's save_checkpoint, torch's DCP async_save.

    python -m benchmarks.survival.save [--state B/16|H/14] [--rounds 5] [--without-dcp]

One process with one real DeepSpeed engine (ZeRO 2, fp32, after a step). In each round, one after the other and each with nothing
of another's still on its way: np.copyto of all fp32 masters and moments into memory that is there; Saver.save with the upload of
the save before finished; engine.save_checkpoint; async_save of the same tensors until it returns (as it comes, and with the
stager that keeps its memory). The two of async_save each make one more copy of the state: H/14 needs 32 GB for them, or --without-dcp.
All write to the same disk; files are written out and removed between measurements, outside the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.survival.states import alone, make_engine

COPY, OURS, DEEPSPEED = "plain memory copy", "Saver.save", "DeepSpeed save_checkpoint"
DCP, DCP_KEEPS = "DCP async_save", "DCP async_save, stager that keeps its memory"


class Bench:
    """The engine, and one way of saving after the other."""

    def __init__(self, preset: str, folder: Path, *, dcp: bool = True) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        from data_pipeline.storage import open_store
        from orchestrator.training.events import Events
        from orchestrator.training.snapshot import Saver

        self.folder, self.engine, self.step = folder, make_engine(preset, zero=2), 0
        store = open_store(folder / "ours")
        self.saver = Saver(store, Events(store, 1, 0), attempt=1, rank=0, world=1, shapes=self.engine.shapes)
        self.saver.prepare(self.engine.owned())
        self.targets = [values for *_, values in self.saver._memory.copy(self.engine.owned())]
        self.stager = DefaultStager(
            StagingOptions(False, False, False, False)
        )  # no GPU, so nothing is pinned
        self._with_dcp = dcp
        self.behind: dict[str, list[float]] = defaultdict(list)

    def views(self) -> dict[str, Any]:
        """Every fp32 master and moment by name."""
        return {
            f"{kind}/{fragment.param}/{fragment.start}": view
            for fragment in self.engine.owned()
            for kind, view in fragment.views.items()
        }

    def copy(self) -> float:
        """np.copyto into the saver's own memory, which is idle: no other memory is as warm."""
        pairs = list(zip(self.targets, [view.numpy() for view in self.views().values()], strict=True))

        def act() -> None:
            for target, source in pairs:
                np.copyto(target, source)

        return report.timed(act)

    def ours(self) -> float:
        self.step += 1
        stall = report.timed(
            lambda: self.saver.save(
                self.engine.owned(), step=self.step, position=self.step, state={"updates": 1}
            )
        )
        self.behind[OURS].append(report.timed(self.saver.wait))
        return stall

    def deepspeed(self) -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            return report.timed(
                lambda: self.engine.engine.save_checkpoint(str(self.folder / "deepspeed"), tag="t")
            )

    def dcp(self, name: str, **options: Any) -> float:
        import torch.distributed.checkpoint as dcp

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state, futures = self.views(), []
            path = str(self.folder / "dcp")
            stall = report.timed(lambda: futures.append(dcp.async_save(state, checkpoint_id=path, **options)))
            self.behind[name].append(report.timed(futures[0].result))
        return stall

    def round(self, number: int) -> dict[str, float]:
        """Each way once, another one first each time; what was written goes in between."""
        ways = {
            COPY: self.copy,
            OURS: self.ours,
            DEEPSPEED: self.deepspeed,
        }
        if self._with_dcp:
            ways[DCP] = lambda: self.dcp(DCP)
            ways[DCP_KEEPS] = lambda: self.dcp(DCP_KEEPS, async_stager=self.stager)
        found, names = dict.fromkeys(ways, 0.0), list(ways)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name] = ways[name]()
            for path in self.folder.iterdir():
                shutil.rmtree(path)
            os.sync()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--state", default="B/16", choices=["B/16", "H/14"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-dcp", action="store_true")
    parser.add_argument("--folder", help="where to write; default: the folder for temporary files")
    args = parser.parse_args()
    alone()
    with tempfile.TemporaryDirectory(prefix="mixer-bench-", dir=args.folder) as folder:
        bench = Bench(args.state, Path(folder), dcp=not args.without_dcp)
        size = 4 * sum(view.numel() for view in bench.views().values())
        bench.round(0)  # makes what is made once
        bench.behind.clear()
        rounds = [bench.round(number) for number in range(args.rounds)]
    samples = {name: [found[name] for found in rounds] for name in rounds[0]}
    middle = report.medians(samples)
    print(report.table(f"stall of a step by a save, {args.state}, {size / 1e9:.2f} GB", samples, COPY))
    print(report.table("behind the step, until it is written", bench.behind, OURS))
    report.write(
        f"save-{args.state.replace('/', '').lower()}",
        f"python -m benchmarks.survival.save --state {args.state} --rounds {args.rounds}"
        + (" --without-dcp" if args.without_dcp else ""),
        state=args.state,
        bytes=size,
        stall_s=samples,
        behind_s=bench.behind,
        bars=[
            report.bar("stall to plain copy", middle[OURS] / middle[COPY], 1.5, most=True),
            report.bar("DeepSpeed's stall to ours", middle[DEEPSPEED] / middle[OURS], 10.0, most=False),
        ],
    )


if __name__ == "__main__":
    main()
