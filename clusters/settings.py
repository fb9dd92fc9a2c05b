"""Ray's settings for a cluster that must notice a loss soon and outlive its head: one place for all launchers.

They are environment variables of every `ray start` (Ray hands them on to what it starts), and `PATIENCE` of
drivers too. What Ray does without them, on namespace hosts: a node behind a cut cable counts as alive for
64 s, one without power for 14 s; raylets give up 60 s after the head went; a stopped job has 3 s to save.

The token of Ray's authentication is no setting: each cluster has its own (`token_env`).
"""

from __future__ import annotations

from pathlib import Path

JOB_STOP_WAIT_S = 120  # between SIGTERM and SIGKILL of a stopped job: time to save a checkpoint
HEAD_AWAY_S = (
    600  # how long nodes and drivers wait for a head that keeps its state: a machine may have to boot
)

# The GCS asks each raylet once a period; `failure_threshold` failures in a row, each up to `timeout_ms`, and the
# node is dead: 6 s after a cut cable. Less patience would take a machine that is merely busy for a dead one, which
# then must leave: a raylet that was declared dead ends itself.
HEALTH_CHECKS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
SERVER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_WAIT_S),
    **HEALTH_CHECKS,
}
PATIENCE = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(HEAD_AWAY_S)}
DRIVER = (
    "driver"  # the resource that nodes fit for a driver have one of: with a durable head, all but the head
)


def durable_env(folder: Path) -> dict[str, str]:
    """What the head needs to keep the cluster's state in `folder` (Ray's embedded RocksDB), over its own death."""
    return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder), **PATIENCE}


def token_env(token: str) -> dict[str, str]:
    """Token authentication, said outright: left to itself Ray decides by what lies in the home folder."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
