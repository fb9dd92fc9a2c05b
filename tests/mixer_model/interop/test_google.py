"""Google's `.npz`, both ways: the published tree, the older one, checkpoints of big_vision, and files that are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixer_model import PRESETS
from mixer_model.config import config
from mixer_model.interop import WeightsError, check_state, export_google, load, read, to_google
from mixer_model.mixer import Mixer
from tests.mixer_model import equations
from tests.mixer_model.equations import Tree, random_tree

SHAPE = {"patch": 8, "side": 32, "dim": 24, "depth": 3, "token": 20, "channel": 40, "classes": 7}


@pytest.fixture
def tree() -> Tree:
    return {
        name: value.astype(np.float32)
        for name, value in random_tree(np.random.default_rng(0), **SHAPE).items()
    }


def saved(folder: Path, tree: dict[str, Any], name: str = "x.npz") -> Path:
    with (folder / name).open("wb") as file:
        np.savez(file, **tree)
    return folder / name


def older(tree: Tree, *, second_norm: int = 2) -> Tree:
    """The tree as big_vision's loader takes it from the code before: layers counted together, axes of length 1 in front."""
    renamed = {}
    for name, value in tree.items():
        for pattern, to in (
            (r"^stem/", "embedding/"),
            (r"^pre_head_layer_norm/", "Mixer/encoder_norm/"),
            (r"^MixerBlock_", "Mixer/encoderblock_"),
            (r"LayerNorm_1", f"LayerNorm_{second_norm}"),
        ):
            name = re.sub(pattern, to, name)
        name = re.sub(
            r"(token|channel)_mixing/Dense_([01])/(kernel|bias)",
            lambda found: f"{found[1]}_mixing_phase_0/{found[3]}{int(found[2]) + 1}",
            name,
        )
        renamed[name] = value[None] if "_phase_0" in name else value
    return renamed


def test_the_names_are_those_of_the_published_code() -> None:
    names = {
        name: tuple(value.shape)
        for name, value in to_google(Mixer(PRESETS["B/16"], seed=None).state_dict()).items()
    }
    assert len(names) == 150
    assert names["stem/kernel"] == (16, 16, 3, 768)
    assert names["MixerBlock_11/token_mixing/Dense_0/kernel"] == (196, 384)
    assert names["MixerBlock_0/channel_mixing/Dense_1/kernel"] == (3072, 768)
    assert names["MixerBlock_0/LayerNorm_1/scale"] == (768,)
    assert names["pre_head_layer_norm/bias"] == (768,)
    assert names["head/kernel"] == (768, 1000)


