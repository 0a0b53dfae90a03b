"""The numbers of a metric page as JSON, and the sentences and tables that are made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.compare import Estimate, Multiplier, compare_compute, crossover
from analysis.metric_report.curves import MetricCurve, exponents, fit_curves, predictions
from analysis.metric_report.measurements import Measurements
from analysis.metric_report.quantities import Quantity, number_text
from analysis.plotting.page_table import Column, Table, table
from analysis.report.comparisons import describe_crossover, describe_multiplier

NAMES = {
    "exponent": "exponent b of the odds",
    "half": "half of the rise at C",
    "per_decade": "steepest rise a decade",
    "ceiling": "ceiling",
}
COMPUTE = ("half", "C1")  # parameters in FLOPs


@dataclass(frozen=True)
class Panel:
    """A quantity with its measurements and curves."""

    found: Measurements
    curves: dict[str, MetricCurve]


def panel(found: Measurements, informative: pd.Series, compute: str) -> Panel:
    """Fit every curve of a quantity."""
    return Panel(found, fit_curves(found, informative, compute))


def as_json(one: Panel, targets: Sequence[float]) -> dict[str, Any]:
    """Everything that is found of a quantity. Intervals are 95%; null: not known, or open."""
    quantity, chance = one.found.quantity, one.found.chance
    limits = None if quantity.range is None else [quantity.range.low, quantity.range.high]
    return {
        "metric": quantity.key,
        "title": quantity.title,
        "unit": quantity.unit,
        "scale": quantity.scale,  # of the unit: values here are without it
        "mean_of": [part.key for part in quantity.parts] or None,
        "range": limits,
        "better": "lower" if quantity.range is None else quantity.range.better,
        "chance": chance,
        "curves": [_curve(each, targets) for each in one.curves.values()],
        "comparisons": [
            _pair(first, second, quantity)
            for first, second in combinations(one.curves.values(), 2)
            if first.curve is not None and second.curve is not None
        ],
        "notes": list(one.found.notes),
    }


def _curve(each: MetricCurve, targets: Sequence[float]) -> dict[str, Any]:
    found = [] if each.curve is None else predictions(each.curve, targets)
    return {
        "variant": each.variant,
        "family": each.family,
        "label": each.label,
        "kind": each.kind,
        "law": each.law,
        "runs": each.runs,
        "parameters": {name: _estimate(value) for name, value in each.parameters.items()},
        "predictions": [asdict(p) | {"value": _estimate(p.value)} for p in found],
        "notes": list(each.notes),
    }


def _estimate(value: Estimate) -> dict[str, Any]:
    return {"estimate": value.value, "interval": [value.low, value.high]}


def _pair(one: MetricCurve, other: MetricCurve, quantity: Quantity) -> dict[str, Any]:
    """How much less compute the second needs, where the two cross, how their exponents differ."""
    if one.curve is None or other.curve is None:
        raise ValueError("both must have a curve")
    multiplier = compare_compute(one.curve, other.curve)
    crossing = crossover(one.curve, other.curve)
    labels = (_named(one), _named(other))
    sentences = [describe_multiplier(multiplier, quantity.shown(multiplier.at), labels)]
    if crossing is not None:
        sentences.append(describe_crossover(crossing))
    difference = _difference(one, other)
    if difference is not None:
        value, (low, high) = difference["estimate"], difference["interval"]
        sentences.append(
            f"the exponents differ by {value:+.3f} (95% interval {low:+.3f} to {high:+.3f})."
        )
    return {
        "one": one.variant,
        "other": other.variant,
        "labels": list(labels),
        "multiplier": asdict(multiplier),
        "crossover": None if crossing is None else asdict(crossing),
        "exponent_difference": difference,
        "sentences": [f"{labels[1]} against {labels[0]}: {text}" for text in sentences],
    }


def _named(curve: MetricCurve) -> str:
    """A curve's name, with the kind of its likelihood where it is not exact."""
    return curve.label + ("" if curve.kind == "exact" else f" ({curve.kind})")


def _difference(one: MetricCurve, other: MetricCurve) -> dict[str, Any] | None:
    """The second's exponent less the first's, where both follow the same kind of law."""
    if one.curve is None or other.curve is None:
        return None
    first, second = exponents(one.curve), exponents(other.curve)
    if first is None or second is None:
        return None
    rows = min(len(first), len(second))
    apart = second[:rows] - first[:rows]
    return {"estimate": float(apart[0]), "interval": list(percentiles(apart[1:]))}


def curve_rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The table of curves, a row a quantity and family."""
    rows = []
    for each in found:
        for curve in each["curves"]:
            rows.append(
                {
                    "metric": each["title"],
                    "chance": _chance(each),
                    "variant": curve["variant"],
                    "kind": curve["kind"],
                    "label": curve["label"],
                    "law": curve["law"],
                    "parameters": "; ".join(
                        f"{NAMES.get(name, name)} {_number(each, name, value)}"
                        for name, value in curve["parameters"].items()
                    )
                    or "–",
                    "runs": str(curve["runs"]),
                }
            )
    return rows


def pair_rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The table of comparisons, a row a quantity and pair."""
    return [
        {
            "metric": each["title"],
            "pair": f"{pair['labels'][1]} against {pair['labels'][0]}",
            "multiplier": multiplier_text(Multiplier(**pair["multiplier"])),
            "crossover": _crossing(pair["crossover"]),
            "difference": _interval(pair["exponent_difference"], "+.3f"),
        }
        for each in found
        for pair in each["comparisons"]
    ]


