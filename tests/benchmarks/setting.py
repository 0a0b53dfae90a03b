"""What both benchmarks share: the models, alternating medians, the machine's matmul limit."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from cola.families.ar.spec import ARModelSpec
from cola.families.cola.family import ColaFamily
from cola.families.cola.spec import ColaModelSpec
from cola.models.cola_dlm import ColaDLM
from cola.models.transformer import build_ar
from cola.spec import DiTSpec, TextVAESpec
from tests.sizes import parameter_counts, size_model

VOCABULARY = 4096


def cola_spec() -> ColaModelSpec:
    """DiT 8 layers x 256 with 4 heads of 64, VAE 2 + 2 x 256, d 16, block 16."""
    vae = TextVAESpec(
        vocab_size=VOCABULARY,
        hidden_size=256,
        ffn_size=1024,
        num_heads=4,
        encoder_layers=2,
        decoder_layers=2,
    )
    dit = DiTSpec(hidden_size=256, num_layers=8, num_heads=4, head_dim=64, rope_dim=48)
    return ColaModelSpec(vae=vae, dit=dit)


def ar_spec() -> ARModelSpec:
    """The Llama of the same core parameters (DiT and VAE together)."""
    spec = size_model("ar", parameter_counts(cola_spec()).core, VOCABULARY)
    assert isinstance(spec, ARModelSpec)
    return spec


def cola_model() -> ColaDLM:
    """Freshly initialised."""
    torch.manual_seed(0)
    return ColaFamily().build(cola_spec())


def ar_model() -> LlamaForCausalLM:
    """Freshly initialised."""
    torch.manual_seed(0)
    return build_ar(ar_spec())


def bf16() -> torch.autocast:
    """The precision of all measurements."""
    return torch.autocast("cpu", torch.bfloat16)


def alternating(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each job, taken in turn (A, B, A, B, ...) after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(yardstick: list[float], other: list[float]) -> float:
    """Median over the rounds of yardstick / other: how fast `other` is, drift cancelled."""
    return statistics.median(a / b for a, b in zip(yardstick, other, strict=True))


def matmul_limit(rows: int = 2048, seconds: float = 0.5) -> dict[str, float]:
    """FLOP/s of bf16 products alone: a large square one, and the widths of the DiT."""
    limits = {}
    for inner, width in ((2048, 2048), (256, 1024), (256, 256)):
        x = torch.randn(rows, inner).bfloat16()
        weight = torch.randn(width, inner).bfloat16()
        times: list[float] = []
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            before = time.perf_counter()
            F.linear(x, weight)
            times.append(time.perf_counter() - before)
        limits[f"{inner}x{width}"] = 2.0 * rows * inner * width / statistics.median(times)
    return limits


def machine() -> str:
    """Threads and what else is running."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return f"{torch.get_num_threads()} threads, load average {load}"


def verdict(name: str, value: float, bar: float, at_most: bool = False) -> str:
    """One line: the number, its bar, whether it is met."""
    met = value <= bar if at_most else value >= bar
    sign = "<=" if at_most else ">="
    return f"{name:<52} {value:6.3f}  (bar {sign} {bar:.2f}: {'met' if met else 'MISSED'})"
