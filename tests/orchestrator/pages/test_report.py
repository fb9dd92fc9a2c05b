"""The report: one file that says what came of a run, safe to open whatever its names and causes hold."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.accounts.account import Account
from orchestrator.accounts.status import Book
from orchestrator.accounts.timeline import Stroke
from orchestrator.pages import bars, charts
from orchestrator.pages.headline import model_name
from orchestrator.pages.page import Html, count, duration, size, tag
from orchestrator.pages.report import write_report
from orchestrator.resolving import freeze
from tests.runs import make_small
from tests.scripted_run import SPEC, ScriptedRun, killed_once

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> $x^{ s3://key:hunter2@host/b"
VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Collects tags, texts and whatever could load or run something; checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            inner = (value or "").startswith(("data:image/png", "#"))
            if name.startswith("on") or (name in ("src", "href", "xlink:href", "action") and not inner):
                self.loads.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\N{NO-BREAK SPACE}", " ")


def read(book: Book, path: Path) -> tuple[Reader, str]:
    text = write_report(book, path).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader, text


def test_a_report_tells_the_run(tmp_path: Path) -> None:
    reader, text = read(killed_once(tmp_path).book(), tmp_path / "out" / "report.html")
    for words in (
        "digits-abc123",
        "finished",
        "96.80%",
        "120 of 120 steps",
        "worker killed at step 53",
        "13 steps had to be done again",
        "11.5 s",
        "worker killed, step 53",
        "validation accuracy, %",
        "rank 1 died: SIGKILL",
        "checkpoints/0000000120-",
        "token_dim: 32",
        "wall time",
    ):
        assert words in reader.text
    assert text.count("data:image/png;base64,") == 4
    assert reader.loads == []
    assert "script" not in reader.tags
    assert "url(http" not in text
    assert "@import" not in text


def test_the_tables_seconds_add_up_to_the_wall_time(tmp_path: Path) -> None:
    book = killed_once(tmp_path).book()
    _, text = read(book, tmp_path / "report.html")
    body = text[text.index('class="ledger"') :]
    rows = re.findall(
        r'<td class="n">([\d,.]+)</td><td class="n">([\d.]+)%</td>', body[: body.index("</table>")]
    )
    *names, wall = [float(seconds.replace(",", "")) for seconds, _ in rows]
    assert sum(names) == pytest.approx(wall, abs=0.06)
    assert wall == pytest.approx(book.ledger.wall_s, abs=0.01)


def test_hostile_names_and_causes_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    spec = copy.deepcopy(SPEC)
    spec["data"]["train"] = "data/<b>train</b>"
    run = killed_once(tmp_path, spec, cause=f"{HOSTILE} very-secret-value")
    run.note(2, "bad sample", id=1, item=1, substitute=2, why=HOSTILE)
    run.note(2, "worker", pid=1, host=f"host-{HOSTILE}")
    reader, text = read(run.book(), tmp_path / "report.html")
    assert "script" not in reader.tags
    assert "b" not in reader.tags or "<b>train" not in text
    assert reader.loads == []
    assert "<script>alert(1)</script>" in reader.text
    assert "hunter2" not in text
    assert "very-secret-value" not in text


@pytest.mark.parametrize("steps", [0, 1, 30])
def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path, steps: int) -> None:
    run = ScriptedRun(tmp_path)
    if steps:
        one = run.begin()
        run.steps(one, 1, steps)
    reader, _ = read(run.book(), tmp_path / "report.html")
    assert "No checkpoint has been committed yet." in reader.text
    assert ("No step has been noted yet." in reader.text) == (steps == 0)


def test_a_damaged_checkpoint_costs_the_picture_only(tmp_path: Path) -> None:
    run = killed_once(tmp_path)
    newest = [entry for entry in run.log.entries if entry.kind == "checkpoint committed"][-1].facts["path"]
    file = f"{newest}/rank-00000.safetensors"
    run.run.store.put(file, b"\1" * len(run.run.store.get(file)))
    reader, text = read(run.book(), tmp_path / "report.html")
    assert "data:image/png" not in text
    assert "It cannot be drawn" in reader.text
    assert "CRC32C" in reader.text


def test_the_account_knows_attempts_and_what_was_lost(tmp_path: Path) -> None:
    account = Account(killed_once(tmp_path).book())
    first, second = account.attempts
    assert (first.number, first.begin, first.reached, first.kept, first.again) == (1, 0, 53, 40, 13)
    assert (second.number, second.begin, second.reached, second.kept, second.fault) == (2, 40, 120, 120, None)
    assert first.fault == "worker killed"
    assert [step for step, _ in account.lost[0]] == list(range(41, 54))
    assert account.recovery_s == pytest.approx(11.45, abs=1e-3)
    assert [event["step"] for event in account.evaluations] == [20, 40, 60, 120]


def test_a_driver_that_went_is_a_fault(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.steps(one, 1, 20)
    path = run.save(one, 20)
    run.steps(one, 21, 25)
    run.log.writer = "other/2/bb"
    run.add("taken over", after=60, why="resumed")
    two = run.begin(step=20, path=path)
    run.steps(two, 21, 40, fresh=True)
    (fault,) = Account(run.book()).faults
    assert (fault.fault, fault.reached, fault.again, fault.back) == ("driver gone", 25, 5, True)


def test_a_long_curve_is_thinned() -> None:
    points = [(step, float(step)) for step in range(100_000)]
    thinned = charts.thin(points)
    assert len(thinned) == charts.MOST_POINTS
    assert thinned[0][0] < 100
    assert [step for step, _ in thinned] == sorted(step for step, _ in thinned)
    assert charts.smooth(points, 11)[50] == (50, 50.0)


def test_pieces_of_the_timeline_keep_every_second() -> None:
    spans = [
        Stroke(i, i + (0.9 if n else 0.1), name)
        for i in range(5000)
        for n, name in enumerate(("data wait", "productive"))
    ]
    line = [
        Stroke(
            s.start + (0.1 if s.name == "productive" else 0),
            s.start + (1 if s.name == "productive" else 0.1),
            s.name,
        )
        for s in spans
    ]
    cut = bars.pieces(line, 5000 / bars.FINEST)
    assert len(cut) <= 2 * bars.FINEST
    assert sum(sum(piece.seconds.values()) for piece in cut) == pytest.approx(5000)


def test_tags_escape_what_is_not_markup() -> None:
    assert tag("p", "<b>", Html("<i></i>"), title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt;<i></i></p>'


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.5, "0.50 s"),
        (12.34, "12.3 s"),
        (200, "3 min 20 s"),
        (8040, "2 h 14 min"),
        (3600, "1 h"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations_read_well(seconds: float, said: str) -> None:
    assert duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == said


def test_numbers_read_well() -> None:
    assert (count(12345.6), count(7), count(3.14159), size(24_576), size(12)) == (
        "12,346",
        "7",
        "3.14",
        "24.6 kB",
        "12 B",
    )


def test_importing_the_report_imports_neither_torch_nor_matplotlib_nor_ray() -> None:
    heavy = "{'torch', 'matplotlib', 'ray', 'deepspeed', 'boto3'}"
    code = (
        f"import sys, orchestrator.pages.report, orchestrator.logs; print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    write_report(killed_once(tmp_path).book(), tmp_path / "report.html")
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("model={preset: S/32, classes: 10}",), "Mixer-S/32 ("),
        (("model={preset: S/32, classes: 10, image_size: 448, token_dim: 1024}",), "Mixer-S/32 ("),
        (("model={preset: S/32, classes: 10, depth: 2}",), "Mixer 2 x 512 ("),
        (("model.mixer=s2",), "Mixer 2 x 32, tokens by s2 ("),
        ((), "Mixer 2 x 32 ("),
    ],
)
def test_the_network_is_called_what_it_is(
    tmp_path: Path, digits: str, overrides: tuple[str, ...], name: str
) -> None:
    """Not by a preset whose parts the spec has overridden, nor without what mixes its tokens."""
    resolved = make_small(tmp_path, digits).resolve("x", *overrides)
    freeze(resolved, print, submitted=True)
    assert model_name(Book(resolved.run)).startswith(name)
