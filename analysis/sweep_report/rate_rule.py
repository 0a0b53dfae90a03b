"""The best rates of a sweep as a rule for studies: the latents that have them at each budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.sweep_report.data import ArmFrame
from analysis.sweep_report.rate_profiles import RateAnalysis
from cola.rate_points import LADDER, is_of_training

# Last parts of keys that a study has a rule for, `rules.latent.KEY`.
RULED = ("latent_dim", "patch_size", "log_snr", "beta")


@dataclass(frozen=True)
class RateRule:
    """Values of the key at the best rate of each budget; why: where there is no rule."""

    key: str = ""
    points: tuple[tuple[float, float], ...] = ()  # budget, value
    why: str | None = None

    def as_settings(self) -> dict[str, Any]:
        """What `--set @FILE` takes."""
        points = [{"budget": budget, "value": value} for budget, value in self.points]
        return {f"rules.latent.{self.key}": {"kind": "tuned", "points": points}}

    def sentence(self) -> str:
        """The rule in words."""
        if self.why is not None:
            return f"No rule for studies follows: {self.why}."
        points = ", ".join(f"{value:.3g} at {budget:.3g} FLOPs" for budget, value in self.points)
        between = "between them linear in logarithms and beyond them constant"
        rest = between if len(self.points) > 1 else "and the same at every other budget"
        return (
            f"As a rule for studies (rule.yaml, for --set @FILE), {self.key} is {points}, {rest}."
        )


def rule_of(arm: ArmFrame, analysis: RateAnalysis) -> RateRule:
    """The one key that moved the rate, at the best rates: between trials linear in logarithms."""
    keys = [key for key in arm.keys if key != LADDER and not is_of_training(key)]
    if len(keys) != 1:
        return RateRule(why=f"{len(keys)} keys move the rate, and a rule is for one")
    name = keys[0].rsplit(".", 1)[-1]
    if name not in RULED:
        return RateRule(why=f"studies have no rule for {name}")
    if not analysis.good:
        return RateRule(why="no budget has a minimum inside its profile")
    values = dict(zip(arm.trials["trial"], arm.trials[keys[0]], strict=True))
    points = []
    for best in analysis.good:
        runs = analysis.runs[analysis.runs["budget"] == best.budget]
        tried = np.array([float(values[trial]) for trial in runs["trial"]])
        if not (np.isfinite(tried) & (tried > 0)).all():
            return RateRule(why=f"{name} has a value that is not positive, and a rule has none")
        order = np.argsort(runs["rate"].to_numpy(float))
        log_rate, log_value = np.log(runs["rate"].to_numpy(float))[order], np.log(tried)[order]
        at = np.interp(np.log(best.values["rate"]), log_rate, log_value)
        points.append((best.budget, float(f"{np.exp(at):.4g}")))
    return RateRule(name, tuple(points))
