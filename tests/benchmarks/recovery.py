"""Do fits find what made the data? Simulated studies with known laws: bias and coverage.

    python -m tests.benchmarks.recovery [--studies 200] [--refits 200]

Five shapes of study, `--studies` of each, noise of log loss between 0.3% and 3%. Prints for every
parameter the bias (over the parameter's spread) and how often its 90% interval holds the truth;
then 4,000 refits of the five-parameter law on 240 points, in seconds, and how many random starts
reach the optimum.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import bootstrap, percentiles
from analysis.fitting.constraints import SharedLaw
from analysis.fitting.estimate import fit_law
from analysis.fitting.isoflop import bootstrap_isoflop
from analysis.fitting.law import Inputs
from analysis.fitting.power_law import chinchilla_law
from analysis.fitting.solver import minimise
from analysis.profiles.analysis import isoflop
from cola.errors import FitError

LEVEL = 0.9
Generator = np.random.Generator


@dataclass(frozen=True)
class Found:
    """A parameter's estimate and interval in one study, beside the truth."""

    truth: float
    estimate: float
    low: float
    high: float


def noisy(loss: np.ndarray, noise: float, draw: Generator) -> np.ndarray:
    """Losses with noise of their logs."""
    return np.asarray(loss * np.exp(noise * draw.standard_normal(len(loss))))


def fitted(
    law: str, points: Inputs, truth: dict[str, float], refits: int, seed: int
) -> dict[str, Found]:
    """Least squares with the residual bootstrap, as a study's report has it."""
    fit = fit_law(law, points, "least-squares", starts=16, seed=seed)
    intervals = bootstrap(fit, refits, seed, kind="residuals").intervals(LEVEL)
    return {n: Found(v, fit.parameters[n], *intervals[n]) for n, v in truth.items()}


def grid(noise: float, draw: Generator, refits: int, seed: int) -> dict[str, Found]:
    """Six sizes by six amounts of data."""
    mesh = np.meshgrid(np.geomspace(1e6, 1e8, 6), np.geomspace(1e8, 1e10, 6))
    n, d = (axis.ravel() for axis in mesh)
    loss = noisy(1.8 + 480 / n**0.35 + 2100 / d**0.37, noise, draw)
    truth = {"E": 1.8, "alpha": 0.35, "beta": 0.37}
    return fitted("chinchilla", Inputs(loss, 6 * n * d, n, d), truth, refits, seed)


def ladder(noise: float, draw: Generator, refits: int, seed: int) -> dict[str, Found]:
    """Eight budgets, three seeds, a floor."""
    compute = np.repeat(np.geomspace(1e15, 1e21, 8), 3)
    loss = noisy(1.7 + 1.5 * (compute / 1e17) ** -0.15, noise, draw)
    truth = {"E": 1.7, "gamma": 0.15}
    return fitted("compute", Inputs(loss, compute), truth, refits, seed)


def short_ladder(noise: float, draw: Generator, refits: int, seed: int) -> dict[str, Found]:
    """Four budgets, two seeds, a plain power law."""
    compute = np.repeat(np.geomspace(1e12, 1e14, 4), 2)
    loss = noisy(4.0 * (compute / 1e13) ** -0.06, noise, draw)
    return fitted("compute-power", Inputs(loss, compute), {"gamma": 0.06}, refits, seed)


def profiles(noise: float, draw: Generator, refits: int, seed: int) -> dict[str, Found]:
    """Five budgets of thirteen sizes, each profile a parabola in log N."""
    budgets = np.repeat(np.geomspace(1e18, 1e20, 5), 13)
    best = 3e7 * (budgets / 1e18) ** 0.52
    n = best * np.tile(np.geomspace(0.2, 5, 13), 5)
    loss = 3.0 * (budgets / 1e18) ** -0.05 * (1 + 0.03 * np.log(n / best) ** 2)
    # Wider noise than half a per cent would hide curves as flat as these in any analysis.
    rows = pd.DataFrame(
        {
            "budget": budgets,
            "compute": budgets,
            "parameters": n,
            "tokens": budgets / (6 * n),
            "loss": noisy(loss, min(noise, 0.005), draw),
        }
    )
    analysis = isoflop(rows)
    resampled = bootstrap_isoflop(analysis, refits, seed)
    if analysis.size is None or resampled is None:
        raise FitError("fewer than two profiles have a minimum")
    return {"a": Found(0.52, analysis.size.exponent, *percentiles(resampled.exponent(), LEVEL))}


