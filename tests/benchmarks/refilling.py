"""Many prompts whose continuations end at very different lengths: chunks against refilled rows.

    python -m tests.benchmarks.refilling [--repeats 3] [--rows 16] [--prompts 64] [--new 64]
        [--families ar cola]

Prompts of 1 to 128 tokens, sampled at temperature 1 in float32 (bfloat16's rounding differs with
the batch, and then the samples do); Cola DLM with 16 Euler steps and CFG. A continuation ends at a
length that its first token says, most of them early: the quartiles are about 1/13, 1/6 and 2/5 of
the longest. Tokens are counted up to there.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator

import torch
from torch import nn

from cola.families.registry import family_of
from cola.sampling.continuous_batching import in_chunks
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.benchmarks.setting import (
    VOCABULARY,
    alternating,
    ar_model,
    cola_model,
    machine,
    median_ratio,
)

LONGEST_PROMPT = 128
BUILDERS: dict[str, Callable[[], nn.Module]] = {"ar": ar_model, "cola": cola_model}
Found = Iterator[tuple[int, list[int]]]


def prompts(count: int) -> list[list[int]]:
    """The same in every run."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, LONGEST_PROMPT + 1, (count,), generator=generator).tolist()
    return [
        torch.randint(0, VOCABULARY, (length,), generator=generator).tolist() for length in lengths
    ]


def ends(longest: int) -> Callable[[list[int]], bool]:
    """A continuation's length by its first token, log-uniform with a few at the longest."""
    generator = torch.Generator().manual_seed(1)
    share = 2.0 ** -(5 * torch.rand(VOCABULARY, generator=generator))
    lengths = (longest * share).ceil().long().tolist()
    return lambda made: len(made) >= lengths[made[0]]


def jobs(
    family_name: str, model: nn.Module, settings: GenerationSpec, count: int, rows: int
) -> dict[str, Callable[[], Found]]:
    """Both ways to make the same continuations."""
    family, texts, stream = family_of(family_name), prompts(count), Stream(0, 0, range(count))
    ended = ends(settings.max_new_tokens)

    def chunks() -> Found:
        return in_chunks(
            lambda part, own: family.generate(model, part, settings, stream=own, eos_token_id=None),
            texts,
            stream,
            rows=rows,
            ended=ended,
        )

    def refilled() -> Found:
        return family.iter_generate(
            model, texts, settings, stream=stream, eos_token_id=None, rows=rows, ended=ended
        )

    return {"chunks": chunks, "refilled": refilled}


def timed(job: Callable[[], Found], found: dict[int, list[int]]) -> Callable[[], None]:
    """Runs the job to its end, and leaves what it made in `found`."""

    def run() -> None:
        with torch.inference_mode():
            found.update(job())

    return run


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--families", nargs="+", choices=BUILDERS, default=list(BUILDERS))
    arguments = parser.parse_args()
    settings = GenerationSpec(
        max_new_tokens=arguments.new, steps=16, guidance_scale=7.0, temperature=1.0
    )
    print(machine())
    for name in arguments.families:
        model = BUILDERS[name]().eval()
        both = jobs(name, model, settings, arguments.prompts, arguments.rows)
        found: dict[str, dict[int, list[int]]] = {way: {} for way in both}
        runs = {way: timed(job, found[way]) for way, job in both.items()}
        seconds = alternating(runs, arguments.repeats)
        for way, taken in seconds.items():
            tokens = sum(len(made) for made in found[way].values())
            wall = statistics.median(taken)
            print(
                f"{name:<4} {way:<8} {tokens:5d} tokens {wall:7.2f} s {tokens / wall:7.0f} tokens/s"
            )
        same = sum(found["chunks"][i] == found["refilled"][i] for i in found["chunks"])
        ratio = median_ratio(seconds["chunks"], seconds["refilled"])
        print(
            f"{name:<4} refilled is {ratio:.2f} times as fast; {same} of {arguments.prompts} equal"
        )
    print(machine())


if __name__ == "__main__":
    main()
