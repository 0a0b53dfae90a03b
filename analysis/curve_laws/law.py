"""The law with learning-rate annealing, alone and over sizes.

Internal parameters as in `analysis.fitting.laws`: E in units of the smallest loss, A and B as
logarithms over inputs in units of their geometric mean, C in units of the smallest loss for S2 over
its timescale and the largest rate (which nearly uncouples it from lambda), lambda as the logarithm
of its timescale 1 / (1 - lambda).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from analysis.curve_laws.curves import CurvePoints
from analysis.fitting.law import EXPONENTS, Array, Inputs
from cola.errors import FitError

ABOVE = 2.0  # largest E over the smallest loss, which annealing may bring below E
GAIN = 1e3  # largest C, in its internal unit
PLAIN = ("E", "A", "alpha", "C", "lambda")
SIZED = (*PLAIN, "B", "beta", "gamma")
TEXTS = {
    PLAIN: "L(s) = E + A S1^-alpha - C S2",
    SIZED: "L(s, N) = E + A S1^-alpha + B N^-beta - C S2 N^-gamma",
}


@dataclass(frozen=True)
class AnnealingLaw:
    """L(s) = E + A S1^-alpha - C S2 (arXiv 2408.11029, Eq. 1), and of several sizes
    L(s, N) = E + A S1^-alpha + B N^-beta - C S2 N^-gamma (its Eq. 7).

    S1 is the sum of the learning rates so far, S2 the annealing area with momentum lambda
    (`annealing_area`). sizes: geometric mean of N; None: the law of one size.
    """

    scale: float
    smallest: float
    unit: float
    slowest: float
    size: float | None = None
    name: str = "annealing"

    @property
    def names(self) -> tuple[str, ...]:
        """See `Law`."""
        return PLAIN if self.size is None else SIZED

    @property
    def text(self) -> str:
        """The formula for people."""
        return TEXTS[self.names]

    @property
    def bounds(self) -> tuple[Array, Array]:
        """See `Law`."""
        low = [0.0, -80.0, EXPONENTS[0], 0.0, float(np.log(2))]
        high = [ABOVE, 80.0, EXPONENTS[1], GAIN, self.slowest]
        if self.size is not None:
            low += [-80.0, EXPONENTS[0], 0.0]
            high += [80.0, EXPONENTS[1], EXPONENTS[1]]
        return np.array(low), np.array(high)

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """See `Law`; the points are `CurvePoints`."""
        floor, log_a, alpha, gain = (theta_BP[:, i : i + 1] for i in range(4))
        x = np.log(points.compute / self.scale)
        annealed, slope = annealed_of(points, theta_BP[:, 4])
        forward = np.exp(log_a - alpha * x)
        share, extra = np.ones_like(x), np.zeros_like(x)
        of_sizes: list[Array] = []
        if self.size is not None and points.parameters is not None:
            z = np.log(points.parameters / self.size)
            log_b, beta, gamma = (theta_BP[:, i : i + 1] for i in range(5, 8))
            extra, share = np.exp(log_b - beta * z), np.exp(-gamma * z)
            of_sizes = [extra, -z * extra, self.smallest * gain * annealed * share * z]
        lowered = self.smallest * annealed * share
        loss = self.smallest * floor + forward + extra - gain * lowered
        columns = [
            np.full_like(loss, self.smallest), forward, -x * forward, -lowered,
            -self.smallest * gain * slope * share, *of_sizes,
        ]  # fmt: skip
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(loss), np.stack(columns, axis=-1) / loss[..., None]

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """See `Law`: exponents and timescale random, the rest by non-negative least squares."""
        alpha = np.exp(generator.uniform(np.log(0.05), np.log(1.2), count))
        log_time = generator.uniform(np.log(5), max(np.log(10), self.slowest - 1), count)
        beta = np.exp(generator.uniform(np.log(0.05), np.log(0.8), count))
        gamma = generator.uniform(0.0, 0.5, count)
        annealed = annealed_of(points, log_time)[0]
        x = np.log(points.compute / self.scale)
        z = None if self.size is None else np.log(_sizes(points) / self.size)
        rows = []
        for row in range(count):
            parts = [np.ones(len(points)), np.exp(-alpha[row] * x)]
            share = 1.0 if z is None else np.exp(-gamma[row] * z)
            parts.append(-self.smallest * annealed[row] * share)
            if z is not None:
                parts.append(np.exp(-beta[row] * z))
            found = nnls(np.stack(parts, axis=1) / points.loss[:, None], np.ones(len(points)))[0]
            coefficients = np.log(np.maximum(found[1:], 1e-3 * self.smallest))
            theta = [found[0] / self.smallest, coefficients[0], alpha[row], found[2]]
            theta += [log_time[row]]
            theta += [] if z is None else [coefficients[2], beta[row], gamma[row]]
            rows.append(theta)
        low, high = self.bounds
        return np.clip(np.array(rows), low, high)

    def public(self, theta_BP: Array) -> Array:
        """See `Law`."""
        floor, log_a, alpha, gain, log_time = theta_BP[:, :5].T
        unit = self.smallest / (np.exp(log_time) * self.unit)
        values = [
            self.smallest * floor, np.exp(log_a + alpha * np.log(self.scale)), alpha, gain * unit,
            -np.expm1(-log_time),
        ]  # fmt: skip
        if self.size is not None:
            log_b, beta, gamma = theta_BP[:, 5:].T
            log_n = np.log(self.size)
            values[3] = values[3] * np.exp(gamma * log_n)
            values += [np.exp(log_b + beta * log_n), beta, gamma]
        return np.stack(values, axis=1)


def annealed_of(points: Inputs, log_time_B: Array) -> tuple[Array, Array]:
    """S2 over timescale and unit at every log of the timescale (B, n), and its slope."""
    assert isinstance(points, CurvePoints)
    return points.spline(log_time_B), points.spline(log_time_B, 1)


def _sizes(points: Inputs) -> Array:
    if points.parameters is None:
        raise FitError("the size of every run is needed (--n)")
    return points.parameters


def annealing_law(points: CurvePoints, unit: float, *, sized: bool) -> AnnealingLaw:
    """The law in the units of these points; `unit`: the largest rate."""
    size = float(np.exp(np.log(_sizes(points)).mean())) if sized else None
    scale = float(np.exp(np.log(points.compute).mean()))
    return AnnealingLaw(scale, float(points.loss.min()), unit, float(points.knots[-1]), size)
