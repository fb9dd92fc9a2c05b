"""Where runs are looked for: the store that was given, named by the environment, or used last, and a run in it by its name."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.run_store import Run, likest, list_runs, runs_url
from orchestrator.urls import absolute


def default_store(given: str | None = None) -> str:
    """The store to look in: given, MIXER_STORE, or the last one used. UserError when there is none."""
    memo = _memo()
    store = given or os.environ.get("MIXER_STORE") or (memo.read_text().strip() if memo.exists() else "")
    if not store:
        raise UserError(
            "no store given; use --store s3://bucket/prefix (or a folder), set MIXER_STORE, or write store: in the spec"
        )
    return store


def remember_store(store: str) -> None:
    """Let `mixer ls` find this store next time. A home that cannot be written is no reason to fail."""
    try:
        _memo().parent.mkdir(parents=True, exist_ok=True)
        _memo().write_text(store)
    except OSError:
        return


def _memo() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "mixer" / "store"


def find_run(name: str, store: str | None = None) -> Run:
    """The run called `name` (or at the url `name`). UserError names the runs there are."""
    if not name.strip():
        raise UserError(f"the name of a run got {name!r}; give one of `mixer ls`")
    url = absolute(name) if "/runs/" in name else f"{runs_url(default_store(store))}/{name}"
    run = Run(url)
    if not run.exists():
        base = url.rsplit("/runs/", 1)[0]
        raise UserError(f"no run {run.name} in {base}; there: {likest(run.name, list_runs(base))}")
    remember_store(url.rsplit("/runs/", 1)[0])
    return run
