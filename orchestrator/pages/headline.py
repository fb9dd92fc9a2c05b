"""The top of a report: the run's name and state, its story in three sentences, and six numbers."""

from __future__ import annotations

from mixer_model import cost
from mixer_model.config import PRESETS, config
from orchestrator.accounts.account import Account
from orchestrator.accounts.status import Book
from orchestrator.logs import stamp
from orchestrator.pages.page import Html, count, duration, several, tag
from orchestrator.redact import first_line


def header(account: Account) -> Html:
    state = account.book.state()
    title = tag("h1", account.book.run.name, tag("span", state, class_=f"pill {state}"))
    return tag("header", title, tag("p", _story(account, state), class_="story"))


def _story(account: Account, state: str) -> str:
    """The run in two or three sentences."""
    book, lines = account.book, account.attempts
    reached = lines[-1].kept if lines else 0
    spec = book.frozen.spec
    worlds = sorted({line.world for line in lines}) or [0]
    workers = several(worlds[-1], "worker") if len(worlds) == 1 else f"{worlds[0]} to {worlds[-1]} workers"
    ended = _ending(book, state)
    said = (
        f"{model_name(book)} on {count(book.frozen.train.samples)} images: {count(reached)} of "
        f"{count(book.frozen.steps)} steps of {count(spec.train.global_batch)} images on {workers}, in {duration(book.ledger.wall_s)}."
    )
    if not account.faults:
        return f"{said} {ended or 'Nothing broke.'}"
    times = {1: "once", 2: "twice"}.get(len(account.faults), f"{len(account.faults)} times")
    what = ", ".join(f"{fault.fault} at step {fault.reached}" for fault in account.faults[:3])
    more = ", ..." if len(account.faults) > 3 else ""
    said = f"{said} It was interrupted {times}: {what}{more}."
    if account.recovery_s is not None:
        again = sum(fault.again for fault in account.faults)
        usual = " (median)" if len(account.faults) > 1 else ""
        said += f" Training went on after {duration(account.recovery_s)}{usual}; "
        said += f"{several(again, 'step')} had to be done again."
    return f"{said} {ended}".rstrip()


def _ending(book: Book, state: str) -> str:
    """Why it is where it is, when that is not its end."""
    why = first_line(str(book.entries[-1].facts.get("why", ""))) if book.entries else ""
    return {
        "failed": f"It gave up: {why}.",
        "stopped": f"It was stopped ({why}) and can be resumed.",
        "waiting": f"It waits for machines: {why}.",
        "abandoned": "No driver is alive; start it again by its name.",
    }.get(state, "")


def model_name(book: Book) -> str:
    """The preset's name where the network is that, be it at another resolution; else depth and width; and what is not the MLP."""
    spec = book.frozen.spec.model
    shape = config(spec.preset, **spec.overrides())
    params = cost(shape).params
    parts = ("patch", "dim", "depth", "channel_dim")
    preset = PRESETS.get(spec.preset or "")
    is_preset = preset and all(getattr(shape, part) == getattr(preset, part) for part in parts)
    name = f"Mixer-{spec.preset}" if is_preset else f"Mixer {shape.depth} x {shape.dim}"
    mixer = "" if shape.mixer == "mlp" else f", tokens by {shape.mixer}"
    return f"{name}{mixer} ({params / 1e6:.3g} M parameters)"


def cards(account: Account) -> Html:
    book, status = account.book, account.book.status()
    newest = account.evaluations[-1] if account.evaluations else None
    rate, recovery = status["images_per_s"], account.recovery_s
    reached = account.attempts[-1].kept if account.attempts else 0
    loss = account.curve[-1][1] if account.curve else None
    best = (
        _card(
            f"{newest['accuracy']:.2%}",
            "validation accuracy",
            (f"top-5 {newest['top5']:.2%}, " if "top5" in newest else "")
            + f"step {newest['step']}, {count(newest['samples'])} images",
        )
        if newest
        else _card(f"{loss:.4g}" if loss is not None else "none yet", "training loss", "not evaluated yet")
    )
    saved = f"median; {several(len(account.faults), 'fault')}" if len(account.faults) > 1 else None
    return tag(
        "div",
        best,
        _card(
            count(reached),
            f"of {count(book.frozen.steps)} steps",
            f"loss {loss:.4g}" if loss is not None else "",
        ),
        _card(count(rate) if rate else "none yet", "images per second", "while stepping"),
        _card(f"{book.ledger.goodput:.1%}", "goodput", "time in steps that count"),
        _card(duration(book.ledger.wall_s), "wall time", stamp(book.ledger.start)[:16]),
        _card(
            duration(recovery) if recovery is not None else "none",
            "time to recover",
            saved or _one_fault(account),
        ),
        class_="cards",
    )


def _card(value: str, name: str, more: str = "") -> Html:
    return tag("div", tag("b", value), tag("span", name), tag("small", more), class_="card")


def _one_fault(account: Account) -> str:
    fault = account.faults[0] if account.faults else None
    return f"{fault.fault}, step {fault.reached}" if fault else "nothing broke"
