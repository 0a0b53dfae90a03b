"""Runs a study: launches its runs side by side, follows them, keeps ledger and mirror."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType

from cola.data import prepare
from cola.files import write_atomically
from cola.study import StudySpec
from orchestration.checkpoint.store import check_storage
from orchestration.cluster.admission_actor import OwnQueue, SharedQueue
from orchestration.cluster.session import check_fits, ray_cluster
from orchestration.driver.launcher import Launcher
from orchestration.driver.preflight import check_data, check_output
from orchestration.driver.progress import StudyView
from orchestration.driver.signals import Handler, handled
from orchestration.planning.corpus_size import CorpusSize, check_epochs
from orchestration.planning.decisions import decide, save_plan
from orchestration.planning.divergence_retry import with_retries
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.shared_prefixes import remove_prefixes
from orchestration.state.ledger import Ledger, State
from orchestration.state.paths import OutputFolder, StudyFolder, study_folder
from orchestration.tracking.address import tracking_uri
from orchestration.tracking.mirror import MirroredStudy, open_mirror
from orchestration.training.final_tasks import check_items


@dataclass(frozen=True)
class StudyResult:
    """How the study's runs stand when the driver leaves."""

    states: dict[str, State]  # by run name
    trained: int  # runs that this call launched
    stopped: bool  # a person asked to stop
    unmirrored: list[str]  # runs whose journal MLflow has not taken whole

    @property
    def complete(self) -> bool:
        """Whether every run is finished."""
        return all(state == "finished" for state in self.states.values())


def run_study(study: StudySpec, address: str | None, view: StudyView) -> StudyResult:
    """Carry out a study until every run has ended or a person stops it.

    Raises:
        SpecError: for anything found wrong before the first run starts.
    """
    root = check_output(study)
    check_storage(study.checkpoint.storage)
    ledger = Ledger(root)
    planned = plan_study(study)
    plan = with_retries(planned, study.retry_diverged, ledger)
    mirror = open_mirror(tracking_uri(study), study.name, OutputFolder(root).artifacts / study.name)
    data = prepare(study.data, OutputFolder(root).cache, view.data_progress)
    check_data(study, data)
    check_items(study.evaluation)
    corpus = CorpusSize(int(data.meta["train"]["tokens"]), True)
    for run in plan:
        check_epochs(study, run.name, run.tokens, corpus)
    decisions = decide(plan, ledger, study_folder(study), study.checkpoint.storage)
    runner = Launcher(study, plan, data, ledger, mirror, view, address is not None)
    todo = [d.run for d in decisions if d.action in ("start", "resume")]
    tracked = MirroredStudy(study_folder(study), ledger, runner.current_keys)
    with ExitStack() as stack:
        if todo:
            cluster = stack.enter_context(ray_cluster(address))
            for run in todo if address is None else ():  # one that is joined may grow
                check_fits(run.resources, cluster)
            tracked.dashboard = cluster.dashboard
            if address is not None and cluster.dashboard is not None:
                view.note(f"Ray's dashboard: {cluster.dashboard}")
        # From here on the study is under way: nothing was written for one that cannot start.
        view.decided(decisions)
        record_study(study, plan)
        mirror.start(tracked)
        for decision in decisions:
            runner.admit(decision)
        if todo:
            stack.enter_context(handled(stop_on_interrupt(runner)))
            runner.run(todo, OwnQueue() if address is None else SharedQueue())
    unmirrored = mirror.finish(patience_seconds=30.0)
    plan = with_retries(plan, study.retry_diverged, ledger)
    states = {run.name: ledger.entry(run.key).state for run in plan}
    if all(state == "finished" for state in states.values()):
        remove_prefixes(planned, root)
    return StudyResult(states, runner.launched, runner.stopping.is_set(), unmirrored)


def record_study(study: StudySpec, plan: Sequence[PlannedRun]) -> None:
    """Keep the study's specification and plan beside its report."""
    folder = study_folder(study)
    write_atomically(StudyFolder(folder).spec, study.to_yaml())
    save_plan(plan, folder)


def stop_on_interrupt(runner: Launcher) -> Handler:
    """SIGINT or SIGTERM: stop cleanly. SIGINT once more: leave at once.

    SIGTERM comes from programs, which may send it several times over.
    """

    def request(signum: int, frame: FrameType | None) -> None:
        if runner.stopping.is_set():
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return
        runner.view.note("stopping: running trainings save a checkpoint and leave")
        runner.request_stop()

    return request
