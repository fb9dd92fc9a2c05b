"""The command `mixer`. Thin: each command asks one module, prints what it says, and ends with its exit code.

Exit codes: 0 done, 1 the run failed, 2 the user can fix it (one line), 3 stopped or preempted and resumable. Nothing heavy is imported
here: `--help` and the errors of a spec answer without torch and ray.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from orchestrator.commands import data, machines, results, runs, weights
from orchestrator.commands.shared import err
from orchestrator.errors import RESUMABLE, USAGE, MixerError, SpecError

app = typer.Typer(
    name="mixer",
    help="Pretrain MLP-Mixer on clusters that lose machines.",
    epilog="Exit codes: 0 done, 1 the run failed, 2 you can mend it, 3 stopped or preempted and resumable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cluster_app = typer.Typer(help="Start and end clusters.", no_args_is_help=True, rich_markup_mode=None)
COMMANDS: dict[str, Callable[..., None]] = {
    "pack": data.pack,
    "index": data.index,
    "verify": data.verify,
    "recipes": runs.recipes,
    "train": runs.train,
    "submit": runs.submit,
    "ls": runs.list_command,
    "status": runs.status,
    "logs": runs.logs,
    "stop": runs.stop,
    "scale": runs.scale,
    "report": results.report,
    "look": results.look,
    "eval": results.eval_command,
    "import": weights.import_command,
    "export": weights.export,
    "demo": results.demo,
    "notice": machines.notice,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
cluster_app.command("up")(machines.cluster_up)
cluster_app.command("down")(machines.cluster_down)
app.add_typer(cluster_app, name="cluster")


def main() -> None:
    """The console script."""
    from clusters.jobs_client import JobError
    from clusters.local_state import ClusterError
    from clusters.object_store import ObjectStoreError
    from data_pipeline.errors import DataError

    try:
        app(standalone_mode=True)
    except SpecError as error:
        _fail("\n".join(error.problems), USAGE)
    except MixerError as error:
        _fail(str(error), error.exit_code)
    except (DataError, ClusterError, JobError, ObjectStoreError) as error:
        _fail(str(error), USAGE)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; a run that was led from here is resumable", RESUMABLE)


def _fail(text: str, code: int) -> None:
    err.print(f"mixer: {text}", markup=False)
    sys.exit(code)