def test_a_file_is_read_with_its_shape_and_computes_the_equations(tree: Tree, tmp_path: Path) -> None:
    found = read(saved(tmp_path, tree, "no suffix says what it is.bin"))
    assert found.layout == "Google's npz"
    assert found.config == config(
        None,
        patch=8,
        dim=24,
        depth=3,
        token_dim=20,
        channel_dim=40,
        classes=7,
        image_size=32,
        activation="gelu_tanh",
    )
    assert found.notes == ("the file does not say its activation; taken is gelu_tanh (JAX's)",)
    model = Mixer(found.config)
    model.load_state_dict(found.state, strict=True)
    images = np.random.default_rng(1).uniform(-1, 1, size=(2, 32, 32, 3)).astype(np.float32)
    logits = model(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(logits, equations.logits(tree, images), rtol=1e-4, atol=1e-5)


def test_what_is_written_is_what_was_read(tree: Tree, tmp_path: Path) -> None:
    shape, state = load(saved(tmp_path, tree))
    export_google(state, tmp_path / "again.npz", shape)
    with np.load(tmp_path / "again.npz", allow_pickle=False) as file:
        assert set(file.files) == set(tree)
        for name, value in tree.items():
            assert file[name].dtype == np.float32
            np.testing.assert_array_equal(file[name], value)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_the_activation_of_an_export_comes_back(tree: Tree, tmp_path: Path, activation: str) -> None:
    """The layout cannot say it, and what does not say is taken for JAX's."""
    shape, state = load(saved(tmp_path, tree), activation=activation)
    export_google(state, tmp_path / "again.npz", shape)
    found = read(tmp_path / "again.npz")
    assert (found.config, found.notes, found.layout) == (shape, (), "Google's npz")


def test_a_parameter_is_never_given_twice(tree: Tree, tmp_path: Path) -> None:
    """A head has a kernel and no scale: one that has both would be whichever comes last."""
    for name, like, message in (
        ("head/scale", "head/kernel", "head/scale is not a parameter of it"),
        (
            "MixerBlock_0/LayerNorm_0/kernel",
            "head/kernel",
            "MixerBlock_0/LayerNorm_0/kernel is not a parameter of it",
        ),
        ("head.weight", "head/kernel", "head.weight is given twice, under two names"),
    ):
        with pytest.raises(WeightsError, match=message):
            load(saved(tmp_path, {**tree, name: tree[like]}))
    old = older(tree)
    with pytest.raises(WeightsError, match="embedding/kernel and stem/kernel are the same parameter"):
        load(saved(tmp_path, {**old, "stem/kernel": old["embedding/kernel"]}))


def test_the_older_tree_is_the_same_network(tree: Tree, tmp_path: Path) -> None:
    _, wanted = load(saved(tmp_path, tree))
    for second_norm in (1, 2):
        shape, state = load(saved(tmp_path, older(tree, second_norm=second_norm), "old.npz"))
        assert shape.depth == 3
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("prefix", ["params/", "opt/target/"])
def test_a_checkpoint_of_big_vision_gives_its_parameters(tree: Tree, tmp_path: Path, prefix: str) -> None:
    _, wanted = load(saved(tmp_path, tree))
    held: dict[str, Any] = {prefix + name: value for name, value in tree.items()} | {
        "opt/state/step": np.array(7)
    }
    found = read(saved(tmp_path, held))
    assert "1 other arrays in it are left out (optimizer, step)" in found.notes
    assert all(torch.equal(found.state[name], wanted[name]) for name in wanted)


def test_bfloat16_comes_as_two_bytes_without_a_name(tree: Tree, tmp_path: Path) -> None:
    halves = {name: torch.from_numpy(value).to(torch.bfloat16) for name, value in tree.items()}
    held = {name: value.view(torch.int16).numpy().view("V2") for name, value in halves.items()}
    _, state = load(saved(tmp_path, held))
    assert {value.dtype for value in state.values()} == {torch.bfloat16}
    assert torch.equal(state["head.weight"], halves["head/kernel"].t())


def test_pickles_are_never_loaded(tree: Tree, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    held = {**tree, "head/bias": np.array([Trap()], dtype=object)}
    with pytest.raises(WeightsError, match=r"cannot be read as a \.npz of plain arrays"):
        load(saved(tmp_path, held))
    assert not (tmp_path / "sprung").exists()


def test_faults_are_told_in_the_names_of_the_file(tree: Tree, tmp_path: Path) -> None:
    tree["MixerBlock_1/token_mixing/Dense_0/kernel"] = np.zeros((9, 20), np.float32)
    tree["MixerBlock_1/extra/kernel"] = np.zeros((2, 3), np.float32)
    del tree["MixerBlock_2/LayerNorm_0/scale"]
    message = (
        r"x\.npz: these weights do not fit a Mixer of patch 8, .*: MixerBlock_2/LayerNorm_0/scale is missing; "
        r"MixerBlock_1/extra/kernel is not a parameter of it; MixerBlock_1/token_mixing/Dense_0/kernel is \[9, 20\], not \[16, 20\]"
    )
    with pytest.raises(WeightsError, match=message):
        load(saved(tmp_path, tree))


def test_weights_of_another_resolution_say_which_and_what_to_do() -> None:
    """google-research/vision_transformer, issue 274: B/16 fine-tuned at 128 pixels fails on [196, 384] against [64, 384]."""
    state = Mixer(PRESETS["B/16"], seed=None).state_dict()
    with pytest.raises(WeightsError) as told:
        check_state(state, config("B/16", image_size=128))
    assert "blocks.0.mlp_tokens.fc1.weight is [384, 196], not [384, 64]" in str(told.value)
    assert "They are for 224 x 224 images (196 tokens), not 128 x 128 (64 tokens)" in str(told.value)
    assert "Take image_size 224; a larger one must be a whole multiple K of it (448, 672, ...)" in str(
        told.value
    )
    with pytest.raises(WeightsError, match=r"and 448 is 2 x 224: that is done by surgery"):
        check_state(state, config("B/16", image_size=448))
    with pytest.raises(WeightsError) as other:
        check_state(state, config("B/16", classes=10))
    assert "They are for" not in str(other.value)


def test_numbers_that_are_none_are_refused(tree: Tree, tmp_path: Path) -> None:
    tree["head/bias"][2] = np.nan
    with pytest.raises(WeightsError, match=r"NaN or infinity: head/bias\."):
        load(saved(tmp_path, tree))
    tree["head/bias"] = np.zeros(7, np.longdouble)  # type: ignore[assignment]
    with pytest.raises(
        WeightsError, match=r"x\.npz: head/bias holds float\d+; weights are numbers of at most"
    ):
        load(saved(tmp_path, tree))
    tree["head/bias"] = np.zeros(7, np.int8)  # type: ignore[assignment]
    with pytest.raises(WeightsError, match=r"head/bias \(torch\.int8\)"):
        load(saved(tmp_path, tree))
