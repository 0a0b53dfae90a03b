"""The `cola` command: mounts the commands of every package and turns errors into one line."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sweeps.interrupts import leaving_at_once

with leaving_at_once():
    import typer

    from cola import process_environment
    from cola.errors import INTERRUPTED, ColaError, StorageError, one_line
    from cola.logs import set_up_logging
    from cola.terminal import say, waiting
    from sweeps.lazy_group import LazyGroup

if TYPE_CHECKING:
    from orchestration.remote.submission import Submission

# The states of a disk or of its files that a person can mend.
STORAGE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE,
    errno.EISDIR, errno.ENOTDIR,
)  # fmt: skip

EXAMPLES = """\
First steps:
  cola plan demo               what a small study would train, and its cost
  cola run demo                train it: some ten minutes on two CPU cores
  cola report demo             its scaling curves, outputs/studies/demo/report/report.html
  cola init FOLDER             a first study of one's own texts
  cola COMMAND --help          options and examples of a command
"""
app = typer.Typer(
    name="cola",
    cls=LazyGroup,
    no_args_is_help=True,
    epilog=EXAMPLES,
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True)
class Services:
    """What commands of one package may ask of another's."""

    report: Callable[[str, str], None]
    store_report: Callable[[Path], None]
    sweep_report: Callable[[Path], None]
    register_forecast: Callable[[Path, str, float], str]
    sweeps: Callable[[], Iterable[str]]
    sweep_submission: Callable[..., Submission]
    sweep_status: Callable[[str, bool, bool], None]


def show_version(asked: bool) -> None:
    """Print the product's version and leave, if it is asked for."""
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"cola {version('cola-scaling')}")
        except PackageNotFoundError:
            typer.echo("cola: the package cola-scaling is not installed, so no version is known")
        raise typer.Exit


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
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """Scaling studies of Cola DLM, AR and masked-diffusion language models."""
    set_up_logging(verbose)
    context.obj = Services(
        report=write_report,
        store_report=store_report,
        sweep_report=report_sweep,
        register_forecast=forecast,
        sweeps=sweep_names,
        sweep_submission=sweep_submission,
        sweep_status=show_sweep,
    )


def write_report(study: str, output: str) -> None:
    """Write a study's report, and print what it says."""
    from analysis.report_command import report_study  # takes a second

    report_study(study, output, None, targets=(), metrics=())


def store_report(folder: Path) -> None:
    """Give MLflow the report of the study or sweep in this folder; what it refuses is told."""
    from orchestration.results.publish import store_report as store  # takes a second

    notes: list[str] = []
    with waiting("storing the report in MLflow"):
        store(folder, notes.append)
    for note in notes:
        typer.echo(note, err=True)


def sweep_names() -> Iterable[str]:
    """Names of the sweeps that ship with the product."""
    from sweeps.space.catalog import shipped_sweeps

    return shipped_sweeps()


def sweep_submission(*given: Any, **options: Any) -> Submission:
    """A sweep as it is sent to a cluster: see `sweeps.sweep_cli.submission`."""
    from sweeps.sweep_cli import submission

    return submission(*given, **options)


def show_sweep(sweep: str, as_json: bool, wide: bool) -> None:
    """Print the trials of a sweep."""
    from sweeps.sweep_cli import show_status

    show_status(sweep, as_json, wide)


def report_sweep(folder: Path) -> None:
    """Write a sweep's page, and print where it is."""
    from analysis.sweep_report.report import write_sweep_report  # takes a second

    typer.echo(str(write_sweep_report(folder)))
    store_report(folder)


def forecast(folder: Path, arm: str, budget: float) -> str:
    """Register what the finished budgets of a rate sweep's arm forecast for this one, FLOPs."""
    from analysis.sweep_report.rate_forecast import register_forecast  # takes a second

    return register_forecast(folder, arm, budget)


def main() -> None:
    """Run the command line; an error prints one line and ends with its exit code."""
    process_environment.command()
    for stream in (sys.stdout, sys.stderr):
        # Of another encoding than UTF-8: what it has not is shown as \u2013, which JSON reads too.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
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
    from rich.console import Console

    say(Console(stderr=True), f"error: {error}", "red")
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
