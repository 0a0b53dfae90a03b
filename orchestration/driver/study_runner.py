"""Runs a study: checks it, plans it, trains what is missing, and mirrors it to MLflow."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cola.data import PreparedData, prepare
from cola.data.summary import summary_in
from cola.errors import StorageError
from cola.files import storage_errors, write_atomically
from cola.study import StudySpec
from cola.terminal import waiting
from orchestration.checkpoint.store import check_storage
from orchestration.cleanup.contents import Thing
from orchestration.cluster.admission_actor import PrivateQueue, SharedQueue
from orchestration.cluster.session import check_fits, ray_cluster
from orchestration.driver.attempt import closing_tags, mirror_ended
from orchestration.driver.launcher import Launcher
from orchestration.driver.leases import watch_unseen_drivers
from orchestration.driver.preflight import check_data, check_output, held_out_texts
from orchestration.driver.progress import StudyView
from orchestration.driver.signals import handle_signals, stop_once
from orchestration.output_mirror.bring import Brought, bring_thing
from orchestration.output_mirror.folder_list import DamagedError
from orchestration.output_mirror.mirror import OutputMirror, mirror_of
from orchestration.output_mirror.planned import plan_with_mirror, taken, with_models
from orchestration.output_mirror.run_mirror import RunMirror
from orchestration.planning.corpus_size import CorpusSize, check_epochs
from orchestration.planning.decisions import (
    Action,
    RunDecision,
    check_rungs,
    decide,
    of_rungs,
    save_plan,
)
from orchestration.planning.divergence_retry import with_retries
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.shared_prefixes import remove_published_prefixes
from orchestration.state.event_log import EventLog
from orchestration.state.ledger import Ledger, State
from orchestration.state.paths import OutputFolder, StudyFolder, output_root, study_folder
from orchestration.tracking.address import tracking_uri
from orchestration.tracking.chosen_trackers import trackers_of
from orchestration.tracking.mirror import MirroredStudy, open_mirror
from orchestration.training.task_items import check_items

log = logging.getLogger(__name__)

TRAINED: tuple[Action, ...] = ("start", "resume")
TO_COME: tuple[State, ...] = ("new", "running", "interrupted")  # states of runs that may go on
CHECK_SECONDS = 0.5  # for MLflow to say that it has all of a run; a chosen value
MIRROR_PATIENCE_SECONDS = 30.0  # for MLflow to take what is left at the end; a chosen value


@dataclass(frozen=True)
class StudyResult:
    """The states of a study's runs when its driver leaves."""

    states: dict[str, State]  # by run name
    trained: int  # runs that this call launched
    stopped: bool  # a person asked to stop
    unmirrored: list[str]  # runs whose journal MLflow has not taken whole
    trouble: str | None = None  # why
    others: Sequence[str] = ()  # names of runs that other drivers train, or may train
    unsent: Sequence[str] = ()  # names of what the output's mirror does not have
    of_other_rungs: Sequence[str] = ()  # names of runs that this driver was not to train

    @property
    def complete(self) -> bool:
        """Whether every run is finished."""
        return all(state == "finished" for state in self.states.values())

    @property
    def left_to_others(self) -> bool:
        """Whether every run that is not finished is another driver's, which completes the study."""
        unfinished = {name for name, state in self.states.items() if state != "finished"}
        return bool(unfinished) and not self.stopped and unfinished <= set(self.left)

    @property
    def left(self) -> list[str]:
        """Names of unfinished runs that are not this driver's to train."""
        names = dict.fromkeys([*self.others, *self.of_other_rungs])
        return [name for name in names if self.states[name] != "finished"]

    @property
    def to_come(self) -> list[str]:
        """Names of runs that other drivers train or are still to train: the last one reports."""
        return [name for name in self.left if name in self.others or self.states[name] in TO_COME]


