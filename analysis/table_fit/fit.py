"""Every group of a table under a law, and the groups against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.fitting.frontier import Frontier
from analysis.fitting.isoflop import compare_isoflop
from analysis.fitting.table import Table
from analysis.regressions.optima import optima_group
from analysis.table_fit.comparison import compare_laws, shared_fit
from analysis.table_fit.isoflop_group import isoflop_group
from analysis.table_fit.law_group import law_group
from analysis.table_fit.request import Request
from cola.errors import FitError


def fit_table(table: Table, request: Request) -> dict[str, Any]:
    """Fit every group; one group's result is the object itself.

    Raises:
        FitError: when a group cannot be fitted.
    """
    groups = table.groups()
    if request.share and len(groups) == 1:
        (name,) = groups
        raise FitError(
            f"--share: the table has one group, {name}; leave --share out, or add groups"
        )
    if len(groups) > 1:  # which are compared by one law
        request = replace(request, usual=False)
    results, frontiers = fit_groups(groups, request)
    notes = list(table.notes)
    if len(results) == 1:
        (only,) = results.values()
        return only | {"warnings": notes + only["warnings"]}
    warnings = notes + [f"{name}: {w}" for name, each in results.items() for w in each["warnings"]]
    combined: dict[str, Any] = {"law": request.law, "groups": results}
    for key in ("parameters", "intervals", "diagnostics"):
        combined[key] = {name: each[key] for name, each in results.items()}
    shared = shared_fit(table, request, progress=request.progress)
    if shared is not None and request.share:  # the asked form decides
        frontiers = shared.frontiers
        combined["comparison_from"] = "shared"
        if request.predict:
            warnings.append("predictions are of each group's own fit, which has nothing in common")
    comparison, more = (
        (compare_profiles(groups, request), [])
        if request.law == "isoflop"
        else compare_laws(frontiers)
    )
    if request.law == "optima":
        more.append("groups are not compared under --law optima: set their exponents side by side")
    if shared is not None:
        combined["shared"] = shared.result
        more += [f"{_in_common(shared.result)}: {w}" for w in shared.result["warnings"]]
    return combined | {"comparison": comparison, "warnings": warnings + more}


def _in_common(shared: Mapping[str, Any]) -> str:
    return f"{', '.join(shared['shared'])} in common"


def fit_groups(
    groups: Mapping[str, pd.DataFrame], request: Request
) -> tuple[dict[str, dict[str, Any]], dict[str, Frontier]]:
    """Results and, but for profiles, frontiers of every group by name.

    Raises:
        FitError: when a group cannot be fitted, with its name.
    """
    results: dict[str, dict[str, Any]] = {}
    frontiers: dict[str, Frontier] = {}
    for name, rows in groups.items():
        try:
            if request.law == "isoflop":
                results[name] = isoflop_group(rows, request)
                continue
            if request.law == "optima":
                results[name] = optima_group(
                    rows, request.predict, samples=request.samples, seed=request.seed,
                    level=request.level,
                )  # fmt: skip
                continue
            found = law_group(rows, request, seeds(groups, request.seed)[name])
        except FitError as error:
            where = f"group {name}: " if len(groups) > 1 else ""
            raise FitError(f"{where}{error}") from None
        results[name], frontiers[name] = found.result, found.frontier
        if request.on_group is not None:
            request.on_group(name, rows, found.frontier)
    return results, frontiers


def seeds(groups: Mapping[str, pd.DataFrame], seed: int) -> dict[str, int]:
    """A seed for the refits of each group: with draws in common the noise of two would cancel.

    They depend on the groups' losses, not on their names: a renamed group has the same intervals.
    """
    order = sorted(groups, key=lambda name: tuple(groups[name]["loss"].tolist()))
    return {name: seed + 1000 * place for place, name in enumerate(order)}


def compare_profiles(groups: Mapping[str, pd.DataFrame], request: Request) -> dict[str, Any]:
    """Comparison of each pair of groups by label, by their IsoFLOP profiles."""
    names, compared = list(groups), {}
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            pair = {one: groups[one], other: groups[other]}
            compared[f"{one} / {other}"] = compare_isoflop(
                pair, request.samples, request.seed, method=request.minimum, kind=request.kind,
                level=request.level,
            )  # fmt: skip
    return compared
