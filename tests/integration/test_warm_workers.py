"""Runs of one worker share a process, which a failed worker does not outlive."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.event_log import read_events
from orchestration.state.journal import JournalReader
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, output_root, study_folder
from tests.conftest import write_study
from tests.integration.test_study import output_of, start
from tests.undisturbed import losses_of, undisturbed_losses
from tests.waiting import until

pytestmark = [pytest.mark.slow(seconds=120), pytest.mark.ray, pytest.mark.deepspeed]

# Python runs it in every process: the device of rank 1 of 2 holds one sequence alone.
SHORT_OF_MEMORY = """
import importlib.machinery, sys
NAME = "orchestration.training.deepspeed_engine"


class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        import torch
        made = module.DeepSpeedEngine.__init__

        def check(stage, args, kwargs):
            short = torch.distributed.get_rank() == 1 and len(kwargs["tokens_BL"]) > 1
            if short:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        def make(self, *given):
            made(self, *given)
            self.module.register_forward_pre_hook(check, with_kwargs=True)

        module.DeepSpeedEngine.__init__ = make


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != NAME:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        found.loader = Loader(name, found.origin)
        return found


sys.meta_path.insert(0, Finder)
"""


def test_runs_share_a_process_and_survive_its_death(
    tiny_study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run's process is killed; the next run has its successor's, and one of two workers,
    which needs all of the machine, has workers of its own: these start again with smaller passes,
    which is no failure."""
    (tmp_path / "sitecustomize.py").write_text(SHORT_OF_MEMORY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    tiny_study["families"] = {"cola": tiny_study["families"]["cola"]}
    sizes = [(4e10, 70_000), (1e10, 70_000), (5e9, 90_000)]
    tiny_study["ladder"] = [{"budget": c, "core_parameters": n} for c, n in sizes]
    larger = [{"core_parameters": 80_000, "workers": 2, "micro_batch_sequences": 2}]
    tiny_study["resources"] = {"concurrent_runs": 1, "larger": larger, "max_failures": 1}
    study = StudySpec.parse(tiny_study)
    runs = sorted(plan_study(study), key=lambda run: -run.spec.budget)
    ledger = Ledger(output_root(study))
    long, short, wide = (RunFolder(ledger.run_folder(run.key)) for run in runs)
    process = start("run", str(write_study(tiny_study, tmp_path)))
    until(lambda: len(losses_of(long.journal)) >= 3, "three lines of losses", process=process)
    (killed,) = processes_of(long)
    os.kill(killed, signal.SIGKILL)
    shown = output_of(process)
    assert "workers failed: rank 0: ActorDiedError" in shown
    events = Counter(event["event"] for event in read_events(study_folder(study)))
    assert (events["workers failed"], events["workers restarted"]) == (1, 2)
    short_of_memory = (
        "out of memory: micro-batches of 2 sequences do not fit the device's memory at step 1 "
        "(CUDA out of memory. Tried to allocate 2.00 GiB); training resumes with 1"
    )
    assert events["out of memory"] == shown.count(short_of_memory) == 1
    first, second = processes_of(long)
    assert first == killed != second
    assert processes_of(short) == [second]
    assert second not in processes_of(wide)
    attempts = [len(ledger.entry(run.key).attempts) for run in runs]
    assert attempts == [1, 1, 1]
    found = [losses_of(folder.journal) for folder in (long, short)]
    folders = [folder.journal.parent for folder in (long, short)]
    assert found == undisturbed_losses(folders, tmp_path / "alone", log_every_steps=5)


def processes_of(run: RunFolder) -> list[int]:
    """Process ids of the run's workers of rank 0, in the order of their starts."""
    lines = JournalReader(run.journal).new_lines()
    return [line.values["pid"] for line in lines if line.values.get("event") == "start"]