def run_study(
    study: StudySpec,
    address: str | None,
    view: StudyView,
    *,
    rungs: Collection[int] | None = None,
) -> StudyResult:
    """Run a study until every run has ended or a person stops it.

    `rungs` are the places of the ladder whose runs are trained here; None: all.

    Raises:
        ColaError: anything found wrong before the first run starts. Nothing is written then but
            the output folder, the prepared corpus, and what the output's mirror has.
        StorageError: the output folder took nothing for a minute, and the runs were stopped.
    """
    root = check_output(study)
    check_storage(study.checkpoint.storage)
    ledger = Ledger(root)
    output_mirror = mirror_of(study, check=True)
    planned, thing = plan_study(study), Thing("study", study.name)
    if rungs is not None:
        check_rungs(rungs, planned)
    trackers = trackers_of(study, study.name, study_folder(study))
    artifacts = OutputFolder(root).artifacts / study.name
    mirror = open_mirror(tracking_uri(study), study.name, artifacts, trackers)
    data = prepared_data(study, planned, root, view=view)
    copies = RunMirror(output_mirror, thing, EventLog(study_folder(study)), notify=view.note)
    plan, brought = mirrored_plan(study, planned, output_mirror, copies=copies, view=view)
    decisions = taken(decisions_now(study, plan, ledger, view=view, rungs=rungs), brought)
    if output_mirror is not None:
        decisions = with_models(
            decisions,
            output_mirror,
            lambda runs: decisions_now(study, runs, ledger, view=view, rungs=rungs),
            report=lambda run, found: copies.taken(run.name, found),
        )
    launcher = Launcher(
        study, plan, data, ledger=ledger, mirror=mirror, view=view, joined=address is not None,
        copies=copies,
    )  # fmt: skip
    with copies.closing():
        run_decided(launcher, plan, decisions, address=address)
        former, plan = plan, with_retries(plan, study.retry_diverged, ledger)
        unsent = copies.finish((run.name, run.key) for run in plan)
        # After the own ones are sent: of two drivers the one that looks last finds all.
        plan = plan_at_end(study, plan, copies, rungs=rungs)
        if [run.key for run in plan] != [run.key for run in former]:
            record_study(study, plan)
        patience = MIRROR_PATIENCE_SECONDS + CHECK_SECONDS * mirror_rest(launcher, plan)
        unmirrored = mirror.finish(patience_seconds=patience)
        if launcher.storage_failure is not None:
            raise StorageError(
                f"{launcher.storage_failure}; then the same command resumes the study"
            )
    entries = {run.name: ledger.known_entry(run.key) for run in plan}
    states = {name: entry.state for name, entry in entries.items()}
    others = [name for name, entry in entries.items() if ledger.is_held(entry)]
    if all(state == "finished" for state in states.values()):
        remove_published_prefixes(planned, root)
    log.info("study %s ends: %s", study.name, states)
    trouble = mirror.trouble if unmirrored else None
    return StudyResult(
        states,
        trained=launcher.launched,
        stopped=launcher.stopping.is_set(),
        unmirrored=unmirrored,
        trouble=trouble,
        others=others,
        unsent=unsent,
        of_other_rungs=[run.name for run in plan if rungs is not None and run.rung not in rungs],
    )


def mirrored_plan(
    study: StudySpec,
    planned: Sequence[PlannedRun],
    mirror: OutputMirror | None,
    *,
    copies: RunMirror,
    view: StudyView,
) -> tuple[list[PlannedRun], dict[str, Brought]]:
    """The study's runs, once what the output's mirror has of them is here, and that by run key.

    Raises:
        StorageError: the mirror does not answer, or the output folder cannot be written.
    """
    if mirror is None:
        return with_retries(planned, study.retry_diverged, Ledger(output_root(study))), {}
    try:
        bring_thing(mirror, Thing("study", study.name))
    except DamagedError as error:  # events and the plan before, which decide nothing
        view.note(f"in the mirror: {error}")
    return plan_with_mirror(
        planned,
        study.retry_diverged,
        mirror,
        report=lambda run, found: copies.taken(run.name, found),
    )


def plan_at_end(
    study: StudySpec,
    plan: Sequence[PlannedRun],
    copies: RunMirror,
    *,
    rungs: Collection[int] | None,
) -> list[PlannedRun]:
    """The plan by how its runs have ended; those of other rungs are taken from the output's mirror,
    where drivers with other output folders have ended them."""
    ledger, looked = Ledger(output_root(study)), set[str]()
    while True:
        plan = with_retries(plan, study.retry_diverged, ledger)
        new = [
            run
            for run in plan
            if rungs is not None and run.rung not in rungs and run.key not in looked
        ]
        if not new:
            return list(plan)
        for run in new:
            looked.add(run.key)
            copies.take(run.name, run.key)


