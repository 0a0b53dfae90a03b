"""What the sizes of N, D, C and the loss say about their units: notes, never an error.

C = 6 N D (arXiv 2001.08361) ties the three together, whatever the model; where two are known, sizes
that no language model is trained at give a wrong unit away.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
SIZES = ("parameters", "tokens", "compute")

# C / 6ND of conventions that are in use lies within a factor 3 of 1: with attention, embeddings or
# recomputed activations, or 2 N D of a forward pass.
SAME_UNIT = 3.0
SAME_CONVENTION = 1.1  # chosen: a smaller difference of C and 6ND does not change a fit
SPREAD = 10.0  # chosen: C / 6ND of one convention varies less between rows
COMPUTE_UNITS = {
    1e-6: "MFLOPs",
    1e-9: "GFLOPs",
    1e-12: "TFLOPs",
    1e-15: "PFLOPs",
    1e-18: "EFLOPs",
    1e-21: "ZFLOPs",
    1 / 8.64e19: "petaFLOP/s-days",
}
SIZE_UNITS = {
    1e3: "parameters or tokens in thousands",
    1e6: "parameters or tokens in millions",
    1e9: "parameters or tokens in billions",
    1e12: "tokens in trillions, or parameters and tokens in millions",
    1e15: "parameters in millions and tokens in billions",
    1e18: "parameters and tokens in billions",
    1e21: "parameters in billions and tokens in trillions",
}
LEAST_PARAMETERS, LEAST_TOKENS = 1e3, 1e4  # chosen: below these nothing is a language model
LEAST_COMPUTE = 1e12  # chosen: 6 N D of 20,000 parameters and 8 million tokens
TOKENS_PER_PARAMETER = 1e-3, 1e5  # chosen: beyond what is trained (Chinchilla: 20)
MOST_NATS = 20.0  # chosen: guessing over a vocabulary of 256,000 costs 12.5 nats a token


def unit_notes(rows: pd.DataFrame, names: Mapping[str, str]) -> list[str]:
    """Notes on units that look wrong. `names`: the file's columns by ours, for those it has.

    `rows`: loss, compute, and where known parameters, tokens; derived columns are in `rows` alone.
    """
    values = {name: rows[name].to_numpy(float) for name in rows if name in SIZES}
    notes = []
    if set(SIZES) <= set(names):
        log_ratio = np.log10(values["compute"]) - np.log10(6.0)
        log_ratio = log_ratio - np.log10(values["parameters"]) - np.log10(values["tokens"])
        column, lines = f"column {names['compute']!r}", rows["line"].to_numpy(int)
        notes += _other_unit(log_ratio, values, column)
        notes += _several_units(log_ratio, lines, column)
        notes = notes or _other_convention(log_ratio, column) + _implausible(values, names)
    else:
        notes += _implausible(values, names)
    high = float(np.median(rows["loss"]))
    if high > MOST_NATS:
        notes.append(
            f"column {names['loss']!r}: a median of {high:.4g} is no loss in nats a token; is it a "
            "perplexity (take its logarithm) or a sum?"
        )
    return notes


def _other_unit(log_ratio: Array, values: Mapping[str, Array], column: str) -> list[str]:
    # Of a row: a mean of two rows in different units would be a third unit.
    middle = float(np.quantile(log_ratio, 0.5, method="inverted_cdf"))
    if abs(middle) <= np.log10(SAME_UNIT):
        return []
    guess = unit_of(10.0**middle, values) or "do C, N and D use other units or conventions?"
    return [
        f"{column}: C / 6 N D is {10.0**middle:.2g} (median): {guess}; fits take the numbers as "
        "given"
    ]


def _several_units(log_ratio: Array, lines: NDArray[np.int64], column: str) -> list[str]:
    low, high = int(np.argmin(log_ratio)), int(np.argmax(log_ratio))
    if log_ratio[high] - log_ratio[low] <= np.log10(SPREAD):
        return []
    return [
        f"{column}: C / 6 N D is {10.0 ** log_ratio[low]:.2g} in line {lines[low]} and "
        f"{10.0 ** log_ratio[high]:.2g} in line {lines[high]}: are rows in several units?"
    ]


def _other_convention(log_ratio: Array, column: str) -> list[str]:
    if np.abs(log_ratio).max() <= np.log10(SAME_CONVENTION):
        return []
    low, middle, high = (10.0 ** np.quantile(log_ratio, q) for q in (0.0, 0.5, 1.0))
    return [
        f"{column}: C is {low:.3g} to {high:.3g} times 6 N D (median {middle:.3g}): compute, "
        "parameters and tokens are not counted by one convention; each is taken as given"
    ]


def unit_of(ratio: float, values: Mapping[str, Array]) -> str | None:
    """The unit that a ratio C / 6ND speaks of, as a question; None: no usual one."""
    small = _small(values)
    if small:
        return f"are {small}{'' if ratio > 1 else ', and C in GFLOPs or another unit'}?"
    for factor, unit in COMPUTE_UNITS.items():
        if factor / SAME_UNIT < ratio < factor * SAME_UNIT:
            return f"is it in {unit}? then multiply by {1 / factor:.3g}"
    for factor, unit in SIZE_UNITS.items():
        if factor / SAME_UNIT < ratio < factor * SAME_UNIT:
            return f"are {unit}?"
    return None


def _small(values: Mapping[str, Array]) -> str | None:
    """Which of N and D is too small to be a count, and its likely unit."""
    found = []
    parameters, tokens = (float(np.median(values[name])) for name in ("parameters", "tokens"))
    if parameters < LEAST_PARAMETERS:
        found.append(f"parameters in {'millions' if parameters > 5 else 'millions or billions'}")
    if tokens < LEAST_TOKENS:
        found.append("tokens in billions (or millions)")
    return " and ".join(found) if found else None


def _implausible(values: Mapping[str, Array], names: Mapping[str, str]) -> list[str]:
    notes = []
    for name, least in (("parameters", LEAST_PARAMETERS), ("tokens", LEAST_TOKENS)):
        small = int((values[name] < least).sum()) if name in names else 0
        if small:
            notes.append(
                f"column {names[name]!r}: {small} of {len(values[name])} rows have less than "
                f"{least:,.0f} {name}: are they in thousands, millions or billions? Laws, "
                "--predict and --flops need counts"
            )
    compute = float(np.median(values["compute"]))
    if "compute" in names and compute < LEAST_COMPUTE:
        notes.append(
            f"column {names['compute']!r}: a median of {compute:.3g} FLOPs: is it in "
            "GFLOPs, TFLOPs or in units of time? Laws and --predict need FLOPs"
        )
    if not notes and {"parameters", "tokens"} <= set(values):
        notes += _implausible_ratio(values["tokens"] / values["parameters"], names)
    return notes


def _implausible_ratio(per_parameter: Array, names: Mapping[str, str]) -> list[str]:
    middle, (low, high) = float(np.median(per_parameter)), TOKENS_PER_PARAMETER
    if low <= middle <= high:
        return []
    derived = "" if "tokens" in names else " (tokens are C / 6 N)"
    columns = ", ".join(repr(names[name]) for name in SIZES if name in names)
    return [
        f"columns {columns}: {middle:.2g} tokens a parameter (median){derived} is not how language "
        "models are trained: are all in counts and FLOPs?"
    ]
