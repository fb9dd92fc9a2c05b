"""What the tests of the networks share: a small shape, and timm with a stand-in for torchvision."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch

from mixer_model.config import MixerConfig, config


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
    """Answers every import below torchvision. The real one does not import beside a CPU build of torch."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.split(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


@pytest.fixture(scope="session")
def timm() -> Iterator[Any]:
    finder = _Torchvision()
    sys.meta_path.insert(0, finder)
    try:
        yield pytest.importorskip("timm")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]


@pytest.fixture
def small() -> MixerConfig:
    """4x4 patches of 8 pixels, three blocks; no two of its numbers are equal."""
    return config(None, patch=8, dim=24, depth=3, token_dim=20, channel_dim=40, classes=7, image_size=32)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
