"""Laws of sizes beyond the sum of two powers: tied, with an outer exponent, with one exponent.

Internal parameters as in `laws`: E in units of the smallest loss, coefficients as logarithms over
inputs in units of their geometric mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.fitting.law import EXPONENTS, Array, Inputs, Split
from analysis.fitting.power_law import PowerLaw, chinchilla_law, optimal_logs, scales_of

LARGEST = 300.0  # log of losses that far steps of a search may meet, for their squares to be finite
WORN_OUT = 30.0  # log of times used, far beyond the largest decay that is allowed
STEP = 1e-30  # of complex steps: nothing is subtracted, so that it costs no digits


@dataclass(frozen=True)
class TiedLaw:
    """L = E + (A / N^(1 - a) + B / D^a)^s: with C = 6 N D the optimal size is N* ~ C^a.

    The exponent of the optimum is a parameter itself; s = 1 is the untied law with
    alpha + beta = 1 (Kaplan's form, arXiv 2001.08361 Eq. 1.5, with a floor).
    """

    scales: tuple[float, float]
    smallest: float
    name: str = "tied"
    names: tuple[str, ...] = ("E", "A", "B", "a", "s")

    @property
    def bounds(self) -> tuple[Array, Array]:
        """See `Law`."""
        return np.array([0.0, -80.0, -80.0, 0.02, 0.02]), np.array([1.0, 80.0, 80.0, 0.98, 3.0])

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """See `Law`."""
        x, y = (np.log(v / s) for v, s in zip(points.sizes(), self.scales, strict=True))
        floor, log_a, log_b, a, s = (theta_BP[:, i : i + 1] for i in range(5))
        size, data = np.exp(log_a - (1 - a) * x), np.exp(log_b - a * y)
        inside = size + data
        power = inside**s
        loss = self.smallest * floor + power
        outer = s * power / inside
        columns = [
            np.full_like(loss, self.smallest),
            outer * size,
            outer * data,
            outer * (x * size - y * data),
            power * np.log(inside),
        ]
        return np.log(loss), np.stack(columns, axis=-1) / loss[..., None]

    def optimum(self, theta_BP: Array, log_product: Array) -> Split:
        """See `SizedLaw`: the inner sum is least where the loss is."""
        floor, log_a, log_b, a, s = (theta_BP[:, i : i + 1] for i in range(5))
        x, y = optimal_logs((log_a, log_b), (1 - a, a), log_product, scales=self.scales)
        inside = np.exp(log_a - (1 - a) * x) + np.exp(log_b - a * y)
        log_n, log_d = np.log(self.scales)
        return Split(x + log_n, y + log_d, self.smallest * floor + inside**s)

    def growth(self, theta_BP: Array) -> tuple[Array, Array]:
        """See `PowerOfCompute`: gamma = s a (1 - a)."""
        a, s = theta_BP[:, 3], theta_BP[:, 4]
        return self.smallest * theta_BP[:, 0], s * a * (1 - a)

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """See `Law`: a and s random, size and data weighing the same, half the loss above E."""
        a, s = generator.uniform(0.2, 0.8, count), generator.uniform(0.2, 1.5, count)
        above = np.log(0.5 * np.median(points.loss)) / s - np.log(2)
        floor = generator.uniform(0.2, 0.9, count)
        low, high = self.bounds
        return np.clip(np.stack([floor, above, above, a, s], axis=1), low, high)

    def public(self, theta_BP: Array) -> Array:
        """See `Law`."""
        floor, log_a, log_b, a, s = theta_BP.T
        log_n, log_d = np.log(self.scales)
        return np.stack(
            [
                self.smallest * floor,
                np.exp(log_a + (1 - a) * log_n),
                np.exp(log_b + a * log_d),
                a,
                s,
            ],
            axis=1,
        )


def tied_law(points: Inputs) -> TiedLaw:
    """See `TiedLaw`."""
    scales, smallest = scales_of(points, 2)
    return TiedLaw((scales[0], scales[1]), smallest)


@dataclass(frozen=True)
class OuterLaw:
    """L = E + (A / N^alpha + B / D^beta)^s, which has the sum of two powers (s = 1) and the tied
    law (alpha + beta = 1) in it (arXiv 2502.08606, Eq. 7)."""

    scales: tuple[float, float]
    smallest: float
    name: str = "outer"
    names: tuple[str, ...] = ("E", "A", "B", "alpha", "beta", "s")

    @property
    def bounds(self) -> tuple[Array, Array]:
        """See `Law`."""
        low = [0.0, -80.0, -80.0, EXPONENTS[0], EXPONENTS[0], 0.05]
        high = [1.0, 80.0, 80.0, EXPONENTS[1], EXPONENTS[1], 10.0]
        return np.array(low), np.array(high)

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """See `Law`."""
        x, y = (np.log(v / s) for v, s in zip(points.sizes(), self.scales, strict=True))
        floor, log_a, log_b, alpha, beta, s = (theta_BP[:, i : i + 1] for i in range(6))
        size, data = np.exp(log_a - alpha * x), np.exp(log_b - beta * y)
        inside = size + data
        power = np.exp(np.minimum(s * np.log(inside), LARGEST))
        loss = self.smallest * floor + power
        outer = s * power / inside
        columns = [
            np.full_like(loss, self.smallest),
            outer * size,
            outer * data,
            -outer * size * x,
            -outer * data * y,
            power * np.log(inside),
        ]
        return np.log(loss), np.stack(columns, axis=-1) / loss[..., None]

    def optimum(self, theta_BP: Array, log_product: Array) -> Split:
        """See `SizedLaw`: the inner sum is least where the loss is."""
        floor, log_a, log_b, alpha, beta, s = (theta_BP[:, i : i + 1] for i in range(6))
        x, y = optimal_logs((log_a, log_b), (alpha, beta), log_product, scales=self.scales)
        inside = np.exp(log_a - alpha * x) + np.exp(log_b - beta * y)
        log_n, log_d = np.log(self.scales)
        return Split(x + log_n, y + log_d, self.smallest * floor + inside**s)

    def growth(self, theta_BP: Array) -> tuple[Array, Array]:
        """See `PowerOfCompute`: gamma = s alpha beta / (alpha + beta)."""
        alpha, beta, s = theta_BP[:, 3], theta_BP[:, 4], theta_BP[:, 5]
        return self.smallest * theta_BP[:, 0], s * alpha * beta / (alpha + beta)

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """See `Law`: outer exponents on both sides of 1, exponents that make up for them, size and
        data weighing the same, half the loss above E."""
        s = np.exp(generator.uniform(np.log(0.3), np.log(3.0), count))
        alpha, beta = generator.uniform(0.1, 0.8, (2, count)) / np.sqrt(s)
        above = np.log(0.5 * np.median(points.loss)) / s - np.log(2)
        floor = generator.uniform(0.2, 0.9, count)
        low, high = self.bounds
        return np.clip(np.stack([floor, above, above, alpha, beta, s], axis=1), low, high)

    def public(self, theta_BP: Array) -> Array:
        """See `Law`."""
        floor, log_a, log_b, alpha, beta, s = theta_BP.T
        log_n, log_d = np.log(self.scales)
        coefficients = [np.exp(log_a + alpha * log_n), np.exp(log_b + beta * log_d)]
        return np.stack([self.smallest * floor, *coefficients, alpha, beta, s], axis=1)


def outer_law(points: Inputs) -> OuterLaw:
    """See `OuterLaw`."""
    scales, smallest = scales_of(points, 2)
    return OuterLaw((scales[0], scales[1]), smallest)


@dataclass(frozen=True)
class EqualLaw:
    """L = E + A / N^alpha + B / D^alpha: four parameters, N* and D* both grow as C^0.5."""

    base: PowerLaw
    name: str = "equal"
    names: tuple[str, ...] = ("E", "A", "B", "alpha")

    @property
    def bounds(self) -> tuple[Array, Array]:
        """See `Law`."""
        low, high = self.base.bounds
        return low[:4], high[:4]

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """See `Law`."""
        log_loss, slope = self.base.log_loss(_twice(theta_BP), points)
        both = slope[..., 3:4] + slope[..., 4:5]
        return log_loss, np.concatenate([slope[..., :3], both], axis=-1)

    def optimum(self, theta_BP: Array, log_product: Array) -> Split:
        """See `SizedLaw`."""
        return self.base.optimum(_twice(theta_BP), log_product)

    def growth(self, theta_BP: Array) -> tuple[Array, Array]:
        """See `PowerOfCompute`: gamma = alpha / 2."""
        return self.base.growth(_twice(theta_BP))

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """See `Law`."""
        return self.base.starts(points, count, generator)[:, :4]

    def public(self, theta_BP: Array) -> Array:
        """See `Law`."""
        return self.base.public(_twice(theta_BP))[:, :4]


def _twice(theta_BP: Array) -> Array:
    return np.concatenate([theta_BP, theta_BP[:, 3:4]], axis=1)


def equal_law(points: Inputs) -> EqualLaw:
    """See `EqualLaw`."""
    return EqualLaw(chinchilla_law(points))


@dataclass(frozen=True)
class RepeatedLaw:
    """L = E + A / N'^alpha + B / D'^beta for data of U unique tokens (arXiv 2305.16264, section 3).

    D' = U_D (1 + R_D (1 - exp(-r / R_D))) with U_D = min(U, D) and r = D / U_D - 1 repeats, and N'
    alike of U_N, the lesser of N and the optimal size for U_D tokens. R_D: repeats after which a
    repeated token is worth 1/e of a new one; R_N of parameters beyond what the data are for.
    """

    base: PowerLaw
    name: str = "repeated"
    names: tuple[str, ...] = ("E", "A", "B", "alpha", "beta", "R_D", "R_N")

    @property
    def bounds(self) -> tuple[Array, Array]:
        """See `Law`."""
        low, high = self.base.bounds
        decays = np.log([[0.1, 0.1], [1e4, 1e4]])
        return np.concatenate([low, decays[0]]), np.concatenate([high, decays[1]])

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """See `Law`; the gradient by complex steps, which is exact to rounding."""
        log_n, log_d = np.log(self.base.scales)
        place = (np.log(v) for v in (*points.sizes(), points.unique_tokens()))
        x, y, u = (v - s for v, s in zip(place, (log_n, log_d, log_d), strict=True))
        loss = self._loss(theta_BP, x, y, unique=u).real
        gradient = np.empty((*loss.shape, theta_BP.shape[1]))
        for index in range(theta_BP.shape[1]):
            stepped = theta_BP.astype(complex)
            stepped[:, index] += STEP * 1j
            gradient[..., index] = self._loss(stepped, x, y, unique=u).imag / STEP
        return np.log(loss), gradient / loss[..., None]

    def _loss(self, theta_BP: Array, x: Array, y: Array, *, unique: Array) -> Array:
        floor, *rest = (theta_BP[:, i : i + 1] for i in range(7))
        return self.base.smallest * floor + repeated_excess(rest, x, y, unique=unique)

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """See `Law`: as if nothing were repeated, and decays from one to fifty repeats."""
        plain = self.base.starts(points, count, generator)
        return np.concatenate([plain, generator.uniform(0, np.log(50), (count, 2))], axis=1)

    def public(self, theta_BP: Array) -> Array:
        """See `Law`."""
        return np.concatenate([self.base.public(theta_BP[:, :5]), np.exp(theta_BP[:, 5:])], axis=1)


def repeated_excess(coefficients: list[Array], x: Array, y: Array, *, unique: Array) -> Array:
    """Loss above E at logs of N, D and unique tokens U. coefficients: logs of A and B, alpha, beta,
    logs of R_D and R_N; all arrays broadcast, and any of them may be complex."""
    log_a, log_b, alpha, beta, log_rd, log_rn = coefficients
    new = np.minimum(unique, y)
    data = new + _worth(y - new, log_rd)
    best = (np.log(alpha / beta) + log_a - log_b + beta * new) / alpha
    used = np.where(np.real(best) < x, best, x + 0 * best)
    size = used + _worth(x - used, log_rn)
    return np.asarray(np.exp(log_a - alpha * size) + np.exp(log_b - beta * data))


def _worth(log_times: Array, log_decay: Array) -> Array:
    """Log of 1 + R (1 - exp(-r / R)), r + 1 being the times that something is used."""
    decay = np.exp(log_decay)
    # Used so often, nothing is left to gain, and what is larger overflows.
    log_times = np.where(np.real(log_times) > WORN_OUT, WORN_OUT + 0 * log_decay, log_times)
    return np.log1p(decay * -np.expm1(-np.expm1(log_times) / decay))


def repeated_law(points: Inputs) -> RepeatedLaw:
    """See `RepeatedLaw`."""
    return RepeatedLaw(chinchilla_law(points))
