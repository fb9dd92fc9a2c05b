"""A driver as a process of its own: `python -m tests.driver_main STORE SPEC NAME [--take-over] [--die MOMENT] [key=value ...]`.

Leads a small run on gangs as `mixer train` would on Ray, and ends with the same exit codes. --die kills it with SIGKILL: `before commit`
(a manifest is whole, the log does not name it) or `after delete` (the log says deleted, the bytes are there).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

from orchestrator.errors import MixerError
from orchestrator.launch import lead
from orchestrator.resolving import resolve
from orchestrator.run_log import Entry, RunLog
from tests import killing
from tests.gang import GangMachines


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("store", "spec", "name"):
        parser.add_argument(name)
    parser.add_argument("--take-over", action="store_true")
    parser.add_argument("--die", choices=("before commit", "after delete"))
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_intermixed_args()
    if args.die:
        RunLog.append = _dying(args.die)  # type: ignore[method-assign]
    try:
        resolved = resolve(args.spec, store=args.store, name=args.name, overrides=args.overrides)
        return lead(resolved, take_over=args.take_over, say=_say, machines=GangMachines(killing.main))
    except MixerError as error:
        _say(f"mixer: {error}")
        return error.exit_code


def _say(text: str) -> None:
    print(text, flush=True)


def _dying(moment: str) -> Any:
    append = RunLog.append

    def dying(log: RunLog, kind: str, **facts: Any) -> Entry:
        if moment == "before commit" and kind == "checkpoint committed" and log.last("checkpoint committed"):
            os.kill(os.getpid(), signal.SIGKILL)
        entry = append(log, kind, **facts)
        if moment == "after delete" and kind == "checkpoint deleted":
            os.kill(os.getpid(), signal.SIGKILL)
        return entry

    return dying


if __name__ == "__main__":
    sys.exit(main())
