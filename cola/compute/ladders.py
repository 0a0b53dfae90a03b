"""Budgets of several curves side by side: which they share, and what can be compared at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

SHOWN = 8  # amounts of a curve that a sentence lists


def ladder_sentences(amounts: Mapping[str, Sequence[float]], unit: str) -> list[str]:
    """Each curve's budgets, and for each pair of curves where they are the same.

    `amounts` are in `unit` ("nominal FLOPs", "steps"), by the curve's name for people. No sentence
    where all curves have the same.
    """
    ladders = {name: sorted(set(found)) for name, found in amounts.items()}
    if len({tuple(found) for found in ladders.values()}) <= 1:
        return []
    first = next(iter(ladders.values()))
    each = "; ".join(
        f"{name} {listed(found)}{_times(found, first)}" for name, found in ladders.items()
    )
    return [f"Budgets differ between families ({unit}): {each}.", *_pair_sentences(ladders, unit)]


def listed(amounts: Sequence[float]) -> str:
    """The amounts, or their number and ends where there are many."""
    if len(amounts) > SHOWN:
        return f"{len(amounts)} from {_shown(amounts[0])} to {_shown(amounts[-1])}"
    return ", ".join(map(_shown, amounts))


def _shown(amount: float) -> str:
    return f"{amount:,.0f}" if amount < 1e7 else f"{amount:.3g}"


def _times(amounts: Sequence[float], first: Sequence[float]) -> str:
    """By how much a ladder is another one's multiple, in brackets; nothing where it is none."""
    if len(amounts) != len(first) or list(amounts) == list(first):
        return ""
    factors = [mine / other for mine, other in zip(amounts, first, strict=True)]
    same = max(factors) / min(factors) < 1 + 1e-6
    return f" ({factors[0]:.4g} times)" if same else ""


def _pair_sentences(ladders: Mapping[str, Sequence[float]], unit: str) -> Iterator[str]:
    for (one, mine), (other, theirs) in combinations(ladders.items(), 2):
        shared = [amount for amount in mine if amount in theirs]
        overlap = mine[0] <= theirs[-1] and theirs[0] <= mine[-1]
        if shared:
            yield f"{one} and {other} pair at {listed(shared)} {unit}."
        elif overlap:
            yield (
                f"{one} and {other} share no budget, but their ranges overlap: their curves are "
                "compared, not runs at equal budgets."
            )
        else:
            high, low = (other, one) if theirs[0] > mine[-1] else (one, other)
            gap = max(mine[0] / theirs[-1], theirs[0] / mine[-1])
            yield (
                f"{one} and {other} share no budget ({high} begins at {gap:.3g} times {low}'s "
                "largest): nothing is compared at equal compute, only the compute of equal losses, "
                "where both curves reach one."
            )
