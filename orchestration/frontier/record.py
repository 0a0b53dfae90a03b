"""What `frontier.json` of a study's folder holds: points, comparisons, cost, what they rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cola.evaluation.frontier.matched import Curve, Match, matched
from cola.evaluation.frontier.prompts import Prompts
from cola.evaluation.frontier.scores import BRIER, BRIERLM, QUALITIES, REFERENCE
from cola.evaluation.frontier.settings import AXES, neighbours
from cola.evaluation.frontier.task import truth_scores
from cola.evaluation.mauve import COMPARABLE, METHOD
from cola.evaluation.statistics import token_entropy
from cola.families.registry import definition_of
from cola.records import FRONTIER_VERSION
from orchestration.frontier.measure import CurveResult, Judges, PointResult, as_array
from orchestration.frontier.request import FrontierRequest

ENTROPY_IS = (
    "Entropy is that of the frequencies of the tokens within each text, in nats, the mean over the "
    "texts (as in arXiv 2409.02908): it grows with a text's length, which is the same for all."
)


def as_record(
    study: str,
    command: str,
    results: Sequence[CurveResult],
    prompts: Prompts,
    *,
    request: FrontierRequest,
    judges: Judges,
) -> dict[str, Any]:
    """All of it as plain values."""
    nats = None if judges.reference is None else judges.reference.truth_nats.tolist()
    held_out = finite(truth_scores(prompts, nats))
    if judges.mauve is not None and judges.mauve.halves is not None:
        held_out["mauve"] = judges.mauve.halves.value
    return {
        "version": FRONTIER_VERSION,
        "study": study,
        "command": command,
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "prompts": prompts.count,
        "prompts_asked": request.prompts,
        "prompt_tokens": sorted(set(prompts.lengths())),
        "new_tokens": prompts.new,
        "draws": request.draws,
        "documents": len(np.unique(prompts.clusters())),
        "seed": request.seed,
        "reference": reference_record(results, request),
        "held_out": held_out,
        "qualities": [vars(quality) for quality in QUALITIES],
        "curves": [curve_record(result) for result in results],
        "comparisons": [
            match_record(match, results, request) for match in matches(results, prompts)
        ],
        "notes": notes(results, prompts, request=request, judges=judges),
    }


def reference_record(
    results: Sequence[CurveResult], request: FrontierRequest
) -> dict[str, Any] | None:
    """The reference by its name and family, and whether it is one of the runs that it judges."""
    target = request.reference
    if target is None:
        return None
    runs = [each for result in results for each in result.runs.targets]
    return {
        "name": target.name,
        "family": definition_of(target.family).label,
        "judges_itself": target.model_folder in [run.model_folder for run in runs],
    }


def curve_record(result: CurveResult) -> dict[str, Any]:
    """A curve with its points and its cost."""
    runs = result.runs
    return {
        "variant": runs.variant,
        "family": runs.family.name,
        "label": runs.label,
        "budget": runs.budget,
        "core_parameters": runs.core_parameters,
        "runs": [target.name for target in runs.targets],
        "run_keys": [each.run_folder.resolve().name for each in runs.targets if each.run_folder],
        "base": result.points[0].settings.model_dump(mode="json"),
        "points": [point_record(point) for point in result.points],
        "edges": edges(result),
        "speed": result.speed,
    }


def point_record(point: PointResult) -> dict[str, Any]:
    """A point: means over the runs, with the mean of their standard errors (over documents, which
    all runs share)."""
    names = list(dict.fromkeys(name for metrics in point.metrics for name in metrics))
    found = {
        name: float(np.mean([metrics[name] for metrics in point.metrics]))
        for name in names
        if all(name in metrics for metrics in point.metrics)
    }
    found = finite(found)
    if point.mauve:
        found["mauve"] = float(np.mean([score.value for score in point.mauve]))
        errors = [score.standard_error for score in point.mauve]
        found["mauve_standard_error"] = float(np.sqrt(np.mean(np.square(errors)) / len(errors)))
    return {
        "changed": point.changed,
        "metrics": found,
        "flops_per_token": point.flops_per_token,
        "by_run": [
            finite({n: metrics[n] for n in metrics if not n.endswith("_standard_error")})
            for metrics in point.metrics
        ],
    }


def finite(values: dict[str, float]) -> dict[str, float]:
    """The values that are numbers: texts of three tokens have no repetition of four."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def edges(result: CurveResult) -> list[tuple[int, int]]:
    """Pairs of points that a line is drawn between."""
    return neighbours(
        [{key: getattr(point.settings, key) for key in AXES} for point in result.points]
    )


def matches(results: Sequence[CurveResult], prompts: Prompts) -> list[Match]:
    """The curves at one entropy, by each quality that all of them have; BrierLM before Brier-1,
    which stands for it where it is not defined."""
    curves = {result.runs.variant: Curve(as_array(result), edges(result)) for result in results}
    truth_P = np.array([token_entropy(prompts.truth(n)) for n in range(prompts.count)])
    found = [matched(curves, truth_P, prompts.clusters(), quality) for quality in QUALITIES]
    names = {match.quality.name for match in found if match is not None}
    left_out = {BRIER[0]} if BRIERLM in names else set()
    return [m for m in found if m is not None and m.quality.name not in left_out]


