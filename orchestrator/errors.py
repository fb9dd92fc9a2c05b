"""The errors a user meets, and the exit code each one ends a command with.

MixerError (1)             the run failed
+-- UserError (2)          the user can fix it: what was given, what is allowed, what to do
|   +-- SpecError (2)      the spec, one line per mistake
|   +-- RunBusy (2)        another driver is alive on this run
|   +-- WrongData (2)      the data set at the url is not the run's
+-- Fenced (3)             another driver wrote this run's next log entry: this one must stop; the run goes on without it
+-- DamagedCheckpoint (1)  bytes of a checkpoint do not match its manifest
+-- StoreLost (3)          the store stopped answering; the run can be resumed
+-- Diverged (1)           a batch gave a loss or a gradient that cannot be used
+-- PeerLost (1)           another rank is gone; seen by the ranks that are left
"""

from __future__ import annotations

from data_pipeline.errors import DataError, StoreError

DONE, FAILED, USAGE, RESUMABLE = 0, 1, 2, 3


class MixerError(Exception):
    """The run failed."""

    exit_code = FAILED


class UserError(MixerError):
    """Something the user gave is wrong, and the message says how to mend it."""

    exit_code = USAGE


class SpecError(UserError):
    """The spec is wrong. `problems` holds one line per mistake."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class RunBusy(UserError):
    """Another driver is alive on this run."""


class Fenced(MixerError):
    """Another driver has written the log entry this one was about to write."""

    exit_code = RESUMABLE


class DamagedCheckpoint(MixerError):
    """Bytes of a checkpoint do not match the checksum in its manifest."""


class StoreLost(MixerError):
    """The store stopped answering for longer than the run waits."""

    exit_code = RESUMABLE


class Diverged(MixerError):
    """The loss or the gradient's norm of step `step`, on batch `batch`, is not finite or far too large. Nothing of that step is saved."""

    def __init__(self, step: int, batch: int, why: str) -> None:
        self.step, self.batch, self.why = step, batch, why
        super().__init__(f"step {step}, batch {batch}: {why}")

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, int, str]]:
        return type(self), (self.step, self.batch, self.why)  # it travels between processes


class PeerLost(MixerError):
    """Another rank of this attempt is gone, so a collective cannot end. Says nothing about this rank."""


class WrongData(UserError):
    """The data set at the url is not the one the run was frozen with."""


def needs_the_user(error: BaseException) -> bool:
    """Whether trying again cannot help: what the user gave is wrong, or the data set is damaged."""
    if isinstance(error, MixerError):
        return error.exit_code == USAGE
    return isinstance(error, DataError) and not isinstance(error, StoreError)
