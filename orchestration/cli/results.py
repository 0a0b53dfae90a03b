"""What a study or sweep on a cluster does in the end: its report, where other machines find it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cola.errors import ColaError, one_line
from cola.study import StudySpec
from orchestration.cleanup.contents import Thing

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