def decisions_now(
    study: StudySpec,
    plan: Sequence[PlannedRun],
    ledger: Ledger,
    *,
    view: StudyView,
    rungs: Collection[int] | None = None,
) -> list[RunDecision]:
    """What happens to each run.

    Runs of drivers that cannot be seen are watched first where nothing else is left to train, and
    while the rest trains otherwise.

    Raises:
        StorageError: the checkpoints' storage cannot be read.
    """
    folder, storage = study_folder(study), study.checkpoint.storage
    decisions = of_rungs(decide(plan, ledger, folder, storage=storage), rungs)
    if any(decision.action in TRAINED for decision in decisions):
        return decisions
    own = [run for run in plan if rungs is None or run.rung in rungs]
    if watch_unseen_drivers(ledger, own, view.note):
        decisions = of_rungs(decide(plan, ledger, folder, storage=storage), rungs)
    return decisions


def prepared_data(
    study: StudySpec, plan: Sequence[PlannedRun], root: Path, *, view: StudyView
) -> PreparedData:
    """The study's corpus, prepared in the output folder and large enough for every run.

    Raises:
        SpecError: it is too small, or holds no items for a task.
    """
    data = prepare(study.data, OutputFolder(root).cache, view.data_progress)
    for sentence in summary_in(data.meta).sentences():
        view.note(sentence)
    check_data(study, data)
    check_items(study.evaluation)
    for sentence in held_out_texts(study, data):
        view.note(sentence)
    corpus = CorpusSize(int(data.meta["train"]["tokens"]), True)
    for run in plan:
        check_epochs(study, run.name, run.tokens, corpus=corpus)
    return data


def run_decided(
    launcher: Launcher,
    plan: Sequence[PlannedRun],
    decisions: Sequence[RunDecision],
    *,
    address: str | None,
) -> None:
    """Start the cluster and the mirror, and train what the decisions start or resume.

    Raises:
        SpecError: a run needs more than a private cluster has.
        ClusterError: no cluster answers at `address`.
    """
    study, view = launcher.study, launcher.view
    todo = [d.run for d in decisions if d.action in TRAINED]
    log.info("study %s: %d of %d runs to train", study.name, len(todo), len(plan))
    folder = study_folder(study)
    tracked = MirroredStudy(
        folder, launcher.ledger, launcher.current_keys, files=[StudyFolder(folder).plan]
    )
    with ExitStack() as stack:
        if todo:
            with waiting("starting Ray" if address is None else "joining the Ray cluster"):
                cluster = stack.enter_context(ray_cluster(address))
            for run in todo if address is None else ():  # a joined cluster may grow
                check_fits(run.resources, cluster)
            tracked.dashboard = cluster.dashboard
            if address is not None and cluster.dashboard is not None:
                view.note(f"Ray's dashboard: {cluster.dashboard}")
        # Only now is the study under way: nothing is recorded of one that cannot start.
        view.decided(decisions)
        record_study(study, plan)
        launcher.mirror.start(tracked)
        for decision in decisions:
            launcher.admit(decision)
        if todo:
            handler = stop_once(launcher.stopping.is_set, launcher.request_stop)
            stack.enter_context(handle_signals(handler))
            own = PrivateQueue(launcher.warm_workers.cluster_state)
            launcher.run(todo, own if address is None else SharedQueue())


def mirror_rest(launcher: Launcher, plan: Sequence[PlannedRun]) -> int:
    """Have the mirror end the study by the runs of `plan`, other drivers' with them.

    Of finished studies it sends what other drivers, which may be lost, have not; returns of how
    many runs.
    """
    launcher.current_keys[:] = [run.key for run in plan]
    ledger, mirror = launcher.ledger, launcher.mirror
    if not all(ledger.known_entry(run.key).state == "finished" for run in plan):
        return 0
    rest = [run for run in plan if not mirror.follows(run.key)]
    for run in rest:
        tags = closing_tags(run, ledger)
        mirror_ended(run, ledger, mirror, study=launcher.study.name, tags=tags)
    return len(rest)


def record_study(study: StudySpec, plan: Sequence[PlannedRun]) -> None:
    """Write the study's specification and plan into its folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    folder = study_folder(study)
    remedy = "make room, or remove what is there in place of study.yaml or plan.json"
    with storage_errors(folder, remedy=remedy):
        write_atomically(StudyFolder(folder).spec, study.to_yaml())
        save_plan(plan, folder)
        StudyFolder(folder).fetched.unlink(missing_ok=True)
