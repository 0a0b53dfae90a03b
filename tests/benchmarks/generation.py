"""Generation of Cola DLM against a Llama's `generate` (Hugging Face, KV cache, greedy).

    python -m tests.benchmarks.generation [--repeats 5] [--batches 1 2 4 8 16 32]

64 prompt and 64 new tokens, 16 Euler steps with CFG; both models of the same core parameters, both
under bf16 autocast and both with bf16 weights (autocast casts every weight anew in every call when
gradients are off, which costs the many short calls of the Llama most). On the CPU; a GPU is for
by `paper_generation`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from itertools import pairwise

import torch
from transformers import LlamaForCausalLM

from cola.families.registry import family_of
from cola.models.cola_dlm import ColaDLM
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.benchmarks.setting import (
    VOCABULARY,
    alternating,
    ar_model,
    cola_model,
    cola_spec,
    machine,
    matmul_limit,
    median_ratio,
    verdict,
)

PROMPT, NEW, BATCH = 64, 64, 16
SETTINGS = GenerationSpec(max_new_tokens=NEW, steps=16, guidance_scale=7.0)
BAR = 0.55
MODES = ("autocast", "bf16 weights")


def prompts(batch: int) -> list[list[int]]:
    """The same for every model."""
    generator = torch.Generator().manual_seed(0)
    rows: list[list[int]] = torch.randint(
        0, VOCABULARY, (batch, PROMPT), generator=generator
    ).tolist()
    return rows


def ar_job(model: LlamaForCausalLM, batch: int, autocast: bool) -> Callable[[], object]:
    """Greedy `generate` of exactly NEW tokens."""
    ids = torch.tensor(prompts(batch))

    def run() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
                use_cache=True,
                pad_token_id=0,
            )

    return run


def cola_job(model: ColaDLM, batch: int, autocast: bool) -> Callable[[], object]:
    """The family's `generate`, without a stop token."""
    family, rows = family_of("cola"), prompts(batch)

    def run() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return family.generate(
                model, rows, SETTINGS, stream=Stream(0, 0, range(batch)), eos_token_id=None
            )

    return run


def pairs(
    models: dict[str, tuple[LlamaForCausalLM, ColaDLM]], batch: int
) -> dict[str, Callable[[], object]]:
    """Both models in both modes, in turn."""
    jobs: dict[str, Callable[[], object]] = {}
    for mode, (ar, cola) in models.items():
        jobs[f"ar, {mode}"] = ar_job(ar, batch, mode == "autocast")
        jobs[f"cola, {mode}"] = cola_job(cola, batch, mode == "autocast")
    return jobs


def dit_flops(batch: int) -> float:
    """Products of the denoising passes (both CFG rows), without attention scores and AdaLN."""
    dit = cola_spec().dit
    width, inner = dit.hidden_size, dit.num_heads * dit.head_dim
    latent = dit.num_layers * (8.0 * width * inner + 4.0 * dit.mlp_ratio * width * width)
    return 2.0 * batch * NEW * SETTINGS.steps * latent


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, BATCH, 32])
    arguments = parser.parse_args()
    models = {mode: (ar_model().eval(), cola_model().eval()) for mode in MODES}
    for model in models["bf16 weights"]:
        model.bfloat16()
    best = max(matmul_limit().values())
    print(f"{machine()}; matmul limit {best / 1e9:.0f} GFLOP/s")
    throughput: list[float] = []
    for batch in arguments.batches:
        seconds = alternating(pairs(models, batch), arguments.repeats)
        speed = {name: batch * NEW / statistics.median(taken) for name, taken in seconds.items()}
        rate = dit_flops(batch) / statistics.median(seconds["cola, bf16 weights"])
        throughput.append(speed["cola, bf16 weights"])
        rates = ", ".join(f"{name} {value:.0f}" for name, value in speed.items())
        print(f"batch {batch:>2}, tokens/s: {rates}; DiT {rate / best:.2f} of the matmul limit")
        if batch == BATCH:
            for mode in MODES:
                ratio = median_ratio(seconds[f"ar, {mode}"], seconds[f"cola, {mode}"])
                print(verdict(f"generation, tokens/s over the AR's, {mode}", ratio, BAR))
    grows = all(low < high for low, high in pairwise(throughput))
    print(f"Cola DLM's tokens/s grow with every batch: {'yes' if grows else 'NO'}")
    print(machine())


if __name__ == "__main__":
    main()
