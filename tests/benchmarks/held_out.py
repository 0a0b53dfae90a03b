"""How every law fitted below 1e21 FLOPs predicts the published runs above, and how well it could.

    python -m tests.benchmarks.held_out [--cut 1e21]

For each law the mean |relative error| on the runs above: fitted to all runs below; to those that
`--from auto` keeps of them; and least of all, fitted to the runs above themselves by least absolute
deviations. Then what it would be if the law were true: refits of simulated runs, with its residuals
for noise. `figure`: half of the mean step between the losses above, which are read off a figure.
"""

from __future__ import annotations

import argparse

import numpy as np

from analysis.fitting.cross_validation import best_window
from analysis.fitting.estimate import Fit, fit_law, solve
from analysis.fitting.law import Inputs, predicted
from analysis.fitting.laws import LAWS
from analysis.fitting.solver import Resampled
from analysis.fitting.table import inputs
from cola.errors import FitError
from tests.benchmarks.law_coverage import public_sets

STUDIES = 200


def error(fit: Fit, points: Inputs) -> float:
    """Mean |relative error|."""
    return float(np.abs(fit.loss(points) / points.loss - 1).mean())


def under_the_law(fit: Fit, later: Inputs) -> tuple[float, float]:
    """Median and 95th percentile of the error of studies that follow the fit."""
    draw = np.random.default_rng(0)
    noise = fit.residual - np.median(fit.residual)
    losses = np.log(fit.loss(fit.points)) + draw.choice(noise, (STUDIES, len(fit.points)))
    data = Resampled(np.ones_like(losses), losses)
    start = np.tile(fit.theta, (STUDIES, 1))
    theta = solve(fit.law, fit.points, start, estimator=fit.estimator, data=data).theta
    measured = fit.loss(later) * np.exp(draw.choice(noise, (STUDIES, len(later))))
    errors = np.abs(predicted(fit.law, theta, later) / measured - 1).mean(1)
    return float(np.median(errors)), float(np.quantile(errors, 0.95))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cut", type=float, default=1e21, help="FLOPs from which runs are held out"
    )
    cut = parser.parse_args().cut
    rows = public_sets()["chinchilla"]
    below, later = rows[rows["compute"] < cut], inputs(rows[rows["compute"] >= cut])
    steps = np.diff(np.unique(later.loss)) / later.loss.mean()
    print(f"{len(below)} runs below {cut:g}, {len(later)} above; figure {np.median(steps) / 2:.2%}")
    for law in LAWS:
        try:
            whole = fit_law(law, inputs(below))
        except FitError:
            continue
        window = best_window(law, below)
        part = fit_law(law, inputs(below[below["compute"] >= window.start]))
        least = error(fit_law(law, later, "huber-density"), later)
        middle, high = under_the_law(whole, later)
        print(
            f"{law:>14}: all {error(whole, later):.2%}, from {window.start:.3g} "
            f"{error(part, later):.2%}, at best {least:.2%}, if true {middle:.2%} "
            f"(95% below {high:.2%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
