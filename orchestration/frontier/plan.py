"""What a frontier costs before it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from cola.evaluation.frontier.prompts import Prompts
from cola.evaluation.frontier.settings import differences
from cola.terminal import say
from orchestration.frontier.measure import mean_flops
from orchestration.frontier.request import FrontierRequest
from orchestration.frontier.runs import CurveRuns
from orchestration.frontier.text import settings_text


def planned(
    curves: Sequence[CurveRuns], prompts: Prompts, request: FrontierRequest
) -> list[dict[str, Any]]:
    """Each curve's runs, settings, texts, and the FLOPs of all of them."""
    found = []
    for curve in curves:
        points = request.points(curve, prompts)
        texts = prompts.count * request.draws * len(curve.targets)
        flops = sum(mean_flops(curve, point, prompts) for point in points) * texts * prompts.new
        found.append(
            {
                "label": curve.label,
                "variant": curve.variant,
                "budget": curve.budget,
                "runs": [target.name for target in curve.targets],
                "settings": [differences(point, points[0]) for point in points],
                "texts_per_setting": texts,
                "flops": flops,
            }
        )
    return found


def print_plan(console: Console, plan: Sequence[dict[str, Any]]) -> None:
    """A paragraph a curve, and the sum."""
    for row in plan:
        settings = "; ".join(settings_text({"changed": each}) for each in row["settings"])
        say(
            console,
            f"{row['label']}: {', '.join(row['runs'])}; {len(row['settings'])} settings of "
            f"{row['texts_per_setting']:,} texts, {row['flops']:.2g} FLOPs: {settings}",
        )
    total = sum(row["flops"] for row in plan)
    say(console, f"{total:.2g} FLOPs of generation in all, without what judges read.")
