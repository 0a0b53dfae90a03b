"""The output head's loss and its gradients against the plain formula: speed and memory.

    python -m tests.benchmarks.loss_head [--tokens N --width C --vocabulary V] [--float32]

Three ways from features to gradients, measured in turn: whole logits with the vocabulary in a
middle dimension ("transposed"), whole flat logits ("flat"), and `cola.models.head` ("head"), under
bfloat16 autocast with float32 weights. Memory is what a pass takes at its highest beyond its inputs
(features, weights, tokens), the weights' float32 gradient included. On a CPU each way has a process
of its own for it. Works on CUDA where there is a device, on a smaller case elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cola.models.head import OutputHead, mean_nll
from tests.benchmarks.setting import alternating, machine, median_ratio, verdict
from tests.benchmarks.training_step import resident_bytes

SEQUENCE = 512
CASES = {"cuda": (32_768, 2_048, 100_352), "cpu": (4_096, 256, 16_384)}
TERAFLOPS_BAR, GIGABYTES_BAR = 300.0, 2.0  # for the case on CUDA


@dataclass(frozen=True)
class Case:
    """Sizes of one measurement and its device."""

    tokens: int
    width: int
    vocabulary: int
    precision: torch.dtype
    device: str

    @property
    def flops(self) -> float:
        """Of the logits and both gradients."""
        return 3 * 2.0 * self.tokens * self.width * self.vocabulary

    def job(self, way: str) -> Callable[[], Tensor]:
        """A pass forward and backward, from and to tensors that exist beforehand; its loss."""
        torch.manual_seed(0)
        with torch.device(self.device):
            head = OutputHead(self.width, self.vocabulary, bias=False)
            shape = (-(-self.tokens // SEQUENCE), min(SEQUENCE, self.tokens))
            x_BLC = torch.randn(*shape, self.width, requires_grad=True)
            tokens_BL = torch.randint(0, self.vocabulary, shape)

        def run() -> Tensor:
            with self.autocast():
                loss = WAYS[way](head, x_BLC, tokens_BL)
            loss.backward()
            x_BLC.grad = head.weight.grad = None
            if self.device == "cuda":
                torch.cuda.synchronize()
            return loss.detach()

        return run

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Of the precision."""
        enabled = self.precision != torch.float32
        return torch.autocast(self.device, torch.bfloat16, enabled=enabled)

    def arguments(self) -> list[str]:
        """Those of the command line that make this case."""
        sizes = ("tokens", "width", "vocabulary")
        found = [word for name in sizes for word in (f"--{name}", str(getattr(self, name)))]
        return [*found, *(["--float32"] if self.precision == torch.float32 else [])]


def transposed(head: OutputHead, x_BLC: Tensor, tokens_BL: Tensor) -> Tensor:
    """Whole logits, the vocabulary in the middle."""
    logits_BVL = head(x_BLC).float().transpose(1, 2)
    return F.cross_entropy(logits_BVL, tokens_BL, reduction="none").mean()


def flat(head: OutputHead, x_BLC: Tensor, tokens_BL: Tensor) -> Tensor:
    """Whole logits, a row a token."""
    return F.cross_entropy(head(x_BLC).float().flatten(0, 1), tokens_BL.flatten())


WAYS = {"transposed": transposed, "flat": flat, "head": mean_nll}


def peak_bytes(case: Case, way: str) -> float:
    """The most that a pass takes beyond its inputs."""
    if case.device == "cpu":
        command = [sys.executable, "-m", "tests.benchmarks.loss_head", *case.arguments()]
        child = [*command, "--peak-of", way]
        return float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    run = case.job(way)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def print_peak(case: Case, way: str) -> None:
    """The child's part of `peak_bytes`."""
    run = case.job(way)
    before = resident_bytes("VmRSS")
    run()
    print(resident_bytes("VmHWM") - before)


def possible(case: Case) -> dict[str, float]:
    """Peak bytes of the ways for which the device has the memory."""
    found = {}
    for way in WAYS:
        try:
            found[way] = peak_bytes(case, way)
        except torch.cuda.OutOfMemoryError:
            print(f"{way:<12} does not fit into the device's memory", flush=True)
        if case.device == "cuda":
            torch.cuda.empty_cache()
    return found


def report(case: Case, repeats: int) -> None:
    """A line a way, ratios, and on CUDA the bars."""
    peaks = possible(case)
    jobs = {way: case.job(way) for way in peaks}
    losses = {way: float(job()) for way, job in jobs.items()}
    seconds = alternating(dict(jobs), repeats)
    for way, taken in seconds.items():
        median = statistics.median(taken)
        print(
            f"{way:<12} {median * 1e3:9.1f} ms  {case.flops / median / 1e12:7.3f} TFLOP/s  "
            f"{peaks[way] / 1e9:6.2f} GB  loss {losses[way]:.6f}",
            flush=True,
        )
    for way in seconds:
        if way != "head":
            ratio = median_ratio(seconds[way], seconds["head"])
            print(f"head is {ratio:.2f} times as fast as {way}, in {_share(peaks, way):.2f} of it")
    if case.device == "cuda":
        reached = case.flops / statistics.median(seconds["head"]) / 1e12
        print(verdict("TFLOP/s of the head", reached, TERAFLOPS_BAR))
        print(verdict("GB above its inputs", peaks["head"] / 1e9, GIGABYTES_BAR, at_most=True))


def _share(peaks: dict[str, float], way: str) -> float:
    return peaks["head"] / peaks[way]


def main() -> None:
    """See the module."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in zip(("tokens", "width", "vocabulary"), CASES[device], strict=True):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--float32", action="store_true", help="no autocast")
    parser.add_argument("--peak-of", choices=list(WAYS))
    given = parser.parse_args()
    precision = torch.float32 if given.float32 else torch.bfloat16
    case = Case(given.tokens, given.width, given.vocabulary, precision, device)
    if given.peak_of is not None:
        print_peak(case, given.peak_of)
        return
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{case.tokens} x {case.width} x {case.vocabulary}, {precision}; {name}; {machine()}")
    report(case, given.repeats)


if __name__ == "__main__":
    main()
