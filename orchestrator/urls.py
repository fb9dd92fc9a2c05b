"""Urls as a user writes them in a spec, made whole: a worker's working directory is another one, and so is another machine's store."""

from __future__ import annotations

import os

from orchestrator.run_store import runs_url
from orchestrator.spec import Spec

WEIGHTS = (".safetensors", ".npz", ".pth", ".pth.tar", ".pt", ".bin")  # .pth.tar: of timm's trainer
IMPORTED = "model.safetensors"


def absolute(url: str) -> str:
    """A folder's whole path; any other url as it is."""
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def whole(spec: Spec, base: str | None = None) -> Spec:
    """`spec` with whole urls; a run that it begins from by name lies in the store `base`."""
    data = spec.data.model_copy(
        update={"train": absolute(spec.data.train), "val": absolute(spec.data.val) if spec.data.val else None}
    )
    model = spec.model
    if base and model.init:
        model = model.model_copy(update={"init": located(model.init, base)})
    return spec.model_copy(update={"data": data, "model": model})


def located(init: str, base: str) -> str:
    """The whole url of a `model.init`: a file of weights, a run, or any other folder, which then has a `model.safetensors`."""
    if "/" not in init and not is_file(init):
        return f"{runs_url(base)}/{init}"
    url = absolute(init).rstrip("/")
    return url if is_file(url) or "/runs/" in url else f"{url}/{IMPORTED}"


def is_file(init: str) -> bool:
    """Whether a `model.init` names a file of weights, by its end; else it is a run."""
    return init.endswith(WEIGHTS)
