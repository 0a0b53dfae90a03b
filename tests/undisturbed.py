"""The losses of a run that nothing disturbs: on one process, without Ray."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestration.state.journal import JournalReader

# A process of its own: DeepSpeed keeps what it made of a process group.
SCRIPT = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from cola.data import open_prepared
from cola.study import RunSpec
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import RunFolder
from orchestration.training.deepspeed_engine import DeepSpeedEngine, import_deepspeed
from orchestration.training.distributed import WorkerRank
from orchestration.training.hooks import LogTraining
from orchestration.training.train_loop import LoopSettings, train

import_deepspeed()
log_every_steps = int(sys.argv[1])
store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
for folder, target in zip(map(Path, sys.argv[2::2]), map(Path, sys.argv[3::2])):
    run = RunSpec.model_validate_json((folder / "spec.json").read_text())
    data = open_prepared(RunFolder(folder).data_folder())
    log = LogTraining(run, JournalWriter(target), log_every_steps)
    train(
        run, data.train, DeepSpeedEngine, settings=LoopSettings(1), worker=WorkerRank(), hooks=[log]
    )
dist.destroy_process_group()
"""


def undisturbed_losses(
    run_folders: Sequence[Path], target: Path, log_every_steps: int
) -> list[dict[int, float]]:
    """Losses by step of each of these runs, trained anew into journals in the folder `target`."""
    target.mkdir()
    journals = [target / f"{index}.jsonl" for index in range(len(run_folders))]
    paths = [str(path) for pair in zip(run_folders, journals, strict=True) for path in pair]
    command = [sys.executable, "-c", SCRIPT, str(log_every_steps), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [losses_of(journal) for journal in journals]


def losses_of(journal: Path) -> dict[int, float]:
    """Training losses by step."""
    lines = JournalReader(journal).new_lines()
    return {line.step: line.values["train/loss"] for line in lines if line.kind == "train"}
