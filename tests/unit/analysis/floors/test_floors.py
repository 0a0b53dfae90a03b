"""A floor in common: recovered, tested, refused, and what it does to multipliers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.compare import Crossover, Estimate, Multiplier, compare_compute, crossover
from analysis.fitting.frontier import Frontier
from analysis.floors.choice import chosen_floor
from analysis.floors.common_floor import common_floor, held_out
from analysis.report.comparisons import at_true_nll, true_crossing

BUDGETS = np.geomspace(1e18, 1e20, 6)
FLOOR, DELAY, NOISIER = 1.7, 2.0, 5


def rows(
    level: float, gamma: float, *, noise: float = 0.0, floor: float = FLOOR, seed: int = 0
) -> pd.DataFrame:
    """A family's best runs."""
    generator = np.random.default_rng(seed)
    loss = floor + level * (BUDGETS / 1e18) ** -gamma
    loss = loss * np.exp(noise * generator.standard_normal(len(loss)))
    return pd.DataFrame({"loss": loss, "compute": BUDGETS, "budget": BUDGETS})


LAWS = {"fast": "compute", "slow": "compute"}


def families(noise: float = 0.0, seed: int = 0, floor: float = FLOOR) -> dict[str, pd.DataFrame]:
    """Two families: `slow` needs twice the compute of `fast` and is five times as noisy."""
    return {
        "fast": rows(1.5, 0.2, noise=noise, seed=seed),
        "slow": rows(1.5 * DELAY**0.2, 0.2, noise=NOISIER * noise, seed=seed + 1000, floor=floor),
    }


def test_the_floor_and_the_multiplier_are_recovered() -> None:
    found = common_floor(families(1e-5, seed=2), 50, 0)
    assert found.floor.value == pytest.approx(FLOOR, rel=1e-3)
    assert found.gammas["fast"].value == pytest.approx(0.2, rel=2e-3)
    assert not found.rejected
    curves = found.frontiers["slow"], found.frontiers["fast"]
    multiplier = compare_compute(*curves)
    assert multiplier.value == pytest.approx(DELAY, rel=1e-3)
    assert multiplier.low < DELAY < multiplier.high
    assert crossover(*curves) is None or crossover(*curves).beyond > 1e2  # type: ignore[union-attr]


def test_intervals_hold_the_floor_where_noise_differs() -> None:
    held = []
    for seed in range(8):
        found = common_floor(families(0.002, seed), 100, seed)
        held.append(found.floor.low <= FLOOR <= found.floor.high)
    assert np.mean(held) >= 0.75


def test_a_floor_in_common_predicts_better_where_it_holds() -> None:
    errors = []
    for seed in range(8):
        found = held_out(families(0.004, seed), LAWS)
        assert found is not None
        errors.append((found.common, found.own, found.points))
    common, own, points = np.mean(errors, axis=0)
    assert common < own
    assert points == 4  # of each family the two largest budgets


def test_runs_may_reject_a_floor_in_common() -> None:
    found = chosen_floor(families(1e-5, floor=2.2), LAWS, other_text="", samples=20)
    assert not found.used
    assert "the runs reject a floor in common (p = " in found.sentence
    assert found.frontiers == {}
    assert found.as_json()["form"] == "own"


@pytest.mark.parametrize(
    ("made", "other_text", "reason"),
    [
        (families(), "of two texts", "each with its own floor: of two texts."),
        ({"fast": rows(1, 0.2)}, "", "fewer than two families have a curve"),
        (families() | {"flat": rows(-0.1, 0.2)}, "", "the loss of flat does not fall"),
        ({n: r[:2] for n, r in families().items()}, "", "fast has 2 budgets, 3 are needed"),
    ],
)
def test_why_families_keep_their_own_floors(
    made: dict[str, pd.DataFrame], other_text: str, reason: str
) -> None:
    laws = dict.fromkeys(made, "compute")
    found = chosen_floor(made, laws, other_text=other_text, samples=20)
    assert not found.used
    assert reason in found.sentence


def test_the_sentence_says_what_comparisons_rest_on() -> None:
    found = chosen_floor(families(1e-5, seed=2), LAWS, other_text="", bounds=("slow",), samples=50)
    assert found.used
    assert "one floor in common, E = 1.7 (95% interval 1.7 to 1.7)" in found.sentence
    assert "slow is scored by upper bounds" in found.sentence
    assert "with the floor in common," in found.sentence
    assert "The runs do not reject it (p = " in found.sentence
    assert found.as_json()["held_out"]["points"] == 4


@pytest.mark.parametrize(
    ("multiplier", "side", "said"),
    [
        (Multiplier(3.0, 2.0, 1.5, 4.0), "at least", "it is at least 1.50 times less"),
        (Multiplier(3.0, 2.0, 0.5, 4.0), "at least", "it is at most 2.00 times more"),
        (Multiplier(3.0, 0.5, 0.25, 0.8), "at most", "it is at least 1.25 times more"),
        (Multiplier(3.0, 0.5, 0.25, 1.6), "at most", "it is at most 1.60 times less"),
        (Multiplier(3.0, 2.0, 0.0, 4.0), "at least", "the multiplier is not bounded"),
        (Multiplier(3.0, None, 0.0, 0.1, "at most"), "at least", "not bounded"),
        (Multiplier(3.0, None, 9.0, np.inf, "at least"), "at least", "holds at its true NLL too"),
    ],
)
def test_multipliers_of_bounds_are_one_sided(multiplier: Multiplier, side: str, said: str) -> None:
    assert said in at_true_nll(multiplier, side)
    assert at_true_nll(multiplier, None) == ""


def test_crossings_of_bounds_are_one_sided() -> None:
    steep, shallow = rows(1.5, 0.3, noise=1e-4), rows(1.2, 0.2, noise=1e-4, seed=1)
    curves = common_floor({"steep": steep, "shallow": shallow}, 50, 0).frontiers
    pair: tuple[Frontier, Frontier] = curves["shallow"], curves["steep"]
    at = Crossover(Estimate(1e19, 8e18, 2e19), 1.0, 1.0)
    assert "before 2e+19 FLOPs" in true_crossing(at, pair, "at least")  # steep is the bound
    assert "beyond 8e+18 FLOPs" in true_crossing(at, pair, "at most")
    assert true_crossing(at, pair, None) == ""
