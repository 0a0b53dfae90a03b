"""Do IsoFLOP intervals hold 95%? Simulated studies of small designs.

    python -m tests.benchmarks.isoflop_coverage [--studies 100] [--refits 400]

Losses are E + A / N^alpha + B / D^beta with normal noise of 0.3%. Sizes at a budget span a factor
of 16 about the optimum. Each line: how often the 95% intervals of a, b and gamma_total hold the
slopes through the true optima, and of the size at ten times the largest budget its true value; how
many studies have none; the median width of a's interval over the ideal one, which knows the noise
(2 x 1.96 standard deviations of the estimate over the studies).
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.isoflop import bootstrap_isoflop
from analysis.profiles.analysis import isoflop, power_fit

E, A, B, ALPHA, BETA = 1.80, 450.0, 2000.0, 0.345, 0.365
NOISE, SPREAD = 0.003, 16.0
DESIGNS = [(sizes, budgets) for sizes in (4, 5, 6, 8) for budgets in (4, 5, 6)]


def loss_at(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The law."""
    return np.asarray(E + A / n**ALPHA + B / d**BETA)


def best_size(compute: np.ndarray) -> np.ndarray:
    """N* of the law at these C = 6 N D."""
    factor = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return np.asarray(factor * (compute / 6) ** (BETA / (ALPHA + BETA)))


def study(sizes: int, budgets: int, draw: np.random.Generator) -> pd.DataFrame:
    """One study's runs; centres of the profiles lie up to 30% beside the optimum."""
    compute = np.geomspace(1e18, 1e20, budgets)
    centre = best_size(compute) * np.exp(draw.uniform(-0.3, 0.3, budgets))
    n = (centre[:, None] * np.geomspace(SPREAD**-0.5, SPREAD**0.5, sizes)).ravel()
    c = np.repeat(compute, sizes)
    loss = loss_at(n, c / 6 / n) * np.exp(NOISE * draw.standard_normal(len(n)))
    columns = {"budget": c, "compute": c, "parameters": n, "tokens": c / 6 / n, "loss": loss}
    return pd.DataFrame(columns)


def truths(budgets: int) -> dict[str, float]:
    """Exponents through the true optima, and N* at ten times the largest budget."""
    compute = np.geomspace(1e18, 1e20, budgets)
    n = best_size(compute)
    d = compute / 6 / n
    values = {"size": n, "tokens": d, "loss": loss_at(n, d)}
    slopes = {name: power_fit(compute, each).exponent for name, each in values.items()}
    return slopes | {"N*": float(best_size(np.array([1e21]))[0])}


def simulate(sizes: int, budgets: int, studies: int, *, refits: int) -> dict[str, float]:
    """Coverage by name in one design, `none`: studies without intervals, `width` over the ideal."""
    truth, draw = truths(budgets), np.random.default_rng([sizes, budgets])
    held: dict[str, list[bool]] = {name: [] for name in truth}
    estimates, widths, none = [], [], 0
    for number in range(studies):
        analysis = isoflop(study(sizes, budgets, draw))
        found = bootstrap_isoflop(analysis, refits, number)
        if analysis.size is None or found is None or np.isnan(percentiles(found.exponent())[0]):
            none += 1
            continue
        values = {name: found.exponent(name) for name in ("size", "tokens", "loss")}
        values["N*"] = found.at("size", 1e21)
        for name, each in values.items():
            low, high = percentiles(each)
            held[name].append(low <= truth[name] <= high)
        estimates.append(analysis.size.exponent)
        widths.append(float(np.diff(percentiles(values["size"]))[0]))
    shares = {name: float(np.mean(each)) for name, each in held.items()}
    width = float(np.median(widths) / (2 * 1.96 * np.std(estimates)))
    return shares | {"none": none, "width": width}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--refits", type=int, default=400)
    arguments = parser.parse_args()
    for sizes, budgets in DESIGNS:
        found = simulate(sizes, budgets, arguments.studies, refits=arguments.refits)
        numbers = "  ".join(f"{name} {value:.3g}" for name, value in found.items())
        print(f"{sizes} sizes x {budgets} budgets: {numbers}", flush=True)


if __name__ == "__main__":
    main()
