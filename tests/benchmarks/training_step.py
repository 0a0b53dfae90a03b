"""Training steps of Cola DLM against a Llama of the same core parameters, bf16 autocast.

    python -m tests.benchmarks.training_step [--repeats 15] [--no-memory]

A step is loss, backward, clipping and AdamW; random draws are made beforehand. Medians of
alternating measurements in one process; peak memory is taken in one process per model.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cola.compute.flops import NO_INPUT_GRADIENT, dit_forward
from cola.families.ar.spec import NextToken
from cola.families.cola.family import JointStage
from cola.families.cola.spec import ColaObjective
from cola.families.interface.family import Batch
from cola.objectives.flow_matching import flow_draws, flow_matching_loss
from cola.seeding import Stream
from tests.benchmarks.setting import (
    VOCABULARY,
    alternating,
    ar_model,
    ar_spec,
    bf16,
    cola_model,
    cola_spec,
    machine,
    matmul_limit,
    median_ratio,
    verdict,
)
from tests.sizes import parameter_counts, train_flops_per_token

BATCH, LENGTH = 8, 256
BARS = {"flow matching": 0.50, "joint": 0.35}
MEMORY_BAR = 1.5


class Step:
    """A loss, its parameters and their optimiser."""

    def __init__(self, module: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.loss = loss
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True)

    def __call__(self) -> None:
        """One step."""
        with bf16():
            loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def tokens() -> tuple[Batch, Tensor]:
    """One batch."""
    ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    rows = range(BATCH)
    return Batch(ids, Stream(0, 0, rows), list(rows), BATCH), ids


def ar_step() -> Step:
    """Next-token cross entropy on flat logits, the faster layout."""
    model = ar_model()
    _, ids = tokens()
    start = ids.new_full((BATCH, 1), VOCABULARY)
    inputs = torch.cat([start, ids[:, :-1]], dim=1)

    def loss() -> Tensor:
        logits = model(input_ids=inputs, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), ids.flatten())

    return Step(model, loss)


def joint_step() -> Step:
    """Stage 2 with its default objective."""
    stage = JointStage(cola_model(), ColaObjective())
    draws = stage.draw(tokens()[0])
    return Step(stage, lambda: stage(**draws)["loss"])


def flow_matching_step() -> Step:
    """The DiT on given latents."""
    model, objective = cola_model().dit, ColaObjective().stage2
    shape = (BATCH, LENGTH, model.config.txt_in_channels)
    stream = Stream(0, 0, range(BATCH))
    z0 = stream.normal("z0", *shape[1:])
    draws = flow_draws(
        objective,
        shape,
        model.config.block_size,
        stream=stream,
        positions=range(BATCH),
        global_size=BATCH,
    )
    return Step(model, lambda: flow_matching_loss(model, z0, draws))


STEPS: dict[str, Callable[[], Step]] = {
    "ar": ar_step,
    "flow matching": flow_matching_step,
    "joint": joint_step,
}


def executed_flops() -> dict[str, float]:
    """FLOPs a step (`cola.compute.flops`, executed convention)."""
    dit, size = cola_spec().dit, BATCH * LENGTH
    objective = ColaObjective()
    ar = train_flops_per_token(
        ar_spec(), NextToken(), LENGTH, stage="train", convention="executed"
    ).total
    joint = train_flops_per_token(
        cola_spec(), objective, LENGTH, stage="joint", convention="executed"
    ).total
    parts = dit_forward(dit, LENGTH, objective.stage2.prompt_block_probability > 0)
    # The latents are given: nothing is propagated through the input projection.
    flow = sum((2.0 if name in NO_INPUT_GRADIENT else 3.0) * v for name, v in parts.items())
    return {"ar": ar * size, "flow matching": flow * BATCH, "joint": joint * size}


def bytes_moved(step: Step) -> float:
    """A lower limit of a step's traffic: saved activations, weights, gradients, AdamW.

    Activations are written and read once; a weight is read in float32, written and read in bf16 by
    both passes; its gradient is written, clipped and read; AdamW reads and writes three tensors.
    """
    sizes: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in step.parameters}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), bf16():
        loss = step.loss()
    loss.backward()
    step.optimiser.zero_grad(set_to_none=True)
    weights = sum(p.numel() for p in step.parameters)
    return 2.0 * sum(sizes.values()) + weights * (4 + 2 + 2 * 2 + 4 * 4 + 6 * 4)


def peak_memory(name: str) -> float:
    """Peak bytes of two steps beyond the process as it was before the model was built."""
    command = [sys.executable, "-m", "tests.benchmarks.training_step", "--peak-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(name: str) -> None:
    """The child's part of `peak_memory`."""
    before = resident_bytes("VmRSS")
    step = STEPS[name]()
    for _ in range(2):  # the second one has the optimiser's state as well
        step()
    print(resident_bytes("VmHWM") - before)


def resident_bytes(field: str) -> int:
    """Resident memory of this process now (VmRSS) or at its highest (VmHWM).

    `getrusage` would start from the parent's highest.
    """
    (line,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) * 1024


def report_speed(repeats: int) -> None:
    """Tokens/s, ratios, FLOPs, bytes and the distance to the matmul limit."""
    steps = {name: build() for name, build in STEPS.items()}
    traffic = {name: bytes_moved(step) for name, step in steps.items()}
    seconds = alternating(dict(steps), repeats)
    flops, limits = executed_flops(), matmul_limit()
    print("matmul limit, bf16:", {name: f"{v / 1e9:.0f} GFLOP/s" for name, v in limits.items()})
    best = max(limits.values())
    for name, taken in seconds.items():
        median = statistics.median(taken)
        rate = flops[name] / median
        print(
            f"{name:<14} {median * 1e3:7.1f} ms  {BATCH * LENGTH / median:8.0f} tokens/s  "
            f"{flops[name] / 1e9:6.1f} GFLOP  >= {traffic[name] / 1e9:5.2f} GB  "
            f"{rate / 1e9:6.1f} GFLOP/s = {rate / best:.2f} of the matmul limit"
        )
    for name, bar in BARS.items():
        ratio = median_ratio(seconds["ar"], seconds[name])
        print(verdict(f"{name} step, tokens/s over the AR's", ratio, bar))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak-of", choices=list(STEPS))
    arguments = parser.parse_args()
    if arguments.peak_of is not None:
        print_peak(arguments.peak_of)
        return
    counts = {"ar": parameter_counts(ar_spec()).core, "cola": parameter_counts(cola_spec()).core}
    print(f"batch {BATCH} x {LENGTH}; core parameters {counts}; {machine()}")
    report_speed(arguments.repeats)
    if arguments.no_memory:
        return
    peaks = {name: peak_memory(name) for name in STEPS}
    print("peak memory:", {name: f"{value / 2**20:.0f} MiB" for name, value in peaks.items()})
    for name in BARS:
        ratio = peaks[name] / peaks["ar"]
        print(verdict(f"{name} step, peak memory over the AR's", ratio, MEMORY_BAR, at_most=True))
    print(machine())


if __name__ == "__main__":
    main()
