"""One group of rows under a law: parameters, intervals, diagnostics, predictions, warnings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import Refits, delta_method, percentiles
from analysis.fitting.constraints import ConstrainedLaw
from analysis.fitting.cross_validation import (
    Choice,
    Score,
    choose,
    leave_one_budget_out,
    with_misfit,
)
from analysis.fitting.estimate import Fit, check, fit_law
from analysis.fitting.frontier import Frontier
from analysis.fitting.laws import LAWS, Derivation, LawEntry, candidates
from analysis.fitting.resampling import Plan, plan_of
from analysis.fitting.table import inputs
from analysis.metric_laws.accuracy import fit_accuracy
from analysis.table_fit.convention import convention_of
from analysis.table_fit.held_out import held_out, split_off
from analysis.table_fit.lack_of_fit import LackOfFit, lack_of_fit
from analysis.table_fit.options import candidates_of
from analysis.table_fit.predictions import (
    Place,
    accuracy_at,
    check_unique,
    notes_on,
    place_of,
    prediction,
)
from analysis.table_fit.request import Request
from cola.errors import FitError

log = logging.getLogger(__name__)

FEW_REFITS = 100  # chosen: below, the ends of a 95% interval are single refits


@dataclass(frozen=True)
class LawGroup:
    """`result`: what is printed; `frontier`: the fit with its refits, for comparisons."""

    result: dict[str, Any]
    frontier: Frontier


def law_group(rows: pd.DataFrame, request: Request, seed: int) -> LawGroup:
    """Fit the asked law, or the one that predicts best (auto).

    Raises:
        FitError: what the rows cannot carry.
    """
    rows, later = split_off(rows, request.hold_out)
    law, choice, notes = chosen_law(rows, request)
    for target in request.predict:
        check_unique(law, target)
    fit = fit_law(
        law,
        inputs(rows),
        request.estimator,
        seed=request.seed,
        constraints=request.constraints,
    )
    plan, misfits = plan_of(rows, request.kind), lack_of_fit(fit, rows)
    refits = plan.refit(fit, request.samples, seed, progress=request.progress)
    refits = replace(refits, level=request.level)
    if len(refits.theta_KP) and (request.predict or later is not None):
        refits = with_misfit(refits, rows, request.seed, constraints=request.constraints)
    convention = convention_of(rows)
    factor = convention.factor if convention is not None else 6.0
    frontier = Frontier(refits, factor)
    places = [place_of(frontier, target, convention) for target in request.predict]
    result = {
        **described(fit, rows, misfits),
        **uncertainty(refits, plan),
    }
    if later is not None:
        result["held_out"] = held_out(refits, later, request)
    if places:
        result["predictions"] = [prediction(frontier, p, request.serving) for p in places]
    result["warnings"] = [*notes, *fit.warnings, *misfits.notes, *_resampling_notes(plan, refits)]
    result["warnings"] += notes_on(frontier, places, convention)
    if request.predict or later is not None:
        result["prediction_intervals"], note = built(refits)
        result["warnings"] += note
    if "accuracy" in rows:
        result["accuracy"] = accuracy_chain(rows, request, frontier, places=places, plan=plan)
        result["warnings"] += result["accuracy"]["warnings"]
    if choice is not None:
        result["choice"] = choice_as_json(choice, rows, request, law)
    return LawGroup(result, frontier)


def chosen_law(rows: pd.DataFrame, request: Request) -> tuple[str, Choice | None, list[str]]:
    """The law to fit, how it was chosen (`auto`), and what to say of that.

    Raises:
        FitError: when no law can be fitted at all.
    """
    usual = request.replaceable
    if request.law != "auto" and not usual:
        return request.law, None, []
    sized = "parameters" in rows
    names = candidates_of(candidates(sized), request.estimator)
    if usual:
        names = [name for name in names if _like(LAWS[name], LAWS[request.law])]
    try:
        choice = choose(names, rows, request.estimator, bands=not usual)
    except FitError as error:
        if usual:
            return request.law, None, []
        law = carried(names, rows)
        return law, None, [f"law {law} is taken untested: {error}"]
    if usual:
        return choice.instead_of(request.law), choice, []
    log.info("law %s chosen among %d by rolling origin", choice.best, len(choice.scores))
    return choice.best, choice, []


def _like(law: LawEntry, usual: LawEntry) -> bool:
    """Whether a law answers what the usual one does: how N* and D* grow, which `equal` presumes."""
    return law.needs_size == usual.needs_size and ("b" in law.derived) == ("b" in usual.derived)


def carried(names: list[str], rows: pd.DataFrame) -> str:
    """The first of these laws that the rows determine.

    Raises:
        FitError: with the reason of each that they do not.
    """
    reasons = []
    for name in names:
        try:
            check(name, inputs(rows))
        except FitError as error:
            reasons.append(f"{name}: {error}")
        else:
            return name
    raise FitError(f"no law can be fitted ({'; '.join(reasons)})")


def described(fit: Fit, rows: pd.DataFrame, misfits: LackOfFit) -> dict[str, Any]:
    """The fit itself."""
    found: dict[str, Any] = {
        "law": fit.law.name,
        "formula": LAWS[fit.law.name].text,
        "estimator": fit.estimator,
        "convention": "loss in nats, compute in FLOPs, as the table gives them",
        "points": len(rows),
        "parameters": fit.parameters,
        "derived": derived(fit),
        "diagnostics": asdict(fit.diagnostics),
    }
    if isinstance(fit.law, ConstrainedLaw) and len(fit.law.free_names) < len(fit.law.names):
        free = fit.law.free_names
        found["pinned"] = {n: v for n, v in fit.parameters.items() if n not in free}
    if misfits.outliers:
        found["outliers"] = list(misfits.outliers)
    if misfits.repeats is not None:
        noise, freedom = misfits.repeats
        found["seed_noise"] = {"sd_of_log_loss": noise, "degrees_of_freedom": freedom}
    return found


def uncertainty(refits: Refits, plan: Plan) -> dict[str, Any]:
    """Intervals and standard errors from the refits, and how these were drawn."""
    if not len(refits.theta_KP):
        return {"intervals": {}}
    names, public = refits.fit.law.names, refits.public
    by_run, law = plan.clusters is not None, refits.fit.law
    free_names = law.free_names if isinstance(law, ConstrainedLaw) else names
    return {
        "intervals": {n: list(i) for n, i in refits.intervals().items() if n in free_names},
        "derived_intervals": derived_intervals(refits),
        "standard_errors": {
            "bootstrap": dict(zip(names, public.std(0).tolist(), strict=True)),
            "delta_method": delta_method(refits.fit),
        },
        "refits": {
            "count": len(public),
            "resampled": plan.kind,
            "clusters": len(set(plan.clusters or [])) if by_run else None,
            "within_budgets": plan.strata is not None,
        },
    }


def _resampling_notes(plan: Plan, refits: Refits) -> list[str]:
    notes = [*plan.notes, *([plan.none] if plan.none else [])]
    count = len(refits.theta_KP)
    if 0 < count < FEW_REFITS:
        notes.append(f"intervals rest on {count} refits: their ends are rough below {FEW_REFITS}")
    return notes


def built(refits: Refits) -> tuple[dict[str, Any] | None, list[str]]:
    """How prediction intervals are built, as the JSON has it, and what to warn of."""
    if not len(refits.theta_KP):
        return None, []
    misfit = refits.misfit
    if misfit is None:
        return None, []
    found = {
        "widening": misfit.times,
        "folds": misfit.folds,
        "held_out_points": misfit.points,
        "share_held_without_widening": misfit.held,
    }
    if misfit.folds:
        return found, []
    note = (
        "there are too few budgets to test this law on larger ones than it is fitted to: beyond "
        f"the data prediction intervals are widened {misfit.times:g} times untested"
    )
    return found, [note]


def accuracy_chain(
    rows: pd.DataFrame,
    request: Request,
    frontier: Frontier,
    *,
    places: list[Place],
    plan: Plan,
) -> dict[str, Any]:
    """Loss -> accuracy by a sigmoid, and accuracy at the predicted places through their losses.

    Raises:
        FitError: when the accuracies carry no curve.
    """
    known = rows[rows["accuracy"].notna()]
    samples = request.samples if len(frontier.refits.theta_KP) else 0
    fitted = fit_accuracy(
        known["loss"].to_numpy(float),
        known["accuracy"].to_numpy(float),
        request.chance,
        samples=samples,
        seed=request.seed,
        clusters=known["run"].tolist() if plan.clusters is not None else None,
    )
    names = ("ceiling", "slope", "middle")
    refits = {n: np.array([getattr(s, n) for s in fitted.refits]) for n in names}
    result: dict[str, Any] = {
        "law": "sigmoid",
        "points": len(known),
        "parameters": asdict(fitted.sigmoid),
        "intervals": {n: list(percentiles(v, request.level)) for n, v in refits.items() if len(v)},
        "residual_sd": fitted.residual_sd,
        "warnings": [f"accuracy: {warning}" for warning in fitted.warnings],
    }
    if places:
        result["predictions"] = [
            accuracy_at(frontier, place, fitted, seed=request.seed) for place in places
        ]
    return result


def derived(fit: Fit) -> dict[str, float]:
    """What follows from the parameters: exponents of the compute-optimal size, tokens and loss."""
    values = fit.law.public(fit.theta[None])
    return {name: float(f(values)[0]) for name, f in derivations(fit).items()}


def derived_intervals(refits: Refits) -> dict[str, list[float]]:
    """The same with intervals from the refits."""
    return {
        name: list(percentiles(f(refits.public), refits.level))
        for name, f in derivations(refits.fit).items()
    }


def derivations(fit: Fit) -> Mapping[str, Derivation]:
    """What follows from the parameters of the fitted law, by name."""
    entry = LAWS.get(fit.law.name)
    return {} if entry is None else entry.derived


def choice_as_json(
    choice: Choice, rows: pd.DataFrame, request: Request, law: str
) -> dict[str, Any]:
    """Laws by how well they predict larger budgets than they were fitted to; of `auto` also
    left-out ones."""
    scores = {score.law: score_as_json(score) for score in choice.scores}
    judged = {"rolling_origin": scores, "not_judged": list(choice.unjudged)}
    if request.replaceable:
        return judged | {"usual": request.law, "taken": law}
    left_out = [
        leave_one_budget_out(score.law, rows, request.estimator, seed=request.seed)
        for score in choice.scores
    ]
    combination = {"weights": choice.weights, "mean_absolute_error": choice.combined_error}
    return judged | {
        "leave_one_budget_out": {s.law: score_as_json(s) for s in left_out if s is not None},
        "combination": combination if choice.weights else None,
    }


def score_as_json(score: Score) -> dict[str, float]:
    """A law's errors on held-out points, as the JSON reports them."""
    found = {
        "mean_absolute_error": score.mean_absolute_error,
        "signed_error": score.signed_error,
        "folds": len(score.folds),
    }
    covered = score.coverage
    return found if covered is None else found | {"coverage_of_90%_intervals": covered}
