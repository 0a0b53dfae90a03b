"""Where the time of a run's start goes: `python -m tests.gpu.start_time [SECONDS]`.

One JSON line a measurement, each in a process of its own, written as they come to
$OUT/start_time.jsonl; those that would begin after SECONDS (default 60) are left out, by name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

DISTRIBUTED = """
import os, torch, torch.distributed as dist
gpu = torch.cuda.is_available()
store = dist.HashStore()
dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=0, world_size=1)
x = torch.ones(1, device="cuda" if gpu else "cpu")
dist.all_reduce(x); float(x)
"""
STEP = """
from tests.gpu.conftest import SETTINGS, engine_of, planned
from orchestration.benchmark.steps import drawn
import torch
setting = SETTINGS["cuda" if torch.cuda.is_available() else "cpu"]
spec = planned(setting, "ar").spec
"""
PLAIN = """
engine = engine_of(spec, "train", setting.device)
engine.step(drawn(spec, engine.module, setting.device, rows=setting.rows), 1.0).values
"""
DEEPSPEED = """
os.environ |= dict(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
from orchestration.training.deepspeed_engine import DeepSpeedEngine
from orchestration.training.engine import EngineSettings
plain = engine_of(spec, "train", torch.device("cpu"))
engine = DeepSpeedEngine(
    plain.module, plain.optimizer.param_groups, EngineSettings(spec.training, 1, 1)
)
engine.step(drawn(spec, engine.module, engine.device, rows=setting.rows), 1.0).values
"""
RAY = """
import ray
ray.init(include_dashboard=False, num_cpus=2, logging_level="error")
@ray.remote
def task():
    import torch
    return torch.cuda.is_available()
ray.get(task.remote())
ray.shutdown()
"""
COMPILE = """
import torch
device = "cuda" if torch.cuda.is_available() else "cpu"
f = torch.compile(lambda x: torch.nn.functional.gelu(x @ x) * 2)
x = torch.randn(256, 256, device=device, requires_grad=True)
f(x).sum().backward()
"""
# Name -> code, of which each includes the interpreter's start.
MEASURED = {
    "python": "pass",
    "import torch": "import torch",
    "torch, CUDA context": "import torch; torch.cuda.is_available() and torch.ones(1).cuda()",
    "import transformers": "import transformers",
    "import ray": "import ray",
    "import ray.train": "import ray.train.torch",
    "import mlflow": "import mlflow",
    "import deepspeed": (
        "from orchestration.training.deepspeed_engine import import_deepspeed; import_deepspeed()"
    ),
    "import sweeps.cli": "import sweeps.cli",
    "import a worker's modules": "import orchestration.worker.worker",
    "process group and all-reduce": DISTRIBUTED,
    "plain engine, first step": STEP + PLAIN,
    "DeepSpeed engine, first step": DISTRIBUTED + STEP + DEEPSPEED,
    "Ray, start to first task": RAY,
    "compile a small function": COMPILE,
}


def main() -> None:
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    folder = Path(os.environ.get("OUT", "."))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (folder / "start_time.jsonl").open("a") as file:
        for name, code in MEASURED.items():
            line = json.dumps({"what": name} | measured(code, limit - (time.monotonic() - began)))
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()


def measured(code: str, left: float) -> dict[str, object]:
    """Seconds until the code is done, or why there are none."""
    if left <= 1:
        return {"left out": "the time limit"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=left
        )
    except subprocess.TimeoutExpired:
        return {"left out": f"not done after the {left:.0f} s that were left"}
    seconds = round(time.monotonic() - began, 2)
    if done.returncode:
        return {"seconds": seconds, "failed": done.stderr.strip().splitlines()[-1:]}
    return {"seconds": seconds}


if __name__ == "__main__":
    main()
