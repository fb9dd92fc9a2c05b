"""From a spec or a name to a led run: what `mixer train` and the driver of `mixer submit` do.

resolve() finds or makes the Run -> lead() claims it (holder.json, the log), joins the cluster, and lets the Supervisor run attempts
until the run ends or must leave. Signals only set a flag; the second one leaves without saving.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_pipeline.storage import Store, StoreError
from orchestrator import left_out
from orchestrator.errors import DONE, RESUMABLE, SpecError, StoreLost, UserError
from orchestrator.frozen import DataFacts, Frozen, InitFacts, bind, differences, identity, resources
from orchestrator.run_log import ENDS, Entry, RunLog, new_writer
from orchestrator.run_store import Heartbeat, Run, create, effective, list_runs, new_name, runs_url
from orchestrator.spec import Spec
from orchestrator.spec_text import load_spec, load_tree, parse_spec, written
from orchestrator.urls import absolute, whole

if TYPE_CHECKING:
    from data_pipeline.shards.dataset import Dataset
    from orchestrator.weights.initial import Initial

Say = Callable[[str], None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
SAME_SIGNAL_S = 1.0
CLAIMS = {"created": "submitted", "submitted": "submitted", **dict.fromkeys(ENDS, "resumed")}


@dataclass(frozen=True)
class Resolved:
    """A run to lead: `frozen` with the resources wanted now; `new` when nothing lies in the bucket yet."""

    run: Run
    frozen: Frozen
    new: bool
    initial: Initial | None = None  # of a new run: the weights it begins with, to be copied into the bucket
    kept: tuple[
        str, ...
    ] = ()  # of a resumed one: what it has otherwise than a new run of the same spec would


def default_store(given: str | None = None) -> str:
    """The store to look in: given, MIXER_STORE, or the last one used. UserError when there is none."""
    memo = _memo()
    store = given or os.environ.get("MIXER_STORE") or (memo.read_text().strip() if memo.exists() else "")
    if not store:
        raise UserError(
            "no store given; use --store s3://bucket/prefix (or a folder), set MIXER_STORE, or write store: in the spec"
        )
    return store


def remember_store(store: str) -> None:
    """Let `mixer ls` find this store next time. A home that cannot be written is no reason to fail."""
    try:
        _memo().parent.mkdir(parents=True, exist_ok=True)
        _memo().write_text(store)
    except OSError:
        return


def _memo() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "mixer" / "store"


def find_run(name: str, store: str | None = None) -> Run:
    """The run called `name` (or at the url `name`). UserError names the runs there are."""
    url = absolute(name) if "/runs/" in name else f"{runs_url(default_store(store))}/{name}"
    run = Run(url)
    if not run.exists():
        base = url.rsplit("/runs/", 1)[0]
        there = list_runs(base)
        raise UserError(f"no run {run.name} in {base}; there: {', '.join(there[-8:]) or 'none'}")
    remember_store(url.rsplit("/runs/", 1)[0])
    return run


def resolve(
    target: str,
    *,
    store: str | None = None,
    name: str | None = None,
    overrides: Sequence[str] = (),
    remember: bool = True,
) -> Resolved:
    """The run that `target` (a spec's path, a run's name or url) means. UserError when it differs from a frozen run's identity."""
    if Path(target).suffix in (".yaml", ".yml"):
        return _from_spec(load_tree(target, overrides), store, name, remember)
    if name:
        raise UserError(
            f"--name {name} goes with a spec; {target} is taken for the name of a run (a spec ends in .yaml)"
        )
    run = find_run(target, store)
    frozen = effective(run.frozen(), run.log().entries)
    tree = yaml.safe_load(yaml.safe_dump(frozen.spec.model_dump(mode="json", by_alias=True)))
    if not overrides:
        return _resume(run, frozen.spec)
    spec = parse_spec(yaml.safe_dump(tree), overrides, where=run.name, recipes=False)
    if spec.recipe != frozen.spec.recipe:
        raise UserError(
            f"run {run.name} was made with recipe {frozen.spec.recipe}, and has all its values; --set recipe={spec.recipe} would change "
            "none of them: set the keys you mean, or start a new run from a spec"
        )
    return _resume(run, whole(spec, run.url.rsplit("/runs/", 1)[0]))


