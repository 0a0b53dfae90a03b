"""A power law through positive numbers: least squares of logarithms with Student's t intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from analysis.fitting.bootstrap import LEVEL
from cola.errors import FitError

Array = NDArray[np.float64]
SEPARABLE = 0.03  # chosen: spread across the line of two inputs over that along it


@dataclass(frozen=True)
class LogRegression:
    """log y = log k + sum of exponents x logs of inputs, inputs in units of their geometric mean.

    names: of the inputs. theta: log k, then the exponents. covariance: (X'X)^-1. scatter: standard
    deviation of the residuals of log y (NaN without degrees of freedom). level: the share that
    intervals are to hold.
    """

    names: tuple[str, ...]
    centre: Array
    theta: Array
    covariance: Array
    scatter: float
    freedom: int
    left_out_error: float
    level: float = LEVEL

    @property
    def exponents(self) -> dict[str, float]:
        """By the inputs' names."""
        return dict(zip(self.names, self.theta[1:].tolist(), strict=True))

    @property
    def intervals(self) -> dict[str, list[float]]:
        """Of the exponents; empty without degrees of freedom."""
        if not self.freedom:
            return {}
        half = self._quantile * self.scatter * np.sqrt(np.diag(self.covariance))[1:]
        ends = np.stack([self.theta[1:] - half, self.theta[1:] + half], axis=1)
        return {name: each.tolist() for name, each in zip(self.names, ends, strict=True)}

    @property
    def _quantile(self) -> float:
        return float(student_t.ppf((1 + self.level) / 2, self.freedom))

    def at(self, inputs: Sequence[float]) -> tuple[float, list[float]]:
        """y at these inputs, and the interval of the curve there (empty if not known)."""
        row = np.concatenate([[1.0], np.log(np.asarray(inputs, float)) - self.centre])
        value = float(row @ self.theta)
        if not self.freedom:
            return float(np.exp(value)), []
        half = self._quantile * self.scatter * float(np.sqrt(row @ self.covariance @ row))
        return float(np.exp(value)), [float(np.exp(value + sign * half)) for sign in (-1, 1)]

    def coefficient(self, units: Sequence[float]) -> float:
        """y at these values of the inputs, which are then the units of a written law."""
        return self.at(units)[0]


def regress(
    names: Sequence[str], inputs: Sequence[Array], values: Array, *, level: float = LEVEL
) -> LogRegression:
    """The least squares of log y.

    Raises:
        FitError: with fewer points than parameters, or inputs that do not differ or grow together.
    """
    logs = np.stack([np.log(column) for column in inputs], axis=1)
    count, width = len(values), len(names) + 1
    if count < width:
        raise FitError(
            f"a power law over {' and '.join(names)} has {width} parameters, the rows are {count}; "
            "add rows"
        )
    centre = logs.mean(0)
    spread = np.linalg.svd(logs - centre, compute_uv=False)
    still = [n for n, column in zip(names, logs.T, strict=True) if np.ptp(column) < 0.01]
    if still:
        raise FitError(
            f"all rows have the same {' and '.join(still)}: its exponent is not known; leave its "
            "column out, or add other values"
        )
    if len(names) > 1 and spread[-1] < SEPARABLE * spread[0]:
        raise FitError(
            f"{' and '.join(names)} grow together in these rows: their exponents cannot be told "
            "apart; leave one column out, or add rows off that line"
        )
    design = np.column_stack([np.ones(count), logs - centre])
    covariance = np.linalg.inv(design.T @ design)
    target = np.log(values)
    theta = covariance @ design.T @ target
    residual, freedom = target - design @ theta, count - width
    scatter = float(np.sqrt((residual**2).sum() / freedom)) if freedom else float("nan")
    leverage = np.einsum("ij,jk,ik->i", design, covariance, design)
    known = leverage < 1 - 1e-9
    errors = np.abs(np.expm1(residual[known] / (1 - leverage[known])))
    return LogRegression(
        tuple(names), centre, theta, covariance, scatter, freedom,
        float(errors.mean()) if freedom and known.all() else float("nan"), level,
    )  # fmt: skip
