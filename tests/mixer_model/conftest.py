"""What the tests of the networks share: a small shape, and timm with a stand-in for torchvision."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from mixer_model.config import MixerConfig, config
from tests.torchvision_stand_in import timm_imported


@pytest.fixture(scope="session")
def timm() -> Iterator[Any]:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    with timm_imported() as imported:
        yield imported


@pytest.fixture
def small() -> MixerConfig:
    """4x4 patches of 8 pixels, three blocks; no two of its numbers are equal."""
    return config(None, patch=8, dim=24, depth=3, token_dim=20, channel_dim=40, classes=7, image_size=32)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def traced() -> Iterator[tuple[list[Any], Callable[..., Any]]]:
    """A compiler that only counts its graphs."""
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    yield graphs, backend
    torch.compiler.reset()
