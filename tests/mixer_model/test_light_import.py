"""What answers before torch is imported: the CLI's --help, spec errors and `plan` stand on it."""

from __future__ import annotations

import subprocess
import sys

import pytest

USES = {
    "package": "import mixer_model",
    "presets": "import mixer_model; assert mixer_model.PRESETS['H/14'].depth == 32",
    "cost": "import mixer_model; assert mixer_model.cost('H/14', classes=1000).params == 432_350_952",
    "config": "from mixer_model.config import config; config('B/16', classes=10)",
}
HEAVY = ("torch", "ray", "boto3", "deepspeed", "webdataset", "numpy", "matplotlib")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("use", USES)
def test_nothing_heavy_is_imported(use: str) -> None:
    code = f"{USES[use]}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
