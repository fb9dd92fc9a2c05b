"""One HTML file about a run: what came of it, where the time went, what broke and how it came back.

    Book -> Account -> sections -> page -> file

The file loads nothing and holds no credentials (page.py). It is made from the bucket alone, on any machine,
while the run goes on or after it. matplotlib is imported when a picture is drawn, not before; torch never.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import yaml

from orchestrator.accounts.account import Account
from orchestrator.accounts.loading import in_words
from orchestrator.accounts.status import Book
from orchestrator.logs import stamp
from orchestrator.pages import charts
from orchestrator.pages.gallery import weights
from orchestrator.pages.headline import cards, header, model_name
from orchestrator.pages.page import Html, count, facts, page, section, several, size, table, tag
from orchestrator.pages.toll import attempt_list, fault_list, time_spent
from orchestrator.redact import first_line
from orchestrator.run_log import live_checkpoints

MOST_BAD, MOST_EPOCHS = 20, 12


def write_report(book: Book, path: Path) -> Path:
    """Write the report of the run in `book` to `path`; the path.

    StoreError when the bucket does not answer.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(book), encoding="utf-8")
    return path


def render(book: Book) -> str:
    """The text of the report."""
    account = Account(book)
    return page(
        f"{book.run.name}: mixer report",
        header(account),
        cards(account),
        section("Loss", charts.loss_curve(account), note=_curve_note(account)),
        time_spent(account),
        fault_list(account),
        attempt_list(account),
        weights(book),
        tag("div", _saved(book), _bad_samples(account), class_="two"),
        tag("div", _reading(book), _epochs(book), class_="two"),
        tag("div", _setting(account), _identity(book), class_="two"),
        section("Spec", tag("pre", _spec(book), class_="columns"), class_="long"),
        tag("footer", f"Written {stamp(time.time())} from {book.run.url} by mixer. Times are UTC."),
    )


def _curve_note(account: Account) -> str:
    words = ["Bands are attempts, darker with more workers."]
    if not account.curve:
        return ""
    if account.faults:
        words.append("Dashed lines are faults.")
    if account.lost:
        words.append(
            "Wide red: steps lost to a fault, as they were; the blue line over them: the same steps done again."
        )
    if account.evaluations:
        words.append("Points are evaluations.")
    return " ".join(words)


def _saved(book: Book) -> Html:
    rows = [
        [
            count(entry.facts["step"]),
            size(entry.facts["bytes"]),
            stamp(entry.time)[:16],
            tag("code", entry.facts["path"]),
        ]
        for entry in reversed(live_checkpoints(book.entries))
    ]
    if not rows:
        return section("Checkpoints", tag("p", "None has been committed yet.", class_="note"))
    ever = sum(entry.kind == "checkpoint committed" for entry in book.entries)
    note = f"{len(rows)} of {ever} committed are kept; each is whole, and loads at any number of workers."
    return section(
        "Checkpoints", table(["step", "size", "committed", "path"], rows, numbers=(0, 1)), note=note
    )


def _bad_samples(account: Account) -> Html:
    bad = account.bad_samples
    if not bad:
        return section(
            "Bad samples", tag("p", "None: every image that was asked for was delivered.", class_="note")
        )
    rows = [
        [str(e.get("id")), str(e.get("substitute")), first_line(str(e.get("why")))] for e in bad[:MOST_BAD]
    ]
    more = f" The first {MOST_BAD}." if len(bad) > MOST_BAD else ""
    note = (
        f"{several(len(bad), 'image')} could not be decoded; another took the place of each, by rule.{more}"
    )
    return section("Bad samples", table(["sample", "instead", "why"], rows, numbers=(0, 1)), note=note)


def _reading(book: Book) -> Html:
    found = book.loader
    if not found:
        return section("Reading", tag("p", "No loader has told anything yet.", class_="note"))
    note = f"What the loaders of the newest attempt have done, over {several(int(found['ranks']), 'worker')}."
    return section("Reading", facts(in_words(found)), note=note)


def _epochs(book: Book) -> Html:
    if not book.epochs:
        return section("Epochs", tag("p", "None is whole yet.", class_="note"))
    rows = [
        [count(each["epoch"]), count(each["steps"]), tag("code", each["id_digest"])]
        for each in book.epochs[-MOST_EPOCHS:]
    ]
    note = "Runs whose digests are alike were trained on the same samples in the same order."
    return section("Epochs", table(["epoch", "steps", "sample digest"], rows, numbers=(0, 1)), note=note)


def _setting(account: Account) -> Html:
    book = account.book
    train, frozen = book.frozen.spec.train, book.frozen
    pairs: list[tuple[str, object]] = [
        ("model", model_name(book)),
        ("first weights", frozen.init.words if frozen.init else f"drawn, seed {train.seed}"),
        ("training images", count(frozen.train.samples)),
        ("validation images", count(frozen.val.samples) if frozen.val else "none"),
        (
            "step",
            f"{count(train.global_batch)} images, {count(train.micro_batch)} at a time",
        ),
        (
            "precision",
            f"{train.precision}, ZeRO {train.zero}, {'compiled' if train.compile else 'not compiled'}",
        ),
        (
            "hosts",
            ", ".join(account.hosts[:8])
            + (f" and {len(account.hosts) - 8} more" if len(account.hosts) > 8 else ""),
        ),
    ]
    mfu = book.mfu()
    return section("Setting", facts([*pairs, ("MFU", f"{mfu:.1%}")] if mfu else pairs))


def _identity(book: Book) -> Html:
    code: Callable[[object], Html] = lambda value: tag("code", value)  # noqa: E731
    frozen = book.frozen
    pairs: list[tuple[str, object]] = [
        ("fingerprint", code(frozen.fingerprint)),
        ("training data", code(frozen.train.digest[:16])),
        *([("first weights", code(frozen.init.sha256[:16]))] if frozen.init else []),
        ("samples seen", code(book.status()["id_digest"])),
        *((name, code(version)) for name, version in frozen.code.items()),
    ]
    return section("Identity", facts(pairs))


def _spec(book: Book) -> str:
    tree = book.frozen.spec.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
