"""What we start we find again and end; what is not ours we never signal."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from clusters.processes import Process, end, marked, spawn, wait_until, without_proxy

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("on", flush=True)
time.sleep(60)
"""


def test_a_mark_is_inherited_into_other_sessions(tmp_path: Path) -> None:
    code = (
        "import subprocess, time; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
    )
    env = dict(os.environ) | {"TEST_MARK": str(tmp_path)}
    spawn([sys.executable, "-c", code], env=env, log=tmp_path / "log", tied=True)
    wait_until(lambda: len(marked("TEST_MARK", str(tmp_path))) == 2, 10, "parent and child")
    end(marked("TEST_MARK", str(tmp_path)), grace_s=5)
    assert marked("TEST_MARK", str(tmp_path)) == []


def test_a_pid_that_became_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    sleeper = spawn(["/bin/sleep", "60"], env={}, log=tmp_path / "log", tied=False)
    namesake = Process(sleeper.pid, sleeper.started - 1)
    end([namesake], grace_s=1)
    assert sleeper.alive()
    end([sleeper], grace_s=5)
    assert not sleeper.alive()


def test_who_does_not_listen_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    deaf = spawn([sys.executable, "-c", STUBBORN], env={}, log=log, tied=True)
    wait_until(lambda: "on" in log.read_text(), 10, "the handler")
    began = time.monotonic()
    end([deaf], grace_s=0.5)
    assert not deaf.alive()
    assert 0.4 < time.monotonic() - began < 5


def test_what_we_start_holds_none_of_our_files(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        sleeper = spawn(["/bin/sleep", "60"], env={}, log=tmp_path / "log", tied=False)
        held = {os.readlink(entry) for entry in Path(f"/proc/{sleeper.pid}/fd").iterdir()}
    end([sleeper], grace_s=5)
    assert held == {os.devnull, str(tmp_path / "log")}


def test_loopback_goes_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert without_proxy() == {}
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "example.org")
    assert without_proxy()["no_proxy"] == "example.org,127.0.0.1,localhost"
