"""The gauges of a run on Ray's own metrics endpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

PROGRAM = """
import sys, time, urllib.request
from pathlib import Path
import ray
from clusters.gauges import RayGauges
from orchestrator.accounts.metrics import HELP, Metrics
from tests.scripted_run import killed_once

ray.init(
    address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
    _node_ip_address="127.0.0.1", _system_config={"metrics_report_interval_ms": 500},
)
run = killed_once(Path(sys.argv[1]))
newest = [entry.n for entry in run.log.entries if entry.kind == "attempt started"][-1]
run.note(newest, "loader", bytes=1e9, retries=3)
run.book()
metrics = Metrics("digits-abc123", run.run.store, RayGauges())
metrics.show(run.log.entries, {"step": 120, "loss": 0.25, "world_size": 2})
url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
lines = []
while len({line.split("{")[0] for line in lines}) < len(HELP):
    time.sleep(0.5)
    try:
        text = urllib.request.urlopen(url, timeout=5).read().decode()
    except OSError:
        continue
    lines = [line for line in text.splitlines() if line.startswith("ray_mixer_")]
print("\\n".join(lines))
ray.shutdown()
"""


def test_a_runs_figures_stand_at_rays_metrics_port(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    shown = [line for line in run.stdout.splitlines() if line.startswith("ray_mixer_")]
    assert all('run="digits-abc123"' in line for line in shown)
    values = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in shown}
    assert values["ray_mixer_step"] == 120
    assert values["ray_mixer_losses"] == 1
    assert values["ray_mixer_attempts"] == 2
    assert 0.5 < values["ray_mixer_goodput"] < 1
    retries = next(line for line in shown if 'name="retries"' in line)
    assert float(retries.rsplit(" ", 1)[1]) == 3
    lost = next(line for line in shown if 'name="lost work"' in line)
    assert float(lost.rsplit(" ", 1)[1]) == pytest.approx(6.5)
