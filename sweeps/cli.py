"""The `cola` command: mounts the commands of every package and turns errors into one line."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sweeps.interrupts import leaving_at_once

with leaving_at_once():  # these take seconds
    import typer
    from rich.console import Console

    from analysis.cli import app as analysis_app
    from analysis.cli import report
    from cola import process_environment
    from cola.errors import INTERRUPTED, ColaError, StorageError, one_line
    from cola.logs import set_up_logging
    from orchestration.benchmark.cli import app as benchmark_app
    from orchestration.cli.clean import app as clean_app
    from orchestration.cli.clusters import app as clusters_app
    from orchestration.cli.evaluate import app as evaluate_app
    from orchestration.cli.fetch import app as fetch_app
    from orchestration.cli.jobs import app as jobs_app
    from orchestration.cli.score import app as scoring_app
    from orchestration.cli.status import app as status_app
    from orchestration.cli.study import app as orchestration_app
    from orchestration.remote.submission import Submission
    from sweeps.schema_cli import app as schema_app
    from sweeps.space.catalog import shipped_sweeps
    from sweeps.sweep_cli import app as sweep_app
    from sweeps.sweep_cli import show_status, submission

# The states of a disk or of its files that a person can mend.
STORAGE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE,
    errno.EISDIR, errno.ENOTDIR,
)  # fmt: skip

app = typer.Typer(
    name="cola",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for mounted in (
    orchestration_app, benchmark_app, status_app, jobs_app, fetch_app, clean_app, clusters_app,
    evaluate_app, scoring_app, analysis_app, schema_app,
):  # fmt: skip
    app.add_typer(mounted)
app.add_typer(sweep_app, name="sweep")


@dataclass(frozen=True)
class Services:
    """What commands of one package may ask of another's."""

    report: Callable[[str, str], None]
    sweep_report: Callable[[Path], None]
    register_forecast: Callable[[Path, str, float], str]
    sweeps: Callable[[], Iterable[str]]
    sweep_submission: Callable[..., Submission]
    sweep_status: Callable[[str, bool], None]


@app.callback()
def compose(
    context: typer.Context,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Log starts, ends and decisions to stderr; -vv: details too. Same as "
            "COLA_LOG=info or COLA_LOG=debug.",
        ),
    ] = 0,
) -> None:
    """Scaling studies of Cola DLM, AR and masked-diffusion language models."""
    set_up_logging(verbose)
    context.obj = Services(
        report=lambda study, output: report(study, output),
        sweep_report=report_sweep,
        register_forecast=forecast,
        sweeps=shipped_sweeps,
        sweep_submission=submission,
        sweep_status=show_status,
    )


def report_sweep(folder: Path) -> None:
    """Write a sweep's page, and print where it is."""
    from analysis.sweep_report.report import write_sweep_report  # takes a second

    typer.echo(str(write_sweep_report(folder)))


def forecast(folder: Path, arm: str, budget: float) -> str:
    """Register what the finished budgets of a rate sweep's arm forecast for this one, FLOPs."""
    from analysis.sweep_report.rate_forecast import register_forecast  # takes a second

    return register_forecast(folder, arm, budget)


def main() -> None:
    """Run the command line; an error prints one line and ends with its exit code."""
    process_environment.command()
    try:
        app()
    except ColaError as error:
        leave(error)
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        leave(storage_error(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def leave(error: ColaError) -> None:
    """Print the error's line and end with its exit code."""
    Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    sys.exit(error.exit_code)


def storage_error(error: OSError) -> StorageError:
    """An error of a disk that no command turned into one of its own."""
    where = error.filename or "a file"
    return StorageError(
        f"{where}: {error.strerror or one_line(error)}; make room, or check that it is a file or "
        "folder that this user may use"
    )


if __name__ == "__main__":
    main()
