"""What clouds and people say about a node becomes one Notice each, told once, and nothing a server does stops the watching."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from clusters import metadata, notices
from clusters.notices import Notice, NoticeError, Watcher, write_notice
from tests.clusters.test_announcements import APRIL, OTHERS, PREEMPT, document
from tests.metadata_servers import AwsServer, AzureServer, GcpServer, MetadataServer, serving
from tests.runs import wait_for

ACTION = '{"action": "stop", "time": "2017-09-18T08:22:00Z"}'


@pytest.fixture(autouse=True)
def _own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*(make.variable for make in (AwsServer, GcpServer, AzureServer)), "MIXER_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIXER_NOTICES", "file")
    monkeypatch.setenv("MIXER_NOTICE_DIR", str(tmp_path / "notices"))
    monkeypatch.setattr(notices, "EVERY_S", 0.02)


class Watch:
    """A watcher of node n1 on one server, with what it told and said."""

    def __init__(self, server: MetadataServer) -> None:
        self.server, self.said = server, list[str]()
        self.told: list[Notice] = []
        self.watcher = Watcher("n1", self.said.append)

    def hears(self, count: int) -> bool:
        self.told += self.watcher.take()
        return len(self.told) >= count

    def looks(self, times: int) -> None:
        """Wait until the server has been asked `times` more."""
        before = len(self.server.asked)
        wait_for(lambda: len(self.server.asked) >= before + times, timeout=30)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watch]]:
    with ExitStack() as stack:

        def start(server: MetadataServer, choice: str | None = None) -> Watch:
            stack.enter_context(serving(server))
            monkeypatch.setenv(server.variable, server.address)
            if choice is None:
                monkeypatch.delenv("MIXER_NOTICES")
            else:
                monkeypatch.setenv("MIXER_NOTICES", choice)
            made = Watch(server)
            stack.enter_context(closing(made.watcher))
            return made

        yield start


def test_aws_tells_each_thing_once(watch: Callable[..., Watch]) -> None:
    server = AwsServer()
    here = watch(server)
    here.looks(4)
    assert not here.hears(1)
    server.pages[server.REBALANCE] = '{"noticeTime": "2020-10-27T08:22:00Z"}'
    wait_for(lambda: here.hears(1), timeout=30)
    server.pages[server.ACTION] = '{"action": "terminate", "time": "2017-09-18T08:22:00Z"}'
    wait_for(lambda: here.hears(2), timeout=30)
    here.looks(6)
    here.hears(0)
    assert here.told == [
        Notice("n1", None, "spot rebalance recommendation", "aws"),
        Notice("n1", 1_505_722_920.0, "spot interruption: terminate", "aws"),
    ]
    assert here.said == []


def test_aws_renews_a_token_that_is_no_longer_taken(watch: Callable[..., Watch]) -> None:
    server = AwsServer()
    here = watch(server, "aws")
    here.looks(4)
    server.token = "token-2"
    server.pages[server.ACTION] = ACTION
    wait_for(lambda: here.hears(1), timeout=30)
    assert here.said == []
    assert server.asked.count("PUT /latest/api/token") == 2


def test_one_page_that_fails_hides_no_other_and_repeats_nothing(watch: Callable[..., Watch]) -> None:
    server = AwsServer()
    server.pages[server.REBALANCE] = "<html>"
    server.pages[server.ACTION] = ACTION
    here = watch(server, "aws")
    here.looks(8)
    here.hears(0)
    assert [notice.cause for notice in here.told] == ["spot interruption: stop"]
    assert len(here.said) == 1
    assert "rebalance: not understood" in here.said[0]


def test_gcp_counts_30_s_from_the_first_sight(watch: Callable[..., Watch]) -> None:
    server = GcpServer()
    here = watch(server)
    here.looks(4)
    before = time.time()
    server.pages[server.PREEMPTED] = "TRUE"
    wait_for(lambda: here.hears(1), timeout=30)
    after = time.time()
    here.looks(6)
    here.hears(0)
    (notice,) = here.told
    assert (notice.cause, notice.source) == ("spot preemption", "gcp")
    assert notice.deadline is not None
    assert before + 30 <= notice.deadline <= after + 30


def test_gcp_tells_the_second_migration_too(watch: Callable[..., Watch]) -> None:
    server = GcpServer()
    here = watch(server)
    for count in (1, 2):
        server.pages[server.MAINTENANCE] = "MIGRATE_ON_HOST_MAINTENANCE"
        wait_for(partial(here.hears, count), timeout=30)
        server.pages[server.MAINTENANCE] = "NONE"
        here.looks(6)
    assert [notice.deadline for notice in here.told] == [None, None]


def test_azure_hears_of_its_own_machine_only(watch: Callable[..., Watch]) -> None:
    server = AzureServer()
    server.schedule(OTHERS)
    here = watch(server)
    here.looks(4)
    assert not here.hears(1)
    server.schedule(OTHERS, PREEMPT)
    wait_for(lambda: here.hears(1), timeout=30)
    here.looks(4)
    here.hears(0)
    assert here.told == [Notice("n1", APRIL, "scheduled event: Preempt", "azure")]
    assert here.said == []


@pytest.mark.parametrize("trouble", ["hang", "cut", "garbage", 401, 403, 404, 500, 302])
@pytest.mark.parametrize("make", [AwsServer, GcpServer, AzureServer])
def test_a_sick_server_is_said_once_and_heard_again_when_well(
    make: type[MetadataServer],
    trouble: str | int,
    watch: Callable[..., Watch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata, "TIMEOUT_S", 0.1)
    server = make()
    server.trouble = trouble
    here = watch(server, {AwsServer: "aws", GcpServer: "gcp", AzureServer: "azure"}[make])
    here.looks(6)
    write_notice(5, "by hand")
    wait_for(lambda: here.hears(1), timeout=30)
    assert here.told[0].source == "file"
    kinds = [line.split(": ", 1)[1].split("(")[0] for line in here.said]
    assert len(kinds) == len(set(kinds)) <= 2
    assert kinds or (make is AwsServer and trouble == 404)  # there a missing page is the usual answer
    server.pages |= {
        AwsServer.ACTION: ACTION,
        GcpServer.PREEMPTED: "TRUE",
        AzureServer.EVENTS: document(PREEMPT),
    }
    server.trouble = None
    server.released.set()
    wait_for(lambda: here.hears(2), timeout=30)


def test_only_the_cloud_that_answers_is_asked(
    watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = AwsServer()
    deaf.trouble = 404
    with serving(deaf):
        monkeypatch.setenv(deaf.variable, deaf.address)
        here = watch(AzureServer())
        here.looks(6)
        assert deaf.asked == ["PUT /latest/api/token"]
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        found = metadata.find()
        assert found is not None
        assert found.name == "azure"
        assert len(deaf.asked) == 1


@pytest.mark.parametrize("make", [AwsServer, GcpServer, AzureServer])
def test_no_cloud_is_taken_for_another(make: type[MetadataServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """All three lie on one address in the clouds."""
    with serving(make()) as server:
        monkeypatch.setenv(AwsServer.variable, f"http://{server.host}")
        monkeypatch.setenv(GcpServer.variable, server.host)
        monkeypatch.setenv(AzureServer.variable, f"http://{server.host}")
        found = metadata.find()
        assert found is not None
        assert found.variable == server.variable


def test_the_choice_is_obeyed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(AwsServer()) as server:
        monkeypatch.setenv(server.variable, server.address)
        for choice in ("file", "none"):
            monkeypatch.setenv("MIXER_NOTICES", choice)
            with closing(Watcher("n1")) as watcher:
                write_notice(5, choice)
                told = [notice.cause for notice in watcher.take()]
                assert told == ([] if choice == "none" else ["file"])
        assert server.asked == []
    monkeypatch.setenv("MIXER_NOTICES", "asw")
    with pytest.raises(NoticeError, match="MIXER_NOTICES got 'asw'; allowed: aws, gcp, azure, file, none"):
        Watcher("n1")


def test_a_file_is_told_once_to_whom_it_concerns(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Watcher("n1")) as one, closing(Watcher("n2")) as two:
        write_notice(None, "all of us")
        write_notice(120, "only you", node="n2")
        assert [(notice.node, notice.cause, notice.deadline) for notice in one.take()] == [
            ("n1", "all of us", None)
        ]
        assert [(notice.node, notice.cause) for notice in two.take()] == [
            ("n2", "all of us"),
            ("n2", "only you"),
        ]
        assert one.take() == two.take() == []
        monkeypatch.setenv("MIXER_NODE", "host-7")  # the same name for who writes and who reads
        path = write_notice(0, "at once")
        assert path.parent.name == "host-7"
        assert [notice.cause for notice in one.take()] == ["at once"]


def test_leftovers_are_no_news_and_old_files_go(tmp_path: Path) -> None:
    folder = tmp_path / "notices"
    old = write_notice(120, "long ago")
    past = time.time() - 100_000
    for deadline in (past + 120, None):
        old.write_text(json.dumps({"deadline": deadline, "cause": "long ago", "written": past}))
        with closing(Watcher("n1")) as watcher:
            assert watcher.take() == []
    os.utime(old, (past, past))
    fresh = write_notice(120, "now")
    assert sorted(folder.iterdir()) == [fresh]


def test_a_bad_file_is_said_once_and_the_others_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    with closing(Watcher("n1", said.append)) as watcher:
        assert watcher.take() == []  # no folder yet is nothing to speak of
        write_notice(120, "good")
        for name, text in (
            ("a", "{"),
            ("b", "[]"),
            ("c", '{"deadline": "soon", "cause": "x", "written": 1}'),
        ):
            (tmp_path / "notices" / f"{name}.json").write_text(text)
        told = [*watcher.take(), *watcher.take()]
    assert [notice.cause for notice in told] == ["good"]
    assert len(said) == 3


def test_a_folder_that_others_can_write_in_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_folder, target = tmp_path / "open", tmp_path / "target"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    target.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(target)
    text = json.dumps({"deadline": None, "cause": "planted", "written": time.time()})
    for folder, inside in ((open_folder, open_folder), (tmp_path / "link", target)):
        (inside / "planted.json").write_text(text)
        monkeypatch.setenv("MIXER_NOTICE_DIR", str(folder))
        said: list[str] = []
        with closing(Watcher("n1", said.append)) as watcher:
            assert [*watcher.take(), *watcher.take()] == []
        assert len(said) == 1
        with pytest.raises(NoticeError, match="nobody else can write"):
            write_notice(5, "x")


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(NoticeError, match="0 or more seconds"):
        write_notice(seconds, "x")
    with pytest.raises(NoticeError, match="cannot name a folder"):
        write_notice(1, "x", node="../up")


def test_the_command_writes_what_the_watcher_tells() -> None:
    base = [sys.executable, "-m", "orchestrator", "notice"]
    with closing(Watcher("n1")) as watcher:
        before = time.time()
        run = subprocess.run(
            [*base, "--in", "120", "--cause", "slurm", "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert Path(json.loads(run.stdout)["file"]).exists()
        (notice,) = watcher.take()
    assert notice.cause == "slurm"
    assert notice.deadline is not None
    assert before + 120 <= notice.deadline <= time.time() + 120
    wrong = subprocess.run([*base, "--in", "-3"], capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 2
    assert "a notice got the deadline -3.0 s; allowed are 0 or more" in wrong.stderr