def _from_spec(tree: dict[str, Any], store: str | None, name: str | None, remember: bool) -> Resolved:
    spec = written(tree)
    base = absolute(store or spec.store or default_store())
    spec = whole(spec, base)
    run = Run(f"{runs_url(base)}/{name or new_name(spec.name)}")
    if name and not _NAME.fullmatch(name):
        raise UserError(
            f"--name got {name!r}; allowed are letters, digits, `.`, `_` and `-`, 1 to 80 of them, a letter or digit first"
        )
    if remember:
        remember_store(base)
    if run.exists():
        resumed, kept = left_out.resumed(tree, run.frozen())
        return replace(_resume(run, whole(resumed, base)), kept=tuple(kept))
    data, initial = data_facts(spec), _initial(spec)
    init = initial.facts if initial else None
    frozen = bind(spec, *data, code=code_versions(), init=init)
    return Resolved(run, frozen, new=True, initial=initial)


def frozen_of(path: str, overrides: Sequence[str] = ()) -> Frozen:
    """A new run of the spec at `path` as it would be frozen, its first weights left aside. Nothing is written anywhere."""
    spec = whole(load_spec(path, overrides))
    return bind(spec, *data_facts(spec), code=code_versions())


def _initial(spec: Spec) -> Initial | None:
    """The weights that `spec` begins with, read and fitted; None where they are drawn."""
    if spec.model.init is None:
        return None
    from orchestrator.weights.initial import prepare

    return prepare(spec)


def _resume(run: Run, spec: Spec) -> Resolved:
    frozen = run.frozen()
    train, val = (frozen.train, frozen.val) if spec.data == frozen.spec.data else data_facts(spec)
    init = frozen.init if spec.model.init == frozen.spec.model.init else _init_facts(spec)
    if init and frozen.init and frozen.init.weights is None:
        init = replace(init, weights=None)  # frozen by a version that knew the file's digest only
    changed = differences(
        identity(frozen.spec, frozen.train, frozen.val, frozen.init), identity(spec, train, val, init)
    )
    if changed:
        raise SpecError(
            [f"run {run.name} is frozen and differs in {len(changed)} key(s): {'; '.join(changed)}. "
             "Put them back, or start a new run under another --name"]
        )  # fmt: skip
    return Resolved(run, frozen.with_resources(spec), new=False)


def _init_facts(spec: Spec) -> InitFacts | None:
    initial = _initial(spec)
    return initial.facts if initial else None


def data_facts(spec: Spec) -> tuple[DataFacts, DataFacts | None]:
    """What the run must know of its data sets. UserError when one is not there."""
    train = _opened(spec.data.train, spec.model.classes)
    val = _opened(spec.data.val, spec.model.classes) if spec.data.val else None
    if val:
        check_classes(train, val)
    return _facts(train), _facts(val) if val else None


def _opened(url: str, classes: int) -> Dataset:
    from data_pipeline.shards.dataset import Dataset

    try:
        dataset = Dataset.open(url)
    except StoreError as error:
        raise UserError(f"data at {url}: {error}") from None
    if dataset.max_label >= classes:
        raise UserError(
            f"data at {url} has label {dataset.max_label}; model.classes is {classes}, and labels begin with 0"
        )
    return dataset


def check_classes(train: Dataset, val: Dataset) -> None:
    """Where both sets name their classes, they must number them alike: else validation measures something else."""
    if train.classes is None or val.classes is None or train.classes == val.classes:
        return
    pairs = zip_longest(train.classes, val.classes)
    number, (one, other) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
    raise UserError(
        f"class {number} is {one!r} in {train.url} and {other!r} in {val.url}: the labels of data.train and data.val do not mean "
        f"the same; pack or index one of them again with --classes {train.index_url}/index.json"
    )


def _facts(dataset: Dataset) -> DataFacts:
    return DataFacts(dataset.samples, dataset.mean_bytes, dataset.digest)


