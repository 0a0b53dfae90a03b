"""Whether families are compared with one floor in common, why, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.frontier import Frontier
from analysis.floors.common_floor import CommonFloor, HeldOut, common_floor, held_out, named
from cola.errors import FitError

FORM = "L = E + K C^-gamma"


@dataclass(frozen=True)
class FloorChoice:
    """fit: with the floor in common, where it could be made. reason: why it is not used, empty
    where it is. errors: of both forms. bounds: labels of families that are scored by bounds."""

    fit: CommonFloor | None
    reason: str
    errors: HeldOut | None
    bounds: tuple[str, ...] = ()

    @property
    def used(self) -> bool:
        """Whether comparisons rest on the floor in common."""
        return self.fit is not None and not self.reason

    @property
    def frontiers(self) -> Mapping[str, Frontier]:
        """Curves with the floor in common; none where each family's own are compared."""
        return self.fit.frontiers if self.fit is not None and self.used else {}

    @property
    def sentence(self) -> str:
        """What comparisons rest on, for people."""
        if self.fit is None or self.reason:
            text = (
                f"Families are compared by their own fits, each with its own floor: {self.reason}."
            )
            return text + self._errors
        floor = self.fit.floor
        text = (
            f"Families are compared by {FORM} with one floor in common, E = {floor.value:.3g} (95% "
            f"interval {floor.low:.3g} to {floor.high:.3g}) nats per token, since their scores are "
            "of one text; drawn curves and predictions are each family's own fit."
        )
        if self.bounds:
            text += (
                f" {named(self.bounds)} {'are' if len(self.bounds) > 1 else 'is'} scored by upper "
                "bounds, whose floor may lie above the text's."
            )
        return f"{text}{self._errors}{self._test}"

    @property
    def _errors(self) -> str:
        if self.errors is None and self.fit is None:
            return ""
        if self.errors is None:
            return " There are too few budgets to test either form on larger ones."
        return (
            f" Mean error on each next budget: {self.errors.common:.2%} with the floor in common, "
            f"{self.errors.own:.2%} with each family's own law ({self.errors.points} runs)."
        )

    @property
    def _test(self) -> str:
        test = None if self.fit is None else self.fit.test
        if test is None:
            return " Whether the runs reject the floor in common cannot be tested."
        return f" The runs do not reject it (p = {test['p']:.2g})."

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        fit = self.fit
        return {
            "form": "shared" if self.used else "own",
            "reason": self.reason or None,
            "floor": None if fit is None else asdict(fit.floor),
            "gamma": None if fit is None else {n: asdict(g) for n, g in fit.gammas.items()},
            "test": None if fit is None else fit.test,
            "held_out": None
            if self.errors is None
            else {
                "shared_floor": self.errors.common,
                "own_law": self.errors.own,
                "points": self.errors.points,
            },
        }


def chosen_floor(
    families: Mapping[str, pd.DataFrame],
    laws: Mapping[str, str],
    *,
    other_text: str,
    bounds: tuple[str, ...] = (),
    samples: int = 1000,
    seed: int = 0,
) -> FloorChoice:
    """Compare with one floor where all scores are of one text, unless the runs reject it.

    families: rows as fits take them; laws: each family's own; other_text: why scores are, or may
    be, of different texts; empty where they are of one.
    """
    if len(families) < 2:
        return FloorChoice(None, "fewer than two families have a curve", None, bounds)
    if other_text:
        return FloorChoice(None, other_text, None, bounds)
    errors = held_out(families, laws)
    try:
        fit = common_floor(families, samples, seed)
    except FitError as error:
        return FloorChoice(None, f"a floor in common cannot be fitted ({error})", errors, bounds)
    if fit.rejected and fit.test is not None:
        chance = fit.test["p"]
        reason = f"the runs reject a floor in common (p = {chance:.2g})"
        return FloorChoice(fit, reason, errors, bounds)
    smallest = min(float(np.min(rows["loss"])) for rows in families.values())
    if fit.floor.value > (1 - AT_CEILING) * smallest:
        reason = "the floor in common sits on its upper bound, the smallest loss"
        return FloorChoice(fit, reason, errors, bounds)
    return FloorChoice(fit, "", errors, bounds)


AT_CEILING = 1e-5  # share of the smallest loss within which a floor sits on it
