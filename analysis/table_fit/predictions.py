"""What a fit predicts: the loss at n and d or at a compute, optimal sizes, accuracy through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.frontier import Frontier
from analysis.fitting.law import Array, Inputs, SizedLaw, predicted
from analysis.fitting.laws import LAWS
from analysis.metric_laws.accuracy import AccuracyFit, accuracies
from analysis.table_fit.allocation import (
    TOLERANCE,
    Surface,
    best_split,
    near_optimal,
    served,
    surface_of,
)
from analysis.table_fit.convention import Convention
from analysis.table_fit.request import Serving
from cola.errors import FitError

FAR = 10  # chosen: times the largest compute from which a prediction rests on the law alone


@dataclass(frozen=True)
class Place:
    """A place to predict at: loss of the fit and of every refit (1 + K,), its compute C, and where
    only C was given and the law has sizes, N* and D* (1 + K,) and the loss about them."""

    target: Mapping[str, float]
    compute: float
    losses: Array
    sizes: tuple[Array, Array] | None = None
    surface: Surface | None = None


def place_of(
    frontier: Frontier, target: Mapping[str, float], convention: Convention | None
) -> Place:
    """See `Place`.

    Raises:
        FitError: n and d for a law of compute, where the table's C is not 6 N D.
    """
    if "c" in target:
        return _place_at(frontier, target)
    n, d = target["n"], target["d"]
    fit = frontier.refits.fit
    if not fit.is_sized:
        if convention is not None and not convention.usual:
            raise FitError(
                f"--predict n={n:g},d={d:g}: law {fit.law.name} knows compute alone, and in this "
                f"table {convention}, not 6 N D; give c=... in the table's FLOPs"
            )
        return Place(target, 6 * n * d, frontier.values(np.array([6 * n * d]))[:, 0])
    compute = np.array([frontier.factor * n * d])
    unique = np.array([target["u"]]) if "u" in target else None
    point = Inputs(np.ones(1), compute, np.array([n]), np.array([d]), unique)
    losses = predicted(fit.law, frontier.theta, point)[:, 0]
    return Place(target, float(compute[0]), losses)


def check_unique(law: str, target: Mapping[str, float]) -> None:
    """Raises: FitError, for unique tokens that the law does not read, or lacks."""
    reads = law in LAWS and LAWS[law].needs_unique
    text = ",".join(f"{name}={value:g}" for name, value in target.items())
    if reads and "u" not in target:
        raise FitError(
            f"--predict {text}: law {law} needs the unique tokens of the data too; add u=..."
        )
    if not reads and "u" in target:
        raise FitError(f"--predict {text}: law {law} does not read u (unique tokens); leave it out")


def _place_at(frontier: Frontier, target: Mapping[str, float]) -> Place:
    """The optimum at a compute."""
    compute, surface = np.array([target["c"]]), surface_of(frontier, target.get("u"))
    if surface is not None and not isinstance(frontier.refits.fit.law, SizedLaw):
        log_product = float(np.log(target["c"] / frontier.factor))
        best, losses = best_split(surface, log_product)
        split = np.exp(best), np.exp(log_product - best)
        return Place(target, target["c"], losses, split, surface)
    sizes = frontier.sizes(compute)
    columns = None if sizes is None else (sizes[0][:, 0], sizes[1][:, 0])
    return Place(target, target["c"], frontier.values(compute)[:, 0], columns, surface)


def prediction(frontier: Frontier, place: Place, serving: Serving | None = None) -> dict[str, Any]:
    """The loss with confidence and prediction interval, optimal sizes and those near to them, what
    serving changes, how far it extrapolates."""
    refits, losses = frontier.refits, place.losses
    found: dict[str, Any] = dict(place.target) | {"loss": float(losses[0])}
    if len(losses) > 1:
        low, high = refits.new_run_band(losses[:1], losses[1:, None], np.array([place.compute]))
        found["confidence_interval"] = list(percentiles(losses[1:], refits.level))
        found["prediction_interval"] = [float(low[0]), float(high[0])]
    if place.sizes is not None:
        for name, values in zip(("parameters", "tokens"), place.sizes, strict=True):
            found[name] = float(values[0])
            if len(values) > 1:
                found[f"{name}_interval"] = list(percentiles(values[1:], refits.level))
    if place.sizes is not None and place.surface is not None:
        log_product = float(np.log(place.compute / frontier.factor))
        best = float(np.log(place.sizes[0][0]))
        found["near_optimal"] = {
            "within": TOLERANCE,
            "parameters": near_optimal(place.surface, log_product, best),
        }
        if serving is not None:
            found["serving"] = served(
                place.surface, serving, frontier.factor, sizes=place.sizes, losses=losses,
                level=refits.level,
            )  # fmt: skip
    return found | {"extrapolation": place.compute / frontier.span[1]}


def accuracy_at(
    frontier: Frontier, place: Place, accuracy: AccuracyFit, *, seed: int
) -> dict[str, Any]:
    """Accuracy through the predicted loss. low, high: of the expected accuracy, by both steps'
    doubt; prediction_interval: of one new run, with its noise and the law's misfit."""
    refits, losses = frontier.refits, place.losses
    found: dict[str, Any] = dict(place.target) | {
        "compute": place.compute,
        "loss": float(losses[0]),
        "accuracy": float(accuracy.sigmoid.at(losses[:1])[0]),
    }
    count = min(len(losses) - 1, len(accuracy.refits))
    if not count:
        return found
    drawn = accuracies(accuracy.refits[:count], losses[1 : 1 + count])
    new = refits.new_runs(losses[1 : 1 + count, None], seed)[:, 0]
    if refits.misfit is not None:
        times = float(refits.misfit.widening(np.array(place.compute / frontier.span[1])))
        new = losses[0] * (new / losses[0]) ** times
    noise = accuracy.residual_sd * np.random.default_rng([seed, 2]).standard_normal(count)
    of_new = np.clip(accuracies(accuracy.refits[:count], new) + noise, 0.0, 1.0)
    low, high = percentiles(drawn, refits.level)
    return found | {
        "low": low,
        "high": high,
        "prediction_interval": list(percentiles(of_new, refits.level)),
    }