def code_versions() -> dict[str, str]:
    """What a run was made with."""
    found = {}
    for package in ("mixer-pretrain", "torch", "deepspeed", "ray", "webdataset"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "source"
    return found


def freeze(resolved: Resolved, say: Say, *, submitted: bool, writer: str | None = None) -> bool:
    """Write a new run into the bucket. Whether the store honours conditional writes."""
    honours = probe(resolved.run.store, say)
    for line in resolved.kept:
        say(f"run {resolved.run.name} keeps what the spec leaves out: {line}")
    if resolved.new:
        if resolved.initial:
            for note in resolved.initial.notes:
                say(f"note on {resolved.initial.facts.source}: {note}")
            resolved.initial.write(resolved.run.store)
        create(
            resolved.run, resolved.frozen, writer or new_writer(), conditional=honours, submitted=submitted
        )
    return honours


def probe(store: Store, say: Say) -> bool:
    """Whether `store` honours conditional writes; says what it does not honour and what that means."""
    found = store.probe()
    for line in found.describe():
        say(line)
    return bool(found.conditional_put)


def lead(resolved: Resolved, *, take_over: bool, say: Say, machines: Any = None) -> int:
    """Lead the run until it ends or must leave; the exit code. RunBusy while another driver is alive; Fenced when one takes over."""
    from orchestrator.leading.supervisor import Supervisor

    run = resolved.run
    run.require_free(take_over=take_over)
    writer = new_writer()
    conditional = freeze(resolved, say, submitted=False, writer=writer)
    # A store that is away for a while must not end a healthy run: its driver asks as long as it would wait for machines.
    run = Run(run.url, patience_s=resolved.frozen.spec.recovery.wait.seconds)
    log = run.log(writer, conditional=conditional)
    if log.last("finished"):
        say(f"run {run.name} has finished; `mixer report {run.name}` shows it")
        return DONE
    claim = _claim(log, resolved, take_over=take_over)
    for line in _other_code(resolved):
        say(line)
    with Heartbeat(run, log.writer, job=os.environ.get("MIXER_SUBMISSION_ID"), claim=claim.n):
        gauges = None if machines else _gauges(run)
        supervisor = Supervisor(run, resolved.frozen, log, machines or _ray(resolved, say), say, gauges)
        if changed(resolved, log):
            supervisor.set_resources(resolved.frozen.spec)
        with _signals(supervisor):
            try:
                return supervisor.lead()
            except StoreError as error:
                raise StoreLost(
                    f"{error}; the run goes on with `mixer train {run.name}` once the store answers"
                ) from None


def _claim(log: RunLog, resolved: Resolved, *, take_over: bool) -> Entry:
    """The entry by which this driver leads from now on."""
    facts = {"job": os.environ.get("MIXER_SUBMISSION_ID"), "forced": take_over, "code": code_versions()}
    if not log.entries:  # the one who froze it died before the first entry
        frozen = resolved.frozen
        log.append(
            "created",
            run=resolved.run.name,
            fingerprint=frozen.fingerprint,
            code=frozen.code,
            steps=frozen.steps,
        )
    last = log.entries[-1]
    if resolved.new and last.n == 0 and not last.facts.get("submitted"):
        return last
    return log.append("taken over", **facts, why=CLAIMS.get(last.kind, "no driver was alive"))


def _other_code(resolved: Resolved) -> list[str]:
    """What leads the run now and is not what it was made with."""
    made, now = resolved.frozen.code, code_versions()
    return [
        f"run {resolved.run.name} was made with {package} {made[package]}; here it is {now.get(package)}"
        for package in made
        if made[package] != now.get(package)
    ]


def changed(resolved: Resolved, log: RunLog) -> bool:
    """Whether the resources wanted now differ from those the run had last."""
    before = effective(resolved.run.frozen(), log.entries)
    return bool(differences(resources(before.spec), resources(resolved.frozen.spec)))


def _ray(resolved: Resolved, say: Say) -> Any:
    from orchestrator.on_ray.machines import RayMachines

    say(
        "joining the Ray cluster at " + os.environ["RAY_ADDRESS"]
        if os.environ.get("RAY_ADDRESS")
        else "starting Ray on this machine"
    )
    spec = resolved.frozen.spec
    return RayMachines(spec.workers, compiles=spec.train.compile, say=say)


def _gauges(run: Run) -> Any:
    from clusters.gauges import RayGauges
    from orchestrator.accounts.metrics import Metrics

    return Metrics(run.name, run.store, RayGauges())


@contextmanager
def _signals(supervisor: Any) -> Iterator[None]:
    """SIGINT and SIGTERM: save and leave; a second one leaves at once. A keeper, Ray and Slurm all pass on one SIGTERM, so that
    those within a second of the first signal are the same one."""
    first = -SAME_SIGNAL_S

    def handle(number: int, _: object) -> None:
        nonlocal first
        # Says nothing through `say`: this may have interrupted it halfway.
        if number == signal.SIGTERM and time.monotonic() - first < SAME_SIGNAL_S:
            return
        first = time.monotonic()
        if supervisor.leaving:
            os.write(2, b"left at once; the run resumes from its newest checkpoint\n")
            os._exit(RESUMABLE)
        supervisor.leaving = f"{signal.Signals(number).name} of the driver"
        os.write(2, b"saving, then leaving (once more: at once)\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
