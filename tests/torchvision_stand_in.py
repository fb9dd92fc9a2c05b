"""timm without torchvision: the real one does not import beside a CPU build of torch, and timm's networks do not use it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _AnyName(type):
    """A class whose every attribute is another such class: enough for what timm names at import."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyName(name, (), {})


class _Anything(metaclass=_AnyName):
    def __init__(self, *_: Any, **__: Any) -> None: ...


class _StandIn(ModuleType):
    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything


class _Torchvision(MetaPathFinder, Loader):
    """Answers every import below torchvision."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.split(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


@contextmanager
def timm_imported() -> Iterator[Any]:
    """timm, imported over the stand-in, which is gone again afterwards. ImportError where timm is not installed."""
    finder = _Torchvision()
    sys.meta_path.insert(0, finder)
    try:
        import timm

        yield timm
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
