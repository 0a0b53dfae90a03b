"""Power laws in compute or in size and tokens, with their linear parameters profiled out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, nnls

from analysis.fitting.law import EXPONENTS, Array, Inputs, Split
from cola.errors import FitError


@dataclass(frozen=True)
class PowerLaw:
    """L = E + sum_k c_k x_k^-p_k over one input (compute) or two (parameters, tokens).

    Internal parameters: [E / smallest loss,] log c_1 .., p_1 ...; `floor`: whether there is an E.
    """

    name: str
    names: tuple[str, ...]
    axes: tuple[str, ...]
    scales: tuple[float, ...]
    smallest: float  # loss of the data, for E's bound
    floor: bool = True

    @property
    def bounds(self) -> tuple[Array, Array]:
        """See `Law`."""
        terms = len(self.axes)
        low = [*[0.0] * self.floor, *[-40.0] * terms, *[EXPONENTS[0]] * terms]
        high = [*[1.0] * self.floor, *[40.0] * terms, *[EXPONENTS[1]] * terms]
        return np.array(low), np.array(high)

    def inputs(self, points: Inputs) -> Array:
        """Log of the inputs in units of their scale, (terms, n)."""
        columns = [getattr(points, axis) for axis in self.axes]
        scaled = [np.log(c / s) for c, s in zip(columns, self.scales, strict=True)]
        return np.stack(scaled)

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """See `Law`."""
        terms, x_Kn = len(self.axes), self.inputs(points)
        coefficient_BK = theta_BP[:, self.floor : self.floor + terms]
        exponent_BK = theta_BP[:, self.floor + terms :]
        power_BKn = np.exp(coefficient_BK[..., None] - exponent_BK[..., None] * x_Kn)
        loss_Bn = power_BKn.sum(1)
        gradient = np.empty((*loss_Bn.shape, theta_BP.shape[1]))
        if self.floor:
            loss_Bn = loss_Bn + self.smallest * theta_BP[:, :1]
            gradient[..., 0] = self.smallest
        gradient[..., self.floor : self.floor + terms] = power_BKn.transpose(0, 2, 1)
        slope_BKn = -x_Kn * power_BKn
        gradient[..., self.floor + terms :] = slope_BKn.transpose(0, 2, 1)
        return np.log(loss_Bn), gradient / loss_Bn[..., None]

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """See `Law`: exponents log-uniform in 0.02 .. 1.5, linear parameters profiled out."""
        terms = len(self.axes)
        exponents = np.exp(generator.uniform(np.log(0.02), np.log(1.5), (count, terms)))
        return np.stack([profiled(self, row, points) for row in exponents])

    def internal(self, linear: Array, exponents: Array) -> Array:
        """Internal parameters from E (with a floor), coefficients and exponents."""
        low, high = self.bounds
        floor, logs = linear[: self.floor] / self.smallest, np.log(linear[self.floor :])
        return np.clip(np.concatenate([floor, logs, exponents]), low, high)

    def optimum(self, theta_BP: Array, log_product: Array) -> Split:
        """See `SizedLaw`: alpha A / N^alpha = beta B / D^beta at the optimum.

        Raises:
            FitError: for a law of compute alone.
        """
        if len(self.axes) < 2:
            raise FitError(f"law {self.name} knows no sizes: it has no optimal one")
        floor, rest = theta_BP[:, : self.floor], theta_BP[:, self.floor :]
        log_a, log_b, alpha, beta = (rest[:, i : i + 1] for i in range(4))
        x, y = optimal_logs((log_a, log_b), (alpha, beta), log_product, scales=self.scales)
        loss = np.exp(log_a - alpha * x) + np.exp(log_b - beta * y)
        if self.floor:
            loss = loss + self.smallest * floor
        log_n, log_d = np.log(self.scales)
        return Split(x + log_n, y + log_d, loss)

    def growth(self, theta_BP: Array) -> tuple[Array, Array]:
        """See `PowerOfCompute`: gamma = alpha beta / (alpha + beta)."""
        count = len(theta_BP)
        floor = self.smallest * theta_BP[:, 0] if self.floor else np.zeros(count)
        exponents = theta_BP[:, self.floor + len(self.axes) :]
        return floor, exponents.prod(1) / exponents.sum(1) ** (len(self.axes) - 1)

    def public(self, theta_BP: Array) -> Array:
        """See `Law`: coefficients in the units of the data, A = c N0^alpha."""
        terms = len(self.axes)
        exponent_BK = theta_BP[:, self.floor + terms :]
        logs = theta_BP[:, self.floor : self.floor + terms] + exponent_BK * np.log(self.scales)
        floor = [self.smallest * theta_BP[:, :1]] * self.floor
        parts = [*floor, np.exp(logs), exponent_BK]
        return np.concatenate(parts, axis=1)


def optimal_logs(
    coefficients: tuple[Array, Array],
    exponents: tuple[Array, Array],
    log_product: Array,
    *,
    scales: tuple[float, ...],
) -> tuple[Array, Array]:
    """Logs of N* and D* over their scales (B, n): where exp(a - p x) + exp(b - q y) is least at a
    given x + y. All arguments but the products (n,) are (B, 1)."""
    (log_a, log_b), (p, q) = coefficients, exponents
    total = log_product - np.log(scales).sum()
    x = (np.log(p / q) + log_a - log_b + q * total) / (p + q)
    return x, total - x


def chinchilla_law(points: Inputs) -> PowerLaw:
    """L = E + A / N^alpha + B / D^beta (arXiv 2203.15556, Eq. 2)."""
    names = ("E", "A", "B", "alpha", "beta")
    return PowerLaw("chinchilla", names, ("parameters", "tokens"), *scales_of(points, 2))


def compute_law(points: Inputs) -> PowerLaw:
    """L = E + K C^-gamma."""
    return PowerLaw("compute", ("E", "K", "gamma"), ("compute",), *scales_of(points, 1))


def plain_compute_law(points: Inputs) -> PowerLaw:
    """L = K C^-gamma, without a floor."""
    return PowerLaw(
        "compute-power", ("K", "gamma"), ("compute",), *scales_of(points, 1), floor=False
    )


def scales_of(points: Inputs, terms: int) -> tuple[tuple[float, ...], float]:
    """Geometric means of the inputs (compute; of two terms N and D), and the lowest loss."""
    axes = ("parameters", "tokens") if terms == 2 else ("compute",)
    logs = [np.log(getattr(points, axis)).mean() for axis in axes]
    return tuple(float(np.exp(value)) for value in logs), float(points.loss.min())


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
        rough = minimize(misfit, start[-terms:], method="L-BFGS-B", bounds=box, tol=1e-14)
        polished = minimize(
            misfit,
            rough.x,
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
