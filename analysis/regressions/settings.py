"""A setting (learning rate, batch) as a power law of size, tokens and compute, and as a rule that a
study takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis.fitting.bootstrap import LEVEL
from analysis.profiles.budgets import CLEAR_GAP, WIDEST, numbered_groups
from analysis.regressions.log_regression import LogRegression, regress
from cola.errors import FitError
from cola.spec.design import PowerLawRule

OVER = {"parameters": "N", "tokens": "D", "compute": "C"}
UNITS = {"N": 1e6, "C": 1e15}  # of `PowerLawRule`
LEAST_TRIED = 3  # values of the setting at one place from which a minimum has two sides


def settings_group(
    rows: pd.DataFrame, *, from_losses: bool, level: float = LEVEL
) -> dict[str, Any]:
    """Exponents with intervals, the law's error on rows left out one by one, warnings.

    rows: `setting`, and of parameters, tokens, compute those that were given. from_losses: rows are
    runs of sweeps, whose best setting at each place is looked for; else they are the best ones.

    Raises:
        FitError: without inputs, or too few places.
    """
    known = [column for column in OVER if column in rows]
    if not known:
        raise FitError("law power needs a column to go over: --n, --d or --flops")
    if len(known) > 2:
        raise FitError(
            "law power goes over one or two of --n, --d and --flops: with all three their "
            "exponents cannot be told apart; leave one out"
        )
    optima, left_out = best_settings(rows, known) if from_losses else (rows, [])
    if not len(optima):
        raise FitError(f"no place has a best setting: {'; '.join(left_out)}")
    names = [OVER[column] for column in known]
    columns = [optima[column].to_numpy(float) for column in known]
    fit = regress(names, columns, optima["setting"].to_numpy(float), level=level)
    units = [UNITS.get(name, 1.0) for name in names]
    coefficient, ends = fit.at(units)
    warnings = [f"left out: {reason}" for reason in left_out]
    if "D" in names:
        warnings.append("the rule takes tokens as C / 6 N of its size and budget")
    if not fit.freedom:
        warnings.append("as many rows as parameters: there are no intervals, and no error is known")
    return {
        "law": "power",
        "formula": "y = k " + " ".join(
            f"({n} / {u:g})^p_{n}" if u != 1 else f"{n}^p_{n}"
            for n, u in zip(names, units, strict=True)
        ),
        "points": len(optima),
        "parameters": {"k": coefficient} | {f"p_{n}": v for n, v in fit.exponents.items()},
        "intervals": ({"k": ends} if ends else {})
        | {f"p_{n}": v for n, v in fit.intervals.items()},
        "diagnostics": {
            "scatter": fit.scatter,
            "degrees_of_freedom": fit.freedom,
            "left_out_error": fit.left_out_error,
        },
        "optima": optima[[*known, "setting"]].to_dict("records"),
        "left_out": left_out,
        "warnings": warnings,
        **rule_of(fit),
    }  # fmt: skip


def rule_of(fit: LogRegression) -> dict[str, Any]:
    """The rule of a study, over N and C; tokens are C / 6 N in it."""
    exponents = {"N": 0.0, "C": 0.0} | {n: v for n, v in fit.exponents.items() if n != "D"}
    tokens = fit.exponents.get("D", 0.0)
    exponents["N"] -= tokens
    exponents["C"] += tokens
    at = {"N": UNITS["N"], "C": UNITS["C"], "D": UNITS["C"] / (6 * UNITS["N"])}
    rule = PowerLawRule(
        coefficient=fit.coefficient([at[name] for name in fit.names]),
        parameters_exponent=exponents["N"],
        budget_exponent=exponents["C"],
    )
    return {"rule": rule.model_dump()}


def rules_text(found: Mapping[str, Any], setting: str, *, origin: str) -> str:
    """A YAML file for `--set @FILE`."""
    scatter, error = (found["diagnostics"][n] for n in ("scatter", "left_out_error"))
    known = found["diagnostics"]["degrees_of_freedom"]
    quality = f"scatter {scatter:.1%}, error of rows left out {error:.1%}" if known else "no spare"
    comment = (
        f"# {origin}: {found['formula']}, {found['points']} points, {quality}\n"
        "# N is the run's target of parameters, C its budget: fit over the same counts.\n"
    )
    rules = {f"rules.{setting}": dict(found["rule"])}
    return comment + yaml.safe_dump(rules, sort_keys=False)


def best_settings(rows: pd.DataFrame, known: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The setting of least loss at each place (runs of nearly the same size, tokens and compute,
    as in budgets), by the parabola in its logarithm through the best
    value and its neighbours; and why places have none."""
    widest, gap = float(np.log(WIDEST)), float(np.log(CLEAR_GAP))
    places = [numbered_groups(np.log(rows[c].to_numpy(float)), widest, gap) for c in known]
    best, left_out = [], []
    for _, mine in rows.groupby(places, sort=True):
        place = ", ".join(f"{OVER[c]} = {mine[c].mean():.4g}" for c in known)
        tried = mine.groupby("setting")["loss"].mean()
        if len(tried) < LEAST_TRIED:
            left_out.append(f"{place} has {len(tried)} settings, {LEAST_TRIED} are the least")
            continue
        index = int(tried.to_numpy().argmin())
        if index in (0, len(tried) - 1):
            value = float(tried.index[index])
            left_out.append(f"{place} is best at {value:.4g}, an end of what was tried there")
            continue
        x = np.log(tried.index.to_numpy(float)[index - 1 : index + 2])
        curve = np.polyfit(x - x[1], tried.to_numpy(float)[index - 1 : index + 2], 2)
        if curve[0] <= 0:
            left_out.append(f"{place} has equal losses about its best setting")
            continue
        value = float(np.exp(x[1] - curve[1] / (2 * curve[0])))
        best.append({c: float(np.exp(np.log(mine[c]).mean())) for c in known} | {"setting": value})
    return pd.DataFrame(best), left_out