def match_record(
    match: Match, results: Sequence[CurveResult], request: FrontierRequest
) -> dict[str, Any]:
    """A comparison as values and as a sentence."""
    return {
        "quality": match.quality.name,
        "entropy": match.entropy,
        "own": match.own,
        "best": match.best,
        "value": match.value,
        "documents": match.documents,
        "seeds": dict(match.seeds),
        "gaps": [vars(gap) | {"decided": gap.decided} for gap in match.gaps],
        "sentence": match_sentence(match, {r.runs.variant: r for r in results}, request),
    }


def match_sentence(
    match: Match, results: Mapping[str, CurveResult], request: FrontierRequest
) -> str:
    """Which curve is best at that entropy, or that the data do not decide it."""
    labels = {variant: result.runs.label for variant, result in results.items()}
    where = "the text's own entropy"
    if not match.own:
        where = "the entropy nearest to the text's own that all reach"
    first = f"At {where} ({match.entropy:.3f} nats), {match.quality.label}: "
    best = f"{labels[match.best]} {match.value:.4g}"
    behind = ", ".join(
        f"{labels[gap.curve]} {gap.value:.4g} ({gap_text(gap.low, gap.high)})" for gap in match.gaps
    )
    equal = [labels[gap.curve] for gap in match.gaps if not gap.decided]
    if equal:
        verdict = f"the data do not decide between {' and '.join([labels[match.best], *equal])}"
    else:
        verdict = f"{labels[match.best]} is best"
    judge = request.reference if match.quality.name == REFERENCE else None
    if judge is not None and judge.family == results[match.best].runs.family.name:
        verdict += ", whose own family the reference is of"
    seeds = sorted(set(match.seeds.values()))
    of_seeds = f"{'-'.join(map(str, seeds))} seeds a curve"
    if seeds == [1]:
        of_seeds = "one seed a curve, so that intervals know nothing of seeds"
    return (
        f"{first}{best}, {behind}; {verdict} (95% together, over {match.documents} documents, "
        f"{of_seeds}).{unequal_compute(results)}"
    )


def unequal_compute(results: Mapping[str, CurveResult]) -> str:
    """A sentence on the curves' budgets where they differ, with a space before it."""
    runs = [result.runs for result in results.values()]
    if len({each.budget for each in runs}) == 1:
        return ""
    budgets = ", ".join(f"{each.label} {each.budget:.3g}" for each in runs)
    return f" Training compute is not equal ({budgets} FLOPs)."


def gap_text(low: float | None, high: float | None) -> str:
    """How far behind, as an interval."""
    if low is None or high is None:
        return "behind, without an interval"
    return f"behind by {low:.3g} to {high:.3g}"


def notes(
    results: Sequence[CurveResult],
    prompts: Prompts,
    *,
    request: FrontierRequest,
    judges: Judges,
) -> list[str]:
    """What a reader must know beside the numbers."""
    found = [
        f"Texts of {prompts.new} tokens, {request.draws} behind each of {prompts.count:,} held-out "
        f"prompts of {len(np.unique(prompts.clusters())):,} documents, the same for all families.",
        ENTROPY_IS,
        *quality_notes(request),
        *reference_notes(results, request),
    ]
    if prompts.count < request.prompts:
        found.append(
            f"The text gives {prompts.count:,} prompts, fewer than the {request.prompts:,} asked "
            "for."
        )
    if judges.mauve is None:
        found.append(
            f"No MAUVE: it compares the first draws behind {COMPARABLE:,} prompts or more "
            f"(--prompts {COMPARABLE}), and needs --reference or --features."
        )
    else:
        found.append(
            f"MAUVE: first draws against the text's own tokens behind {prompts.count:,} prompts, "
            f"on the states of {judges.mauve.name}; errors by {METHOD}."
        )
    return found + unread_notes(results)


def quality_notes(request: FrontierRequest) -> list[str]:
    """What each measure of quality is."""
    return [
        f"{quality.label}: {quality.note}."
        for quality in QUALITIES
        if quality.name != REFERENCE or request.reference is not None
    ]


def reference_notes(results: Sequence[CurveResult], request: FrontierRequest) -> list[str]:
    """Who judges, and whom that favours."""
    about = reference_record(results, request)
    if about is None:
        return ["No reference judges the texts: their quality is BrierLM and Brier-1 alone."]
    own = " It judges its own texts too." if about["judges_itself"] else ""
    return [
        f"The reference is {about['name']} ({about['family']}): a reference favours what "
        f"resembles its own family.{own}"
    ]


def unread_notes(results: Sequence[CurveResult]) -> list[str]:
    """What keys a family does not read, and so has no points of."""
    found = []
    for result in results:
        unread = [key for key in AXES if key not in result.runs.keys]
        if unread:
            found.append(f"{result.runs.label} does not read {', '.join(unread)}.")
    return found
