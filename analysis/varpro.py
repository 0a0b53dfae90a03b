"""Variable projection: at given exponents a power law is linear in E and its coefficients.

They are profiled out by non-negative least squares (of relative errors), which leaves a search over
the exponents alone.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize, nnls

from analysis.laws import EXPONENTS, Array, Inputs, PowerLaw


def profiled(law: PowerLaw, exponents: Array, points: Inputs) -> Array:
    """Internal parameters at these exponents, the linear ones at their optimum."""
    linear, _ = nnls(_design(law, exponents, points), np.ones(len(points)))
    return law.internal(_positive(law, linear), exponents)


def variable_projection(law: PowerLaw, points: Inputs, starts: Array) -> Array:
    """(S, P): from each start, least squares of relative errors over the exponents alone."""
    terms = len(law.axes)
    box = [EXPONENTS] * terms

    def misfit(exponents: Array) -> float:
        return float(nnls(_design(law, exponents, points), np.ones(len(points)))[1] ** 2)

    rows = []
    for start in starts:
        found = minimize(misfit, start[-terms:], method="L-BFGS-B", bounds=box, tol=1e-14)
        polished = minimize(
            misfit,
            found.x,
            method="Nelder-Mead",
            bounds=box,
            options={"xatol": 1e-9, "fatol": 1e-16, "maxiter": 2000},
        )
        linear, _ = nnls(_design(law, polished.x, points), np.ones(len(points)))
        rows.append(law.internal(_positive(law, linear), polished.x))
    return np.stack(rows)


def _positive(law: PowerLaw, linear: Array) -> Array:
    """Coefficients are kept as logarithms: one at 0 becomes a hundredth of the smallest loss."""
    least = np.full(len(linear), 1e-2 * law.smallest)
    least[: law.floor] = 0.0
    return np.maximum(linear, least)


def _design(law: PowerLaw, exponents: Array, points: Inputs) -> Array:
    """(n, linear parameters): each term over the measured loss, so that 1 is what is sought."""
    columns = np.exp(-np.asarray(exponents)[:, None] * law.inputs(points))
    if law.floor:
        columns = np.concatenate([np.ones((1, len(points))), columns])
    return (columns / points.loss).T
