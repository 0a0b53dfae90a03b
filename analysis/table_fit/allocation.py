"""How a budget is best divided between size and tokens, how flat that optimum is, and how serving
the model moves it.

B: the fit and its refits. Logs of N and D are natural. Losses come from a law's printed formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fitting.bootstrap import LEVEL, percentiles
from analysis.fitting.frontier import Frontier
from analysis.fitting.law import Array
from analysis.fitting.laws import LAWS, Formula
from analysis.table_fit.request import Serving
from cola.errors import FitError

TOLERANCE = 0.005  # share of the best loss within which sizes count as good
STEPS = 80  # of a golden section or a bisection: its interval shrinks to rounding
GOLDEN = (np.sqrt(5) - 1) / 2
SMALLEST = float(np.log(1e3))  # N and D are looked for from here
FACTOR = float(np.log(1e6))  # and, about an optimum, this far from it
FORWARD = 1 / 3  # of training's FLOPs per parameter and token: 2 N of 6 N (arXiv 2001.08361)


@dataclass(frozen=True)
class Surface:
    """The loss over sizes and tokens, of the fit and of every refit; `unique` tokens where the law
    reads them."""

    formula: Formula
    public: Array
    unique: float | None = None

    def loss(self, x: Array, y: Array) -> Array:
        """At logs of N and D, (B,) each."""
        most = np.full(len(x), np.inf if self.unique is None else np.log(self.unique))
        return self.formula(self.public, x[:, None], y[:, None], most[:, None])[:, 0]


def surface_of(frontier: Frontier, unique: float | None = None) -> Surface | None:
    """See `Surface`; None for a law of compute alone."""
    law = frontier.refits.fit.law
    entry = LAWS.get(law.name)
    if entry is None or entry.formula is None:
        return None
    return Surface(entry.formula, law.public(frontier.theta), unique)


def best_split(surface: Surface, log_product: float) -> tuple[Array, Array]:
    """Log N* (B,) at a given log (N D), and the loss there."""
    count = len(surface.public)
    low, high = np.full(count, SMALLEST), np.full(count, log_product - SMALLEST)
    if log_product <= 2 * SMALLEST:
        raise FitError(
            f"--predict: N D = {np.exp(log_product):.3g} is too little for an optimal size"
        )
    best = minimum(lambda x: surface.loss(x, log_product - x), low, high)
    return best, surface.loss(best, log_product - best)


def near_optimal(surface: Surface, log_product: float, best: float) -> list[float | None]:
    """Least and largest N at this log (N D) whose loss is within `TOLERANCE` of the best; None
    where the loss stays within it for a factor of a million."""
    first = Surface(surface.formula, surface.public[:1], surface.unique)

    def beyond(x: Array) -> Array:
        return first.loss(x, log_product - x) - limit

    at = np.array([best])
    limit = (1 + TOLERANCE) * first.loss(at, log_product - at)
    ends = []
    for side in (-FACTOR, FACTOR):
        far = at + side
        inside = not beyond(far)[0] > 0
        ends.append(None if inside else float(np.exp(crossing(beyond, at, far)[0])))
    return ends


def minimum(of: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """(B,): where each of B functions with one minimum has it, by golden section. Places at which
    a function is infinite lie below its minimum."""
    low, high = low.copy(), high.copy()
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = of(left), of(right)
    for _ in range(STEPS):
        lower = at_left < at_right
        low, high = np.where(lower, low, left), np.where(lower, right, high)
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        at_left, at_right = of(left), of(right)
    return np.asarray((low + high) / 2)


def crossing(of: Callable[[Array], Array], below: Array, above: Array) -> Array:
    """(B,): where each function changes its sign, from negative at `below` to positive at
    `above`, by bisection."""
    for _ in range(STEPS):
        middle = (below + above) / 2
        positive = of(middle) > 0
        below, above = np.where(positive, below, middle), np.where(positive, middle, above)
    return np.asarray((below + above) / 2)


def served(
    surface: Surface,
    serving: Serving,
    factor: float,
    *,
    sizes: tuple[Array, Array],
    losses: Array,
    level: float = LEVEL,
) -> dict[str, Any]:
    """The division that reaches the loss of the compute-optimal model at the least FLOPs (by the
    shares of peak that training and serving reach) of training and serving together (arXiv
    2401.00448), against that model. sizes: its N* and D* (B,); losses: (B,)."""
    log_n, log_d = (np.log(each) for each in sizes)
    if min(log_n.min(), log_d.min()) < SMALLEST:
        raise FitError(
            f"--serve: an optimum with {np.exp(log_n.min()):.3g} parameters and "
            f"{np.exp(log_d.min()):.3g} tokens is too small to be served; give a larger c="
        )

    def tokens(x: Array) -> Array:
        """Log D at which a size reaches the loss; infinite where it never does."""
        most = np.maximum(log_d + FACTOR, FACTOR)
        reached = surface.loss(x, most) < losses
        y = crossing(lambda y: losses - surface.loss(x, y), np.full(len(x), SMALLEST), most)
        return np.where(reached, y, np.inf)

    def cost(x: Array) -> Array:
        return weighed(x, tokens(x)).sum(0)

    def weighed(x: Array, y: Array) -> Array:
        training = factor * np.exp(x + y) / serving.mfu
        return np.stack([training, FORWARD * factor * np.exp(x) * serving.tokens / serving.rate])

    best = minimum(cost, log_n - np.log(1e3), log_n + 1e-6)
    y = tokens(best)
    plain, spent = weighed(log_n, log_d), weighed(best, y)
    if not np.isfinite(spent[:, 0]).all():
        raise FitError(
            f"--serve: a loss of {losses[0]:.6g} is the law's floor but for rounding, which other "
            "sizes do not reach; give a smaller c="
        )
    saving = 1 - spent.sum(0) / plain.sum(0)
    found: dict[str, Any] = {
        "tokens_served": serving.tokens,
        **_with_interval("parameters", np.exp(best), level),
        **_with_interval("tokens", np.exp(y), level),
        "training_flops": float(spent[0, 0] * serving.mfu),
        "serving_flops": float(spent[1, 0] * serving.rate),
        **_with_interval("saving", saving, level),
        "training_mfu": serving.mfu,
        "serving_mfu": serving.rate,
    }
    if serving.peak is not None:
        hours = spent[:, 0] / serving.peak / 3600
        found |= {"device_hours": {"training": float(hours[0]), "serving": float(hours[1])}}
        found["device_hours"]["compute_optimal"] = float(plain[:, 0].sum() / serving.peak / 3600)
        if serving.price is not None:
            found["cost"] = {k: v * serving.price for k, v in found["device_hours"].items()}
    return found


def _with_interval(name: str, values: Array, level: float) -> dict[str, Any]:
    found: dict[str, Any] = {name: float(values[0])}
    if len(values) > 1:
        found[f"{name}_interval"] = list(percentiles(values[1:], level))
    return found
