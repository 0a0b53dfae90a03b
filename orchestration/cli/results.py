"""What a study or sweep does in the end: what is left, what was made, what comes next; of one on a
cluster its report, where other machines find it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cola.errors import ColaError, first_of, one_line
from cola.spec.address import resolve_address
from cola.study import StudySpec
from orchestration.cleanup.contents import Thing
from orchestration.driver.progress import StudyView
from orchestration.planning.catalog import output_option
from orchestration.state.paths import StudyFolder, output_root, study_folder
from orchestration.tracking.pages import study_pages

if TYPE_CHECKING:
    from orchestration.driver.study_runner import StudyResult

log = logging.getLogger(__name__)


def deliver(
    study: StudySpec,
    thing: Thing,
    write_report: Callable[[], None],
    *,
    notify: Callable[[str], None],
) -> bool:
    """Write the report of a study, or of the sweep over this base study, and publish the results.

    The work is done by then: what fails here costs one line. Whether the output's mirror has the
    results, where there is one.
    """
    from orchestration.results.publish import publish  # the client of MLflow takes a second

    command = "cola report" if thing.kind == "study" else "cola sweep report"
    try:
        write_report()
    except Exception as error:  # of any kind: results are there without a page
        log.debug("the report fails", exc_info=True)
        kind = "" if isinstance(error, ColaError) else f"{type(error).__name__}: "
        notify(f"no report is written: {kind}{one_line(error)} (`{command}` writes it)")
    return publish(study, thing, notify)


def show_result(result: StudyResult, view: StudyView) -> None:
    """Print what is left to do, for runs and for MLflow."""
    if result.trained == 0 and result.complete:
        view.note(f"nothing to train: all {len(result.states)} runs are finished already")
    if result.unmirrored:
        view.note(
            f"MLflow did not take everything of {', '.join(result.unmirrored)} "
            f"({result.trouble or 'it was too slow'}); their journals are whole on disk and the "
            "next `cola run` sends the rest"
        )
    if result.unsent:
        view.note(
            f"the output's mirror does not have all of {first_of(result.unsent)}; the output "
            "folder keeps them, and the next `cola run` there copies the rest"
        )
    others = ", ".join(result.others)
    if result.left_to_others:
        held = [name for name in result.left if name in result.others]
        if held:
            left = ", ".join(held)
            view.note(f"left to other drivers: {left}; the last of them completes the study")
        free = [f"{name} ({result.states[name]})" for name in result.left if name not in held]
        if free:
            view.note(f"of other rungs, not finished: {', '.join(free)}; no driver has them here")
    elif not result.complete:
        unfinished = {name: state for name, state in result.states.items() if state != "finished"}
        by_others = f"; another driver runs {others}" if others else ""
        view.note(f"not finished: {unfinished}{by_others}; the same command resumes from here")


def show_next(
    study: StudySpec, result: StudyResult, view: StudyView, *, report: Path | None = None
) -> None:
    """Print what a complete study has made, with the report where one was written, and the commands
    that use it."""
    if not result.complete:
        return
    count = len(result.states)
    page = "" if report is None else f", with its report {report}"
    view.note(f"made: {count} finished run{'s' * (count != 1)}, {study_folder(study)}{page}")
    view.note(f"next: {'; '.join(next_commands(study, result, report=report))}")


def next_commands(study: StudySpec, result: StudyResult, *, report: Path | None) -> list[str]:
    """Commands for a complete study: its report, unless it was written; a text by the last of its
    runs; MLflow's pages."""
    where = output_option(output_root(study))
    last = list(result.states)[-1]
    return [
        *([f"cola report {study.name}{where}"] if report is None else []),
        f'cola generate {study.name}/{last} --prompt "Once"{where}',
        mlflow_pages(study, where),
    ]


def mlflow_pages(study: StudySpec, where: str) -> str:
    """How the study's runs are seen in MLflow: the command that serves its database, or the address
    of their page on its server. `where`: the option that names the output folder."""
    given = study.tracking.uri
    if given is None:
        return f"cola mlflow{where}"
    address = resolve_address(given)
    if not address.is_server:
        return f"cola mlflow --store {shlex.quote(given)}{where}"
    if address.shown != address.uri:  # a reference, or with a user: not to be shown whole
        return f"MLflow at {address.shown}"
    try:
        return study_pages(given.rstrip("/"))[study.name]
    except (OSError, ValueError, KeyError):  # behind a login, or gone by now
        return f"MLflow at {address.shown}"


def written_report(study: StudySpec, began: float) -> Path | None:
    """The study's page, if it was written since then (seconds of `time.time`)."""
    page = StudyFolder(study_folder(study)).report_page
    return page if page.is_file() and page.stat().st_mtime >= began else None


def result_as_json(
    study: StudySpec, result: StudyResult, *, report: Path | None = None
) -> dict[str, Any]:
    """How a study's driver left it, for `cola run --json`; `report`: the page that it wrote."""
    return {
        "study": study.name,
        "folder": str(study_folder(study)),
        "complete": result.complete,
        "stopped": result.stopped,
        "trained": result.trained,
        "runs": dict(result.states),
        "left_to_others": list(result.left),
        "not_in_mlflow": list(result.unmirrored),
        "not_in_mirror": list(result.unsent),
        "report": None if report is None else str(report),
        "next": next_commands(study, result, report=report) if result.complete else [],
    }
