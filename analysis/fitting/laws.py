"""Scaling laws as predictions with analytic gradients, for many parameter vectors at once.

Shapes: B parameter vectors (starts or bootstrap refits), n points, P parameters. Every law is
L = E + sum of terms c_k exp(-p_k . x), written with E in units of the smallest loss and c_k as
logarithms, over inputs in units of their geometric mean so that coefficients and exponents are
nearly uncorrelated. `public` gives the parameters as they are printed, in the units of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from analysis.fitting import choices
from analysis.fitting.law import EXPONENTS, Array, Inputs, Law
from analysis.fitting.power_law import (
    PowerLaw,
    chinchilla_law,
    compute_law,
    plain_compute_law,
    scales_of,
)
from analysis.fitting.sized_laws import (
    equal_law,
    outer_law,
    repeated_excess,
    repeated_law,
    tied_law,
)


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


# Options of `cola fit`, by their names in Python: of every law, and of fitted laws.
TABLE_OPTIONS = frozenset(
    {"data", "n", "d", "loss", "flops", "group", "budget", "run", "law", "drop_largest_losses"}
    | {"bootstrap", "seed", "level", "as_json"}
)
CONSTRAINTS = frozenset({"pin", "bound", "share"})
LAW_OPTIONS = (
    TABLE_OPTIONS
    | {"accuracy", "chance", "estimator", "resample", "predict", "hold_out", "start"}
    | CONSTRAINTS
)
SIZED_OPTIONS = LAW_OPTIONS | {"serve"}


Derivation = Callable[[Array], Array]  # of public parameters (K, names), a number each: (K,)
# Of public parameters (K, names) and logs of N, D and unique tokens, each (K, n): the loss (K, n).
Formula = Callable[[Array, Array, Array, Array], Array]


@dataclass(frozen=True)
class LawEntry:
    """A law by its name for `--law`, and what the rest must know of it.

    needs_size: it takes parameters and tokens of each point, not compute alone. needs_unique: and
    how many of the tokens were unique. least_budgets: how many different amounts of compute a law
    of compute needs. shared: the law whose exponents groups may have in common. auto_with_size,
    auto: a candidate of `--law auto` where sizes are known, or not. derived: what follows from its
    parameters, exponents in compute of the optimal size (a), its tokens (b) and the loss above E
    (gamma). text: its formula for people; formula: the same for sizes. options: what it reads of
    the options of `cola fit`; any other is refused.
    """

    make: Callable[[Inputs], Law]
    text: str
    needs_size: bool = False
    needs_unique: bool = False
    least_budgets: int = 0
    shared: Callable[[Inputs], PowerLaw] | None = None
    auto_with_size: bool = False
    auto: bool = False
    derived: Mapping[str, Derivation] = field(default_factory=dict)
    formula: Formula | None = None
    options: frozenset[str] = LAW_OPTIONS


def _powers(v: Array, x: Array, y: Array, *, exponents: tuple[Array, Array], outer: Array) -> Array:
    """E + (A / N^p + B / D^q)^s of public parameters that begin with E, A, B."""
    p, q = (each[:, None] for each in exponents)
    inside = v[:, 1:2] * np.exp(-p * x) + v[:, 2:3] * np.exp(-q * y)
    return np.asarray(v[:, :1] + inside ** outer[:, None])


def _repeated(v: Array, x: Array, y: Array, u: Array) -> Array:
    logs = np.log(v[:, 1:3]), np.log(v[:, 5:7])
    columns = np.concatenate([logs[0], v[:, 3:5], logs[1]], axis=1)
    terms = [columns[:, i : i + 1] for i in range(6)]
    return np.asarray(v[:, :1] + repeated_excess(terms, x, y, unique=u))


# In the order in which candidates are tried and named.
LAWS: dict[str, LawEntry] = {
    "chinchilla": LawEntry(
        chinchilla_law,
        "L = E + A / N^alpha + B / D^beta",
        needs_size=True,
        shared=chinchilla_law,
        auto_with_size=True,
        derived={
            "a": lambda v: v[:, 4] / (v[:, 3] + v[:, 4]),
            "b": lambda v: v[:, 3] / (v[:, 3] + v[:, 4]),
            "gamma": lambda v: v[:, 3] * v[:, 4] / (v[:, 3] + v[:, 4]),
        },
        formula=lambda v, x, y, _: _powers(
            v, x, y, exponents=(v[:, 3], v[:, 4]), outer=np.ones(len(v))
        ),
        options=SIZED_OPTIONS,
    ),
    "tied": LawEntry(
        tied_law,
        "L = E + (A / N^(1 - a) + B / D^a)^s",
        needs_size=True,
        auto_with_size=True,
        derived={
            "b": lambda v: 1 - v[:, 3],
            "gamma": lambda v: v[:, 4] * v[:, 3] * (1 - v[:, 3]),
        },
        formula=lambda v, x, y, _: _powers(
            v, x, y, exponents=(1 - v[:, 3], v[:, 3]), outer=v[:, 4]
        ),
        options=SIZED_OPTIONS,
    ),
    "outer": LawEntry(
        outer_law,
        "L = E + (A / N^alpha + B / D^beta)^s",
        needs_size=True,
        auto_with_size=True,
        derived={
            "a": lambda v: v[:, 4] / (v[:, 3] + v[:, 4]),
            "b": lambda v: v[:, 3] / (v[:, 3] + v[:, 4]),
            "gamma": lambda v: v[:, 5] * v[:, 3] * v[:, 4] / (v[:, 3] + v[:, 4]),
        },
        formula=lambda v, x, y, _: _powers(v, x, y, exponents=(v[:, 3], v[:, 4]), outer=v[:, 5]),
        options=SIZED_OPTIONS,
    ),
    "equal": LawEntry(
        equal_law,
        "L = E + A / N^alpha + B / D^alpha",
        needs_size=True,
        auto_with_size=True,
        derived={"gamma": lambda v: v[:, 3] / 2},
        formula=lambda v, x, y, _: _powers(
            v, x, y, exponents=(v[:, 3], v[:, 3]), outer=np.ones(len(v))
        ),
        options=SIZED_OPTIONS,
    ),
    "repeated": LawEntry(
        repeated_law,
        "L = E + A / N'^alpha + B / D'^beta, with D' = U_D (1 + R_D (1 - exp(-r / R_D))) of U_D "
        "unique tokens in r repeats, N' alike",
        needs_size=True,
        needs_unique=True,
        derived={"half_life": lambda v: np.log(2) * v[:, 5]},
        formula=_repeated,
        options=SIZED_OPTIONS | {"unique"},
    ),
    "compute": LawEntry(
        compute_law,
        "L = E + K C^-gamma",
        least_budgets=4,
        shared=compute_law,
        auto_with_size=True,
        auto=True,
    ),
    "compute-power": LawEntry(
        plain_compute_law,
        "L = K C^-gamma",
        least_budgets=3,
        shared=plain_compute_law,
        auto=True,
    ),
    "broken": LawEntry(
        broken_law,
        "L = E + K C^-gamma (1 + (C / C1)^(1/f))^(-delta f)",
        least_budgets=7,
        auto=True,
    ),
}


def usual_law(*, sized: bool) -> choices.Law:
    """The law that is fitted where none is asked for."""
    return "chinchilla" if sized else "compute"


def candidates(sized: bool) -> list[str]:
    """Names of the laws that `--law auto` chooses from, where sizes are known or not."""
    return [name for name, law in LAWS.items() if (law.auto_with_size if sized else law.auto)]


# What each value of `--law` reads: laws by their entries, and those that are no single law.
OPTIONS_READ: dict[str, frozenset[str]] = {
    **{name: entry.options for name, entry in LAWS.items()},
    "auto": LAW_OPTIONS - CONSTRAINTS,
    "isoflop": TABLE_OPTIONS | {"minimum", "predict", "resample"},
    "optima": TABLE_OPTIONS - {"budget", "run"} | {"predict"},
    "power": frozenset({"data", "n", "d", "loss", "flops", "law", "level", "as_json"})
    | {"y", "rules", "setting"},
    "annealing": frozenset({"data", "n", "loss", "group", "run", "law", "as_json", "step", "lr"})
    | {"estimator", "bootstrap", "seed", "level", "predict", "pin", "bound"},
}
# Of `cola fit --speedup`, which takes no law.
SPEEDUP_OPTIONS = frozenset(
    {"data", "n", "d", "loss", "flops", "group", "pin", "level", "as_json"}
    | {"speedup", "baseline", "throughput"}
)
