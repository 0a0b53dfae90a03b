"""A study's planned runs and what its mirror has of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cola.spec.resources import DivergenceRetry
from orchestration.output_mirror.bring import THREADS, Brought, bring_run, bring_runs, is_ahead
from orchestration.output_mirror.folder_list import DamagedError
from orchestration.output_mirror.mirror import OutputMirror
from orchestration.planning.decisions import (
    RunDecision,
    checkpoint_of,
    resume_or_start_over,
)
from orchestration.planning.divergence_retry import next_retry, with_retries
from orchestration.planning.plan import PlannedRun
from orchestration.state.ledger import Ledger


def plan_with_mirror(
    planned: Sequence[PlannedRun],
    retry: DivergenceRetry | None,
    mirror: OutputMirror,
    *,
    report: Callable[[PlannedRun, Brought], None],
) -> tuple[list[PlannedRun], dict[str, Brought]]:
    """The plan after what the mirror has of its runs is here, and that by run key.

    A run that diverged elsewhere is replaced by its next retry, which may be there too.

    Raises:
        StorageError: the mirror does not answer, or the output folder cannot be written.
    """
    found: dict[str, Brought] = {}
    looked: set[str] = set()
    while True:
        plan = with_retries(planned, retry, Ledger(mirror.root))
        new = {run.key: run for run in plan if run.key not in looked}
        if not new:
            return plan, found
        looked |= new.keys()
        for brought in bring_runs(mirror, list(new)):
            found[brought.key] = brought
            report(new[brought.key], brought)


def with_models(
    decisions: Sequence[RunDecision],
    mirror: OutputMirror,
    decide_again: Callable[[Sequence[PlannedRun]], Sequence[RunDecision]],
    *,
    report: Callable[[PlannedRun, Brought], None],
) -> list[RunDecision]:
    """The decisions once models of finished runs that are damaged here came from the mirror.

    Raises:
        StorageError: see `plan_with_mirror`.
    """
    runs = [decision.run for decision in decisions if decision.model_lost]
    found: dict[str, Brought] = {}
    for run in runs:
        brought = bring_run(mirror, run.key, model_lost=True)
        if brought is not None:
            found[run.key] = brought
            report(run, brought)
    mended = [run for run in runs if run.key in found and found[run.key].damage is None]
    again = {decision.run.key: decision for decision in decide_again(mended)} if mended else {}
    return taken([again.get(each.run.key, each) for each in decisions], found)


def foreseen_plan(
    planned: Sequence[PlannedRun], retry: DivergenceRetry | None, mirror: OutputMirror
) -> list[PlannedRun]:
    """The plan as it will be once the mirror's runs are here: where one has diverged here or there,
    its next retry. Nothing is brought.

    Raises:
        StorageError: the mirror does not answer.
    """
    if retry is None:
        return list(planned)
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda run: _foreseen_retry(run, retry, mirror), planned))


def _foreseen_retry(run: PlannedRun, retry: DivergenceRetry, mirror: OutputMirror) -> PlannedRun:
    ledger = Ledger(mirror.root)
    while True:
        entry, folder = ledger.known_entry(run.key), ledger.run_folder(run.key)
        state = str(entry.state)
        try:
            listed = mirror.known(f"runs/{run.key}")
        except DamagedError:
            listed = None
        if listed is not None and is_ahead(listed, entry, folder) and not mirror.lacks(listed):
            state = str(listed.state)
        following = next_retry(run, retry) if state == "diverged" else None
        if following is None:
            return run
        run = following


def taken(decisions: Sequence[RunDecision], found: Mapping[str, Brought]) -> list[RunDecision]:
    """The decisions, with what came from the mirror, or was damaged there, among their causes."""

    def with_cause(decision: RunDecision) -> RunDecision:
        brought = found.get(decision.run.key)
        if brought is None:
            return decision
        cause = "from the mirror" if brought.damage is None else f"in the mirror: {brought.damage}"
        return replace(decision, why=f"{decision.why}; {cause}")

    return [with_cause(decision) for decision in decisions]


def foreseen(
    decisions: Sequence[RunDecision], mirror: OutputMirror, storage: str | None
) -> list[RunDecision]:
    """The decisions as they will be once the mirror's runs are here; nothing is brought.

    Of files in the mirror only names and sizes are looked at.

    Raises:
        StorageError: the mirror, or the checkpoints' `storage`, does not answer.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda each: _foreseen(each, mirror, storage), decisions))


def _foreseen(decision: RunDecision, mirror: OutputMirror, storage: str | None) -> RunDecision:
    run, ledger = decision.run, Ledger(mirror.root)
    entry, folder = ledger.known_entry(run.key), ledger.run_folder(run.key)
    if decision.action in ("set aside", "busy"):
        return decision
    try:
        listed = mirror.known(f"runs/{run.key}")
    except DamagedError as error:
        return replace(decision, why=f"{decision.why}; in the mirror: {error}")
    lost = decision.model_lost
    if listed is None or not is_ahead(listed, entry, folder, model_lost=lost):
        return decision
    lacking = mirror.lacks(listed)
    if lacking:
        return replace(
            decision, why=f"{decision.why}; in the mirror: {lacking[0]} is missing or cut off"
        )
    if listed.state == "finished":
        return RunDecision(run, "reuse", "finished in the mirror, from which `cola run` takes it")
    ended = f"{listed.state} in the mirror"
    return resume_or_start_over(run, checkpoint_of(folder, storage), ended)
