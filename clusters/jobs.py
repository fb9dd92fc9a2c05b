"""Ray Jobs: run a command on a cluster whose laptop may go away, with our code beside it.

The chain: `pack_code` copies the packages to a folder -> `submit` uploads it as the job's working directory
and starts the command on the head -> `status`, `logs`, `follow`, `stop`, `wait` by job id, from any machine
that reaches the dashboard. An address is the dashboard's http url, or what RAY_ADDRESS may hold (host:port,
ray://, auto); None means RAY_API_SERVER_ADDRESS or RAY_ADDRESS. An address that is given wins over both.
The token of Ray's authentication goes along when RAY_AUTH_MODE=token.

What is passed in `env` can be read by everybody who may see the dashboard: credentials belong to the
cluster's machines. Errors are those of jobs_client. ray is imported on first use only.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters.jobs_client import (
    AlreadySubmitted,
    JobError,
    NoSuchJob,
    NotAllowed,
    Unreachable,
    client,
)

__all__ = [
    "AlreadySubmitted",
    "Job",
    "JobError",
    "NoSuchJob",
    "NotAllowed",
    "Unreachable",
    "follow",
    "jobs",
    "logs",
    "pack_code",
    "status",
    "stop",
    "submit",
    "wait",
]

PACKAGES = ("orchestrator", "mixer_model", "data_pipeline", "clusters")
STOP_WAIT_S = 120  # between SIGTERM and SIGKILL of a stopped job; Ray's own 3 s do not save a checkpoint
FINAL = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})


@dataclass(frozen=True)
class Job:
    """One job as the cluster tells it. state: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; times in
    epoch seconds.
    """

    id: str
    state: str
    message: str
    exit_code: int | None
    started: float | None
    ended: float | None
    metadata: dict[str, str]

    @property
    def done(self) -> bool:
        return self.state in FINAL


def pack_code(dest: str | Path) -> Path:
    """Copy our packages, without caches, into the folder `dest` (made if missing), for `working_dir`."""
    root, folder = Path(__file__).resolve().parents[1], Path(dest)
    junk = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    for package in PACKAGES:
        if (root / package).is_dir():
            shutil.copytree(root / package, folder / package, ignore=junk, dirs_exist_ok=True)
    return folder


def submit(
    address: str | None,
    entrypoint: str,
    *,
    working_dir: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    submission_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
    entrypoint_num_cpus: float = 0,
    entrypoint_resources: Mapping[str, float] | None = None,
) -> str:
    """Start `entrypoint`, a shell command, with `working_dir` as its directory; returns the id. It runs on
    the cluster's head, or, where CPUs or custom resources are asked for, on a node that has them free.

    A stop gives the command 120 s after SIGTERM (set RAY_JOB_STOP_WAIT_TIME_S in `env` for another time).
    """
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)} | dict(env or {})
    runtime_env: dict[str, Any] = {"env_vars": variables}
    if working_dir is not None:
        runtime_env["working_dir"] = str(working_dir)
    with client(address) as door:
        job_id: str = door.submit_job(
            entrypoint=entrypoint,
            submission_id=submission_id,
            runtime_env=runtime_env,
            metadata=dict(metadata or {}),
            entrypoint_num_cpus=entrypoint_num_cpus,
            entrypoint_resources=dict(entrypoint_resources or {}) or None,
        )
    return job_id


def status(address: str | None, job_id: str) -> Job:
    """What the cluster knows of a job. Raises NoSuchJob."""
    with client(address) as door:
        return _job(door.get_job_info(job_id))


def jobs(address: str | None) -> list[Job]:
    """All jobs that were submitted to the cluster, oldest first; drivers that came another way are left
    out.
    """
    with client(address) as door:
        found = [_job(details) for details in door.list_jobs() if details.submission_id]
    return sorted(found, key=lambda job: job.started or 0.0)


def logs(address: str | None, job_id: str) -> str:
    """All a job has printed so far."""
    with client(address) as door:
        return str(door.get_job_logs(job_id))


def follow(address: str | None, job_id: str) -> Iterator[str]:
    """What a job prints, from its first character, in pieces as they come; ends with the job. A lost
    connection is made again.
    """
    seen, failures = 0, 0
    while True:
        skip = seen
        try:
            with client(address) as door:
                for piece in _each(door.tail_job_logs(job_id)):
                    fresh = piece[skip:]
                    skip = max(0, skip - len(piece))
                    seen, failures = seen + len(fresh), 0
                    if fresh:
                        yield fresh
            if status(address, job_id).done:
                return
        except Unreachable:
            failures += 1
            if failures > 5:
                raise
        time.sleep(1)


def stop(address: str | None, job_id: str) -> bool:
    """SIGTERM to the job's processes, SIGKILL 120 s later; returns at once. False when it was not running.
    See `wait`.
    """
    with client(address) as door:
        return bool(door.stop_job(job_id))


def wait(address: str | None, job_id: str, timeout_s: float) -> Job:
    """The job once it is over. Raises TimeoutError when it still runs after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (job := status(address, job_id)).done:
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {job_id} is still {job.state} after {timeout_s:g} s")
        time.sleep(0.5)
    return job


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id or details.job_id,
        state=str(details.status),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        metadata=dict(details.metadata or {}),
    )


def _each(pieces: AsyncIterator[str]) -> Iterator[str]:
    """An asynchronous iterator walked from ordinary code, in a loop of its own."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(_next(pieces))
            except StopAsyncIteration:
                return
    finally:
        with suppress(RuntimeError):
            loop.run_until_complete(pieces.aclose())  # type: ignore[attr-defined]
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _next(pieces: AsyncIterator[str]) -> str:
    return await anext(pieces)
