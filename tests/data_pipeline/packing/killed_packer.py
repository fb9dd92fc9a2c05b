"""A program that packs and is killed, over and over: `python -m ... SOURCE DEST OPTIONS(json) KILLS`. The process of each try is forked.

KILLS is `writes`: each try ends by SIGKILL right before or right after one of its first writes to (or deletes in) the store, so that all
places between two writes are met; or `times:SEED`: by SIGKILL from outside after a random while. Prints how many were killed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from typing import Any

import webdataset  # noqa: F401  (imported once, before the forks)

from data_pipeline.packing.pack import pack
from data_pipeline.storage.local import LocalStore
from data_pipeline.storage.s3 import S3Store

MOST_TRIES = 400


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_write(last: int, before: bool) -> None:
    """This process ends at its write number `last`, counted from 1: before it is done, or when it is done."""
    count = itertools.count(1)
    for kind, name in [
        (LocalStore, "put_stream"),
        (S3Store, "put"),
        (S3Store, "put_stream"),
        (LocalStore, "delete"),
        (S3Store, "delete"),
    ]:
        real = getattr(kind, name)

        def write(*args: Any, real: Any = real) -> Any:
            mine = next(count) == last
            if mine and before:
                die()
            done = real(*args)
            if mine:
                die()
            return done

        setattr(kind, name, write)


def one_try(source: str, dest: str, options: dict[str, Any], number: int, by_writes: bool) -> int:
    """Forks a packer; the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        if by_writes:
            kill_at_write(1 + number // 6, before=number % 2 == 0)
        pack(source, dest, **options)
        os._exit(0)
    if not by_writes:
        time.sleep(random.uniform(0.0, 0.01 * (number + 1)))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"try {number} failed by itself")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main() -> None:
    source, dest, options, kills = sys.argv[1:]
    by_writes = kills == "writes"
    random.seed(kills)
    for number in range(MOST_TRIES):
        if number > 40 and not by_writes:
            break
        if one_try(source, dest, json.loads(options), number, by_writes) == 0:
            print(number)
            return
    if by_writes:
        raise SystemExit("it never finished")
    pack(source, dest, **json.loads(options))
    print(number)


if __name__ == "__main__":
    main()
