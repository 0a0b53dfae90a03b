"""Scaling laws as predictions with analytic gradients, for many parameter vectors at once.

Shapes: B parameter vectors (starts or bootstrap refits), n points, P parameters. Every law is
L = E + sum of terms c_k exp(-p_k . x), written with E in units of the smallest loss and c_k as
logarithms, over inputs in units of their geometric mean so that coefficients and exponents are
nearly uncorrelated. `public` gives the parameters as they are printed, in the units of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.law import EXPONENTS, Array, Inputs, Law, Split
from analysis.fitting.power_law import (
    PowerLaw,
    chinchilla_law,
    compute_law,
    optimal_logs,
    plain_compute_law,
    profiled,
    scales_of,
)


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
class BrokenPowerLaw:
    """L = E + K C^-gamma (1 + (C / C1)^(1/f))^(-delta f): a power law whose exponent passes from
    gamma to gamma + delta at C1 over a width f (BNSL with one break, arXiv 2210.14891)."""

    scale: float
    smallest: float
    low_break: float  # log of C1's bounds in units of the scale
    high_break: float
    name: str = "broken"
    names: tuple[str, ...] = ("E", "K", "gamma", "C1", "f", "delta")

    @property
    def bounds(self) -> tuple[Array, Array]:
        """See `Law`."""
        low = [0.0, -40.0, EXPONENTS[0], self.low_break, 0.05, -1.0]
        high = [1.0, 40.0, EXPONENTS[1], self.high_break, 2.0, 1.0]
        return np.array(low), np.array(high)

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """See `Law`."""
        x = np.log(points.compute / self.scale)
        floor, log_k, gamma, log_c1, f, delta = (theta_BP[:, i : i + 1] for i in range(6))
        u = (x - log_c1) / f
        soft = np.logaddexp(0.0, u)  # log(1 + (C / C1)^(1/f))
        gate = np.exp(u - soft)
        power = np.exp(log_k - gamma * x - delta * f * soft)
        loss = self.smallest * floor + power
        columns = [
            np.full_like(loss, self.smallest),
            power,
            -x * power,
            delta * gate * power,
            -delta * (soft - u * gate) * power,
            -f * soft * power,
        ]
        return np.log(loss), np.stack(columns, axis=-1) / loss[..., None]

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """See `Law`: from unbroken laws, with breaks of either sign anywhere inside the data."""
        plain = compute_law(points).starts(points, count, generator)
        place = generator.uniform(self.low_break, self.high_break, count)
        rest = [place, generator.uniform(0.1, 1.0, count), generator.uniform(-0.1, 0.1, count)]
        return np.concatenate([plain, np.stack(rest, axis=1)], axis=1)

    def public(self, theta_BP: Array) -> Array:
        """See `Law`."""
        floor, log_k, gamma, log_c1, f, delta = theta_BP.T
        coefficient = np.exp(log_k + gamma * np.log(self.scale))
        return np.stack(
            [
                self.smallest * floor,
                coefficient,
                gamma,
                self.scale * np.exp(log_c1),
                f,
                delta,
            ],
            axis=1,
        )


def broken_law(points: Inputs) -> BrokenPowerLaw:
    """See `BrokenPowerLaw`; the break lies between the smallest and the largest compute."""
    scales, smallest = scales_of(points, 1)
    logs = np.log(points.compute / scales[0])
    return BrokenPowerLaw(scales[0], smallest, float(logs.min()), float(logs.max()))


@dataclass(frozen=True)
class SharedLaw:
    """One power law a family, with the exponents in common (floors and coefficients its own).

    Points carry their family's number in `group`; internal parameters are [E, log c ..] of each
    family, one after the other, then the exponents.
    """

    base: PowerLaw
    group: NDArray[np.int64]
    families: Sequence[str]
    name: str = field(default="shared")

    @property
    def names(self) -> tuple[str, ...]:
        """E, A, B of every family, then the exponents."""
        own = self.base.names[: self._own]
        of_families = [f"{name}[{family}]" for family in self.families for name in own]
        return (*of_families, *self.base.names[self._own :])

    @property
    def _own(self) -> int:
        return self.base.floor + len(self.base.axes)

    @property
    def bounds(self) -> tuple[Array, Array]:
        """See `Law`."""
        low, high = self.base.bounds
        count = len(self.families)
        return tuple(  # type: ignore[return-value]
            np.concatenate([np.tile(side[: self._own], count), side[self._own :]])
            for side in (low, high)
        )

    def _theta_of(self, theta_BP: Array, family: int) -> Array:
        first = family * self._own
        shared = theta_BP[:, len(self.families) * self._own :]
        return np.concatenate([theta_BP[:, first : first + self._own], shared], axis=1)

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """See `Law`; the points must be those that `group` numbers."""
        log_loss = np.zeros((len(theta_BP), len(points)))
        gradient = np.zeros((*log_loss.shape, theta_BP.shape[1]))
        for family in range(len(self.families)):
            mine = np.flatnonzero(self.group == family)
            found, slope = self.base.log_loss(self._theta_of(theta_BP, family), points.subset(mine))
            log_loss[:, mine] = found
            first = family * self._own
            gradient[:, mine, first : first + self._own] = slope[..., : self._own]
            gradient[:, mine, len(self.families) * self._own :] = slope[..., self._own :]
        return log_loss, gradient

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """See `Law`: every family profiled at the same random exponents."""
        terms, rows = len(self.base.axes), []
        for _ in range(count):
            exponents = np.exp(generator.uniform(np.log(0.02), np.log(1.5), terms))
            own = [
                profiled(self.base, exponents, points.subset(self.group == family))[: self._own]
                for family in range(len(self.families))
            ]
            rows.append(np.concatenate([*own, exponents]))
        return np.stack(rows)

    def public(self, theta_BP: Array) -> Array:
        """See `Law`."""
        each = [self.base.public(self._theta_of(theta_BP, f)) for f in range(len(self.families))]
        own = [values[:, : self._own] for values in each]
        return np.concatenate([*own, each[0][:, self._own :]], axis=1)


# Options of `cola fit`, by their names in Python: of every law, and of fitted laws.
TABLE_OPTIONS = frozenset(
    {"data", "n", "d", "loss", "flops", "group", "budget", "run", "law", "drop_largest_losses"}
    | {"bootstrap", "seed", "as_json"}
)
LAW_OPTIONS = TABLE_OPTIONS | {"accuracy", "chance", "estimator", "resample", "predict"}


Derivation = Callable[[Array], Array]  # of public parameters (K, names), a number each: (K,)


@dataclass(frozen=True)
class LawEntry:
    """A law by its name for `--law`, and what the rest must know of it.

    needs_size: it takes parameters and tokens of each point, not compute alone. least_budgets: how
    many different amounts of compute a law of compute needs. shared: the law whose exponents groups
    may have in common. auto_with_size, auto: a candidate of `--law auto` where sizes are known, or
    not. derived: what follows from its parameters, exponents in compute of the optimal size (a),
    its tokens (b) and the loss above E (gamma). options: what it reads of the options of `cola
    fit`; any other is refused.
    """

    make: Callable[[Inputs], Law]
    needs_size: bool = False
    least_budgets: int = 0
    shared: Callable[[Inputs], PowerLaw] | None = None
    auto_with_size: bool = False
    auto: bool = False
    derived: Mapping[str, Derivation] = field(default_factory=dict)
    options: frozenset[str] = LAW_OPTIONS


# In the order in which candidates are tried and named.
LAWS: dict[str, LawEntry] = {
    "chinchilla": LawEntry(
        chinchilla_law,
        needs_size=True,
        shared=chinchilla_law,
        auto_with_size=True,
        derived={
            "a": lambda v: v[:, 4] / (v[:, 3] + v[:, 4]),
            "b": lambda v: v[:, 3] / (v[:, 3] + v[:, 4]),
            "gamma": lambda v: v[:, 3] * v[:, 4] / (v[:, 3] + v[:, 4]),
        },
    ),
    "tied": LawEntry(
        tied_law,
        needs_size=True,
        auto_with_size=True,
        derived={
            "b": lambda v: 1 - v[:, 3],
            "gamma": lambda v: v[:, 4] * v[:, 3] * (1 - v[:, 3]),
        },
    ),
    "compute": LawEntry(
        compute_law, least_budgets=4, shared=compute_law, auto_with_size=True, auto=True
    ),
    "compute-power": LawEntry(
        plain_compute_law, least_budgets=3, shared=plain_compute_law, auto=True
    ),
    "broken": LawEntry(broken_law, least_budgets=7, auto=True),
}


def candidates(sized: bool) -> list[str]:
    """Names of the laws that `--law auto` chooses from, where sizes are known or not."""
    return [name for name, law in LAWS.items() if (law.auto_with_size if sized else law.auto)]


# What each value of `--law` reads: laws by their entries, and the two that are no single law.
OPTIONS_READ: dict[str, frozenset[str]] = {
    **{name: entry.options for name, entry in LAWS.items()},
    "auto": LAW_OPTIONS,
    "isoflop": TABLE_OPTIONS | {"minimum", "predict", "resample"},
}
