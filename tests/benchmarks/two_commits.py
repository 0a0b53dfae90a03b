"""Training steps and generation of this checkout against those of another commit, in turn.

    python -m tests.benchmarks.two_commits COMMIT [--rounds 7] [--vocabulary 2048]

Each side is a process of its own, with its own sources and one thread; they measure the same thing
one after the other, in CPU seconds, so that other work on the machine moves both. Printed: medians,
the ratio of the medians, and the range of the rounds' ratios; above 1 this checkout is slower. The
commit must have the families' interface of today (`Family.stage_module`, `Batch`, `generate`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.setting import machine
from tests.paths import ROOT

SIDE = """
import json, sys, time
import torch
from cola.families.interface.family import Batch
from cola.families.registry import definition_of, family_of
from cola.seeding import Stream
from cola.spec import GenerationSpec

torch.set_num_threads(1)
VOCABULARY, CORE, ROWS, LENGTH = int(sys.argv[1]), 1_000_000, 8, 128

def parts(name):
    definition = definition_of(name)
    settings = definition.settings.parse({})
    torch.manual_seed(0)
    family = family_of(name)
    return family, family.build(definition.size(CORE, VOCABULARY, settings)), settings.objective

def step_of(name, stage):
    family, model, objective = parts(name)
    module = family.stage_module(model, objective, stage)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    def step():
        batch = Batch(ids, Stream(0, 0, range(ROWS)), list(range(ROWS)), ROWS)
        with torch.no_grad():
            draws = module.draw(batch)
        module(**draws)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step

def generation_of(name):
    family, model, _ = parts(name)
    model.eval()
    settings = GenerationSpec(max_new_tokens=32, steps=8)
    def generate():
        with torch.no_grad():
            family.generate(model, [[1] * 32] * ROWS, settings, stream=Stream(0, 0, range(ROWS)),
                            eos_token_id=None)
    return generate

made = {}
for line in sys.stdin:
    name, stage, times = json.loads(line)
    key = (name, stage)
    if key not in made:
        made[key] = generation_of(name) if stage == "generation" else step_of(name, stage)
        made[key]()
    began = time.process_time()
    for _ in range(times):
        made[key]()
    print((time.process_time() - began) / times, flush=True)
"""
CASES = [
    ("ar", "train", 4),
    ("llada", "train", 4),
    ("cola", "vae", 4),
    ("cola", "joint", 4),
    ("ar", "generation", 1),
    ("llada", "generation", 1),
    ("cola", "generation", 1),
]


@contextmanager
def side(root: Path, vocabulary: int) -> Iterator[subprocess.Popen[str]]:
    """A process that measures with the sources in `root`."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SIDE, str(vocabulary)], cwd=root, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def measured(process: subprocess.Popen[str], case: tuple[str, str, int]) -> float:
    """CPU seconds of one step, or of one batch's generation."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(case) + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--vocabulary", type=int, default=2048)
    given = parser.parse_args()
    print(f"{machine()}; vocabulary {given.vocabulary}")
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "-C", ROOT, "archive", given.commit], check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        with (
            side(ROOT, given.vocabulary) as ours,
            side(Path(folder), given.vocabulary) as theirs,
        ):
            for case in CASES:
                report(case, [(measured(ours, case), measured(theirs, case))
                              for _ in range(given.rounds)])  # fmt: skip


def report(case: tuple[str, str, int], rounds: list[tuple[float, float]]) -> None:
    """One line."""
    ours, theirs = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratios = [mine / other for mine, other in rounds]
    print(
        f"{case[0]:6} {case[1]:11} {ours:8.4f} s against {theirs:8.4f} s: {ours / theirs:.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})", flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
