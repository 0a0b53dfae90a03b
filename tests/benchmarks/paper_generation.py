"""Generation at the paper's row on a GPU: tokens a second, and what limits them.

    python -m tests.benchmarks.paper_generation [--core 100000]

bfloat16 weights, 64 prompt and 64 new tokens, 16 Euler steps with CFG, LLaDA one token a pass. On a
CPU it only shows that it runs, at a size of `--core` parameters.

What limits a family at batch 1, by counting bytes and kernels (times at an H100's 3.35 TB/s; a
small kernel is taken to last 2 us in a graph, and Python to take 5 us to start it: estimates):

- AR reads all weights but the embedding for every token, 4.03 GB: 1.2 ms, 830 tokens/s at most. A
  step has about 41 kernels a layer (a norm is 8, both rotations 10), 1,100 in all: 6 ms where
  Python starts them, 2 ms in a graph. With products at 85% of the bandwidth that is about 270
  tokens/s, 0.33 of the bandwidth: the bar of 0.40 asks for fused norms, or for `torch.compile` of
  the step.
- Cola reads the DiT without AdaLN (1.23 B parameters) 16 times a block, the whole DiT once more to
  commit it, and the decoder once: 2.71 GB a token, 1,240 tokens/s at most. A block has about 26
  kernels a layer and pass, 10,700 in all: 50 ms where Python starts them (320 tokens/s), 20 ms in
  a graph beside 16 ms of products: about 450 tokens/s. The bar of 600 asks for 15 kernels a layer,
  which fused norms with rotations and fused gates with norms give.
- LLaDA reads all weights for every pass, and a pass of 128 positions takes little longer than
  that: at one token a pass it has at most AR's rate, at k tokens k times that.

In batches AR stays bound by bandwidth: 128 rows of 128 tokens have a cache of 3.6 GB, so that a
step takes 2.4 ms (53,000 tokens/s at most) and kernels as above (about 25,000). Cola becomes bound
by products: 2 x 1.23 G x 2 (guidance) x 16 steps are 79 GFLOP a token, 8,200 tokens/s at 650
TFLOP/s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cola.compute.flops import adaln_layer_parameters
from cola.families.registry import definition_of, family_of
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.benchmarks.setting import machine, verdict

VOCABULARY, SMALL_VOCABULARY, PROMPT, NEW = 100_278, 512, 64, 64
SETTINGS = GenerationSpec(max_new_tokens=NEW, steps=16, guidance_scale=7.0)
BATCHES = {"ar": (1, 32, 128), "cola": (1, 32, 64), "llada": (1, 32)}
BYTES = 2  # of a bfloat16 number
# Tokens a second, or the share of the bandwidth, that the product is meant to reach on an H100.
BARS = {("cola", 1): 600.0, ("cola", 64): 4000.0, ("ar", 128): 15_000.0}
AR_BANDWIDTH_BAR = 0.40
ROUNDS = 3  # of every batch, behind one in which steps are warmed up and captured


def bandwidth(device: torch.device) -> float:
    """Bytes a second of a large copy: what it reads and what it writes."""
    count = 1 << (30 if device.type == "cuda" else 24)
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * count / timed(lambda: target.copy_(source), device)


def timed(job: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Seconds of a call on the device, behind one that is not counted."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    job()
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        job()
    wait()
    return (time.perf_counter() - start) / repeats


def model_of(name: str, core: int | None, device: torch.device) -> Any:
    """The model of the paper's row (or of that many core parameters) with bfloat16 weights."""
    definition = definition_of(name)
    settings = definition.settings.parse({})
    if core is None:
        sizes = definition.paper_row(VOCABULARY, settings)
    else:
        sizes = definition.size(core, SMALL_VOCABULARY, settings)
    torch.manual_seed(0)
    with device:
        model = family_of(name).build(sizes)
    return model.to(device, torch.bfloat16).eval()


def weight_bytes_per_token(name: str, model: Any) -> float:
    """Bytes of weights that one row reads for a token."""

    def size(module: Any) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    if name != "cola":
        table = model.get_input_embeddings() if name == "ar" else model.model.embed_tokens
        return float(BYTES * (size(model) - size(table)))
    dit, config = model.dit, model.dit.config
    adaln = config.num_layers * adaln_layer_parameters(config.txt_dim)
    passes = SETTINGS.steps * (size(dit) - adaln) + size(dit)  # the last one commits the block
    return BYTES * (passes + size(model.vae.decoder)) / model.tokens_per_block


def jobs(
    name: str, model: Any, device: torch.device, *, batches: tuple[int, ...]
) -> Iterator[tuple[int, Callable[[], object]]]:
    """(batch, a generation of NEW tokens by every row)."""
    family = family_of(name)
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        rows = torch.randint(0, SMALL_VOCABULARY, (batch, PROMPT), generator=generator).tolist()
        stream = Stream(0, 0, range(batch), device=device)

        def run(rows: list[list[int]] = rows, stream: Stream = stream) -> object:
            with torch.inference_mode():
                return family.generate(model, rows, SETTINGS, stream=stream, eos_token_id=None)

        yield batch, run


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, default=None)
    measure(parser.parse_args().core)


def measure(core: int | None) -> None:
    """Print a line a family and batch; `core` None is the paper's row."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    rate = bandwidth(device)
    where = torch.cuda.get_device_name() if on_gpu else machine()
    print(f"{where}, torch {torch.__version__}: {rate / 1e12:.2f} TB/s")
    for name in BATCHES:
        model = model_of(name, core, device)
        needed = weight_bytes_per_token(name, model)
        batches = BATCHES[name] if core is None else (1, 2)
        for batch, job in jobs(name, model, device, batches=batches):
            began = time.perf_counter()
            job()
            first = time.perf_counter() - began
            speed = batch * NEW / timed(job, device, ROUNDS)
            share = speed / batch * needed / rate
            print(
                f"{name:<6} batch {batch:>3}: {speed:8.0f} tokens/s, weights at {share:.2f} of the "
                f"bandwidth; first generation {first:.1f} s"
            )
            if on_gpu and core is None:
                print_verdict(name, batch, speed, share=share)
        del model
        if on_gpu:
            torch.cuda.empty_cache()


def print_verdict(name: str, batch: int, speed: float, *, share: float) -> None:
    """Whether a bar is met, where there is one."""
    if (name, batch) == ("ar", 1):
        print(verdict("ar batch 1: share of the bandwidth", share, AR_BANDWIDTH_BAR))
    if (name, batch) in BARS:
        print(verdict(f"{name} batch {batch}: tokens/s", speed, BARS[name, batch]))


if __name__ == "__main__":
    main()