def _far_from_data(frontier: Frontier, place: Place) -> str | None:
    """By how much compute, or else size or tokens, lie outside what was measured; None: not far."""
    points = frontier.refits.fit.points
    measured = {"compute": (place.compute, points.compute)}
    if frontier.refits.fit.is_sized and "n" in place.target:
        sizes = zip(("number of parameters", "number of tokens"), "nd", points.sizes(), strict=True)
        measured |= {name: (place.target[key], values) for name, key, values in sizes}
    for name, (value, values) in measured.items():
        above, below = value / float(values.max()), float(values.min()) / value
        if above > FAR:
            return (
                f"a prediction lies {times_text(above)} times beyond the largest {name} of the data"
            )
        if below > FAR:
            return (
                f"a prediction lies {times_text(below)} times below the smallest {name} of the data"
            )
    return None


def times_text(factor: float) -> str:
    """A factor for people, without dozens of digits."""
    return f"{factor:,.0f}" if factor < 1e6 else f"{factor:.3g}"


def notes_on(frontier: Frontier, places: list[Place], convention: Convention | None) -> list[str]:
    """What predictions rest on: the law far beyond the data, or an assumed convention of C."""
    notes = [note for place in places if (note := _far_from_data(frontier, place))]
    sized = frontier.refits.fit.is_sized
    at_compute = any("c" in place.target for place in places)
    if sized and at_compute and convention is not None and not convention.usual:
        notes.append(f"predictions at c= take compute as the table counts it: {convention}")
    if not sized and convention is None and any("n" in place.target for place in places):
        notes.append(
            "predictions at n=, d= take C = 6 N D; the table has no sizes to tell whether its "
            "compute is counted so"
        )
    return notes