def families(noise: float, draw: Generator, refits: int, seed: int) -> dict[str, Found]:
    """Two families on a grid, exponents in common."""
    mesh = np.meshgrid(np.geomspace(1e6, 1e8, 5), np.geomspace(1e8, 1e10, 5))
    n, d = (np.tile(axis.ravel(), 2) for axis in mesh)
    group = np.repeat([0, 1], 25)
    floor, size = np.where(group == 0, 1.8, 1.6), np.where(group == 0, 480.0, 700.0)
    loss = noisy(floor + size / n**0.35 + 2100 / d**0.37, noise, draw)
    points = Inputs(loss, 6 * n * d, n, d)
    law = SharedLaw(chinchilla_law(points), group, ("x", "y"))
    fit = fit_law("chinchilla", points, "least-squares", starts=16, seed=seed, law=law)
    intervals = bootstrap(fit, refits, seed, kind="residuals").intervals(LEVEL)
    truth = {"alpha": 0.35, "beta": 0.37, "E[x]": 1.8, "E[y]": 1.6}
    return {k: Found(v, fit.parameters[k], *intervals[k]) for k, v in truth.items()}


SHAPES: dict[str, Callable[[float, Generator, int, int], dict[str, Found]]] = {
    "grid": grid,
    "ladder": ladder,
    "short ladder": short_ladder,
    "IsoFLOP": profiles,
    "two families": families,
}


def simulate(name: str, studies: int, refits: int) -> list[bool]:
    """All studies of one shape; returns whether each interval held its truth."""
    draw = np.random.default_rng(len(name))
    found: dict[str, list[Found]] = {}
    refused = 0
    for number in range(studies):
        noise = float(np.exp(draw.uniform(np.log(0.003), np.log(0.03))))
        try:
            result = SHAPES[name](noise, draw, refits, number)
        except FitError:
            refused += 1
            continue
        for parameter, value in result.items():
            found.setdefault(parameter, []).append(value)
    held: list[bool] = []
    for parameter, values in found.items():
        errors = np.array([value.estimate - value.truth for value in values])
        inside = [value.low <= value.truth <= value.high for value in values]
        held += inside
        print(
            f"{name:>13} {parameter:>6}: truth {values[0].truth:.3g}, median error "
            f"{np.median(errors):+.2g}, spread {errors.std():.2g}, coverage {np.mean(inside):.3f}",
            flush=True,
        )
    print(f"{name:>13}: {refused} of {studies} studies refused; coverage {np.mean(held):.3f}")
    return held


def speed() -> None:
    """Refits and starts of the five-parameter law on 240 points."""
    draw = np.random.default_rng(0)
    ranges = ((4e7, 1e10), (1e9, 5e11))
    n, d = (np.exp(draw.uniform(*np.log(limits), 240)) for limits in ranges)
    loss = noisy(1.8 + 480 / n**0.35 + 2100 / d**0.37, 0.006, draw)
    points = Inputs(loss, 6 * n * d, n, d)
    fit = fit_law("chinchilla", points)
    start = time.perf_counter()
    bootstrap(fit, 4000, 0)
    print(f"4,000 refits of 240 points: {time.perf_counter() - start:.1f} s")
    law = chinchilla_law(points)
    theta = law.starts(points, 1000, draw)
    for delta in (np.inf, 1e-3):
        found = minimise(law, points, theta, delta=delta)
        theta = found.theta
    share = (found.objective <= found.objective.min() * (1 + 1e-6)).mean()
    print(f"random starts that reach the optimum: {share:.1%} of 1,000")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--refits", type=int, default=200)
    arguments = parser.parse_args()
    held = [h for name in SHAPES for h in simulate(name, arguments.studies, arguments.refits)]
    print(f"all: nominal {LEVEL:.0%}, coverage {np.mean(held):.3f} of {len(held)} intervals")
    speed()


if __name__ == "__main__":
    main()
