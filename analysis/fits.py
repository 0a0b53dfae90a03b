"""One curve per family: which points are fitted, the law, its band, and what to say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.laws import Fit, FitError, bootstrap_band, fit_compute_law
from cola.records import FAMILIES, FAMILY_LABELS

BOOTSTRAP_SAMPLES = 400
BOOTSTRAP_SEED = 0
CURVE_POINTS = 60


@dataclass(frozen=True)
class FamilyFit:
    """A family's curve, or why it has none. `curve`: flops, loss, low, high (90% band)."""

    family: str
    kind: str
    fit: Fit | None
    curve: pd.DataFrame | None
    warnings: tuple[str, ...]

    @property
    def label(self) -> str:
        """The family's name for people."""
        return FAMILY_LABELS[self.family]

    @property
    def formula(self) -> str:
        """The fitted law in words, C in units of the fit's own scale."""
        if self.fit is None:
            return "no curve"
        law = self.fit.law
        floor = f"{law.irreducible:.3f} + " if law.has_floor else ""
        return f"L = {floor}{law.coefficient:.3f} (C / {law.scale:.3g})^-{law.gamma:.4f}"


def fit_families(points: pd.DataFrame, compute: str) -> dict[str, FamilyFit]:
    """Fit validation NLL of finished runs against training FLOPs, family by family."""
    final = points[points["is_final"]]
    return {
        family: fit_family(family, final[final["family"] == family], compute)
        for family in FAMILIES
        if (final["family"] == family).any()
    }


def fit_family(family: str, final: pd.DataFrame, compute: str) -> FamilyFit:
    """One family's curve over the range of its own points."""
    kind = str(final["nll_kind"].iloc[0])
    flops = final[f"train_flops_{compute}"].to_numpy(float)
    try:
        fit = fit_compute_law(flops, final["nll"].to_numpy(float))
    except FitError as error:
        return FamilyFit(family, kind, None, None, (f"no curve: {error}",))
    at = np.geomspace(flops.min(), flops.max(), CURVE_POINTS)
    low, high = bootstrap_band(fit, flops, at, BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED)
    curve = pd.DataFrame({"flops": at, "loss": fit.law.loss(at), "low": low, "high": high})
    return FamilyFit(family, kind, fit, curve, fit.warnings)


def told_once(fits: Mapping[str, FamilyFit]) -> list[str]:
    """The fits' warnings, each with the families it holds for."""
    families: dict[str, list[str]] = {}
    for fit in fits.values():
        for warning in fit.warnings:
            families.setdefault(warning, []).append(fit.label)
    return [f"{', '.join(names)}: {warning}" for warning, names in families.items()]


def falls_with_budget(points: pd.DataFrame, family: str) -> bool:
    """Whether the family's mean final NLL falls at every step up the ladder."""
    final = points[points["is_final"] & (points["family"] == family)]
    means = final.groupby("budget")["nll"].mean().sort_index()
    return bool((means.diff().dropna() < 0).all())
