"""Room in host memory for one copy of a rank's state: made once, touched before it is needed, written over by every save.

Fresh memory for each save would cost a page fault every 4 KB, more than the copy itself. On a GPU's machine the room is page-locked,
so that the copy runs at the speed of the bus. There is never more than one: who wants to copy again waits until it has been written out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from orchestrator.training.fragments import Fragment

PAGE = 4096
Copied = tuple[str, str, int, npt.NDArray[np.float32]]  # parameter, kind, start, values


class HostMemory:
    """One persistent buffer of fp32 elements. Not for two threads at a time."""

    def __init__(self) -> None:
        self._room: npt.NDArray[np.float32] = np.empty(0, dtype="<f4")
        self._making: threading.Thread | None = None
        self.locked = False

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self._room.nbytes

    def prepare(self, owned: Iterable[Fragment]) -> None:
        """Begin, in a thread, to make room for `owned`, so that the first save finds it."""
        views = [view for fragment in owned for view in fragment.views.values()]
        elements, cuda = sum(view.numel() for view in views), any(view.is_cuda for view in views)
        self._making = threading.Thread(
            target=self._make, args=(elements, cuda), name="host memory", daemon=True
        )
        self._making.start()

    def copy(self, owned: list[Fragment]) -> list[Copied]:
        """Copy every view of `owned` into the room, over what was there; the copies, as views of the room."""
        views = [
            (fragment.param, kind, fragment.start, view.detach())
            for fragment in owned
            for kind, view in fragment.views.items()
        ]
        self._ensure(sum(view.numel() for *_, view in views), any(view.is_cuda for *_, view in views))
        room, at, copies = torch.from_numpy(self._room), 0, []
        for param, kind, start, view in views:
            end = at + view.numel()
            room[at:end].copy_(view, non_blocking=True)
            copies.append((param, kind, start, self._room[at:end]))
            at = end
        if any(view.is_cuda for *_, view in views):
            torch.cuda.current_stream().synchronize()
        return copies

    def _ensure(self, elements: int, cuda: bool) -> None:
        if self._making is not None:
            self._making.join()
            self._making = None
        if len(self._room) < elements:
            self._make(elements, cuda)

    def _make(self, elements: int, cuda: bool) -> None:
        room = np.empty(elements, dtype="<f4")
        room.view("u1")[::PAGE] = 0  # a write to each page, without the interpreter's lock
        self.locked = bool(cuda and elements) and _lock_pages(room)
        self._room = room


def _lock_pages(room: npt.NDArray[np.float32]) -> bool:
    """Page-lock the buffer for the GPU. torch's own pinned allocator would round its size up to a power of two."""
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    return int(runtime.cudaHostRegister(room.ctypes.data, room.nbytes, 0)) == 0