def prediction_rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The table of predictions."""
    return [
        {
            "metric": each["title"],
            "variant": curve["variant"],
            "kind": curve["kind"],
            "label": curve["label"],
            "compute": f"{p['compute']:.3g}",
            "unit": each["unit"],
            "value": _scaled(each, p["value"]["estimate"]),
            "curve": _ends([_scaled(each, end) for end in p["value"]["interval"]]),
            "new_run": _ends([_scaled(each, p["new_low"]), _scaled(each, p["new_high"])]),
            "beyond": f"{p['beyond']:.3g}" if p["beyond"] > 1 else "inside",
        }
        for each in found
        for curve in each["curves"]
        for p in curve["predictions"]
    ]


def named_kinds(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Rows whose labels name the kind of a likelihood that is not exact."""
    return [
        dict(row)
        | {"label": row["label"] + ("" if row["kind"] == "exact" else f" ({row['kind']})")}
        for row in rows
    ]


def curve_table(found: Sequence[Mapping[str, Any]]) -> Table | None:
    """The curves, for a page."""
    columns = [
        Column("label", "family"),
        Column("metric", "metric", words=True),
        Column("chance", "chance"),
        Column("law", "law"),
        Column("parameters", "parameters", words=True),
        Column("runs", "runs"),
    ]
    return table(columns, named_kinds(curve_rows(found)))


def pair_table(found: Sequence[Mapping[str, Any]]) -> Table | None:
    """The comparisons, for a page."""
    columns = [
        Column("pair", "families"),
        Column("metric", "metric", words=True),
        Column("multiplier", "times less compute"),
        Column("crossover", "curves cross at", words=True),
        Column("difference", "exponents differ by"),
    ]
    return table(columns, pair_rows(found))


def prediction_table(found: Sequence[Mapping[str, Any]], compute: str) -> Table | None:
    """The predictions, for a page."""
    columns = [
        Column("label", "family"),
        Column("metric", "metric", words=True),
        Column("compute", f"at FLOPs ({compute})"),
        Column("shown", "predicted"),
        Column("curve", "95% of curves"),
        Column("new_run", "95% of new runs"),
        Column("beyond", "times the largest compute"),
    ]
    rows = [
        row | {"shown": f"{row['value']} {row['unit']}".rstrip()}
        for row in named_kinds(prediction_rows(found))
    ]
    return table(columns, rows)


def note_rows(found: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> list[str]:
    """All notes, with the quantity and curve that they are of."""
    rows = list(notes)
    for each in found:
        rows += [f"{each['title']}: {note}" for note in each["notes"]]
        rows += [
            f"{each['title']}, {curve['label']}: {note}"
            for curve in each["curves"]
            for note in curve["notes"]
        ]
    return rows


def multiplier_text(found: Multiplier) -> str:
    """A multiplier in a cell: how many times less compute the second needs."""
    if found.value is None:
        end = found.low if found.bound == "at least" else found.high
        return f"{found.bound} {end:.3g}"
    ends = [f"{e:.3g}" if math.isfinite(e) else "..." for e in (found.low, found.high)]
    return f"{found.value:.3g} ({ends[0]} to {ends[1]})"


def _crossing(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    compute = found["compute"]
    beyond = f", {found['beyond']:.3g} times beyond the runs" if found["beyond"] > 1.05 else ""
    known = math.isfinite(compute["low"])
    ends = f"{compute['low']:.2g} to {compute['high']:.2g}; " if known else ""
    return f"{compute['value']:.2g} ({ends}in {found['share']:.0%} of refits{beyond})"


def _number(each: Mapping[str, Any], name: str, value: Mapping[str, Any]) -> str:
    if name in COMPUTE:
        return _interval(value, ".2e")
    if name in ("ceiling", "per_decade"):
        scaled = [_scaled(each, v) for v in (value["estimate"], *value["interval"])]
        return f"{scaled[0]} ({_ends(scaled[1:])}) {each['unit']}"
    return _interval(value, ".3g")


def _scaled(each: Mapping[str, Any], value: float) -> str:
    if not math.isfinite(value):
        return "..."
    return number_text(value, each["unit"])


def _chance(each: Mapping[str, Any]) -> str:
    return "–" if each["chance"] is None else _scaled(each, each["chance"])


def _interval(value: Mapping[str, Any] | None, digits: str) -> str:
    if value is None:
        return "–"
    ends = [f"{e:{digits}}" if math.isfinite(e) else "..." for e in value["interval"]]
    return f"{value['estimate']:{digits}} ({_ends(ends)})"


def _ends(ends: Sequence[str]) -> str:
    return f"{ends[0]} to {ends[1]}"
