"""What the machinery costs: a run through Ray Train with all hooks, against a bare DeepSpeed loop.

    python -m tests.benchmarks.machinery [--steps 80] [--rounds 3]

The same AR model of 8 M parameters on the same sequences (float32, 8 x 256 tokens, ZeRO 1, one
worker with one thread), in turn. A step of the machinery is wall clock between the first and the
last logged step: it holds logging, heartbeats, checks on every step, and a checkpoint every 30 s
where a user would take one every few minutes. Start-up is from the run's launch to its first step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from cola.data import prepare
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.slurm.ports import free_ports
from orchestration.state.event_log import read_events
from orchestration.state.journal import JournalReader
from orchestration.state.paths import study_folder
from tests.benchmarks.setting import machine, verdict
from tests.paths import COLA

STEPS_BAR, STARTUP_BAR = 0.05, 20.0
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}

BARE = """
import json, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from cola.data import open_prepared, sequence_ids
from cola.families.interface.family import Batch
from cola.families.registry import family_of
from cola.seeding import Stream
from cola.study import RunSpec
from orchestration.training.deepspeed_engine import deepspeed_config, import_deepspeed
from orchestration.training.engine import EngineSettings, adamw

deepspeed = import_deepspeed()
dist.init_process_group("gloo")
run, steps = RunSpec.model_validate_json(Path(sys.argv[1]).read_text()), int(sys.argv[3])
tokens = open_prepared(Path(sys.argv[2])).train
torch.manual_seed(run.seed)
family, size = family_of(run.family), run.training.batch_sequences
module = family.stage_module(family.build(run.model), run.objective, run.stages[0].name)
groups = family.parameter_groups(module, run.objective, run.stages[0].name)
settings = EngineSettings(run.training, 1, 1)
engine, *_ = deepspeed.initialize(model=module, optimizer=adamw(groups, settings),
    config=deepspeed_config(settings, 1), dist_init_required=False)
stamps = []
for step in range(steps):
    ids = sequence_ids(run.data.seed, step, size, len(tokens))
    batch = Batch(torch.from_numpy(tokens.rows(ids)), Stream(run.seed, step, range(size)),
        range(size), size)
    output = engine(**module.draw(batch))
    engine.backward(output["loss"])
    engine.step()
    float(output["loss"].detach())
    stamps.append(time.time())
Path(sys.argv[4]).write_text(json.dumps(stamps))
dist.destroy_process_group()
"""


def benchmark_study(folder: Path, steps: int) -> StudySpec:
    """One AR run of about 8 M parameters and `steps` steps, and nothing after it."""
    values: dict[str, Any] = {
        "name": "machinery",
        "families": {"ar": {}},
        "ladder": [{"budget": 1e30, "core_parameters": 6_000_000}],
        "data": {"tokenizer": {"kind": "bpe", "vocab_size": 4096}, "sequence_length": 256},
        "training": {"batch_sequences": 8, "precision": "float32"},
        "evaluation": {"validation_sequences": 8, "points": 1, "samples": 0},
        "checkpoint": {"every_seconds": 30.0},
        "max_epochs": 1e9,
        "output": str(folder),
    }
    run = plan_study(StudySpec.parse(values))[0].spec
    each = run.train_flops_at(2, "executed") - run.train_flops_at(1, "executed")
    values["ladder"][0]["budget"] = each * steps
    return StudySpec.parse(values)


def bare_seconds(study: StudySpec, folder: Path, steps: int) -> float:
    """Seconds a step of the bare loop, its first ten steps left out."""
    spec, found = folder / "run.json", folder / "stamps.json"
    spec.write_text(plan_study(study)[0].spec.model_dump_json())
    data = prepare(study.data, Path(study.output) / "cache")
    (port,) = free_ports("127.0.0.1", 1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "1"}
    place |= {"RANK": "0", "LOCAL_RANK": "0"}
    command = [sys.executable, "-c", BARE, str(spec), str(data.folder), str(steps), str(found)]
    subprocess.run(command, env={**ENVIRONMENT, **place}, check=True, stdout=subprocess.DEVNULL)
    stamps = json.loads(found.read_text())
    return float((stamps[-1] - stamps[9]) / (len(stamps) - 10))


def machinery_seconds(study: StudySpec, folder: Path) -> tuple[float, float]:
    """(Seconds a step from the tenth on, seconds from launch to the first step)."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    command = [*COLA, "run", str(file)]
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    key = plan_study(study)[0].spec.run_key
    journal = Path(study.output) / "runs" / key / "journal.jsonl"
    lines = [line for line in JournalReader(journal).new_lines() if line.kind == "train"]
    first, last = lines[1], lines[-1]
    launched = next(e for e in read_events(study_folder(study)) if e["event"] == "launched")
    each = (last.time - first.time) / (last.step - first.step)
    return each, lines[0].time - launched["time"]


def main() -> None:
    """Print the ratio and the start-up, with their bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    ratios, startups = [], []
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory(prefix="cola-bench-") as name:
            folder = Path(name)
            study = benchmark_study(folder / "outputs", given.steps)
            bare = bare_seconds(study, folder, given.steps)
            began = time.perf_counter()
            each, startup = machinery_seconds(study, folder)
            whole = time.perf_counter() - began
        ratios.append(each / bare - 1)
        startups.append(startup)
        print(
            f"round {number + 1}: bare {bare * 1e3:.1f} ms a step, machinery {each * 1e3:.1f} ms, "
            f"start-up {startup:.1f} s, the whole command {whole:.1f} s"
        )
    overhead, startup = statistics.median(ratios), statistics.median(startups)
    print(verdict("overhead of a step", overhead, STEPS_BAR, at_most=True))
    print(verdict("start-up of a run, seconds", startup, STARTUP_BAR, at_most=True))


if __name__ == "__main__":
    main()
