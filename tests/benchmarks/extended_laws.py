"""Do 95% intervals hold the truth for every law, shared floors, optima and the like?

    python -m tests.benchmarks.extended_laws [--studies 200] [--refits 1000] [--only NAME]
        [--to FILE] [--minutes 10]

Studies with known parameters, fitted as `cola fit` does by default. Prints for every parameter its
coverage and its bias over the standard deviation of the estimates. `--to` appends each study to a
file of JSON lines and skips those that it has, so that the command goes on where it was stopped
(`--minutes` stops it); `--first N` begins at another study, so that several processes can share
them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.constraints import Constraints
from analysis.fitting.laws import LAWS
from analysis.fitting.table import Table
from analysis.regressions.optima import optima_group
from analysis.regressions.settings import settings_group
from analysis.regressions.speedup import speedup
from analysis.table_fit.comparison import shared_fit
from analysis.table_fit.law_group import law_group
from analysis.table_fit.request import Request
from analysis.tables.columns import RowCounts
from cola.jsonl import LineWriter, read_lines
from tests.benchmarks.law_coverage import best_size, grid

NOISE = 0.003
SIZED = [name for name, law in LAWS.items() if law.needs_size]
Generator = np.random.Generator
Study = Callable[[Generator, int, int, "Tally"], None]
TRUTHS: dict[str, dict[str, float]] = {
    "chinchilla": {"E": 1.8, "A": 450.0, "B": 2000.0, "alpha": 0.345, "beta": 0.365},
    "tied": {"E": 1.8, "A": 8000.0, "B": 50000.0, "a": 0.51, "s": 0.7},
    "outer": {"E": 1.8, "A": 700.0, "B": 4000.0, "alpha": 0.4, "beta": 0.42, "s": 0.85},
    "equal": {"E": 1.8, "A": 600.0, "B": 2500.0, "alpha": 0.36},
    "repeated": {
        "E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_D": 15.4, "R_N": 5.3,
    },
    "compute": {"E": 1.8, "K": 1000.0, "gamma": 0.155},
    "compute-power": {"K": 26.0, "gamma": 0.05},
    "broken": {"E": 1.8, "K": 1000.0, "gamma": 0.155, "C1": 1e20, "f": 0.3, "delta": 0.1},
}  # fmt: skip
COEFFICIENTS = ("A", "B", "K")  # given in the data's units: their digits are their exponents'


@dataclass
class Tally:
    """Estimates and intervals of each number, beside the truth."""

    rows: dict[str, list[tuple[float, float, float, float]]] = field(default_factory=dict)
    without: int = 0

    def add(self, name: str, truth: float, value: float, interval: Any) -> None:
        """One estimate; one without ends counts apart."""
        if not interval or not np.isfinite(interval).all():
            self.without += 1
            return
        self.rows.setdefault(name, []).append((truth, value, *interval))

    def join(self, other: Tally) -> None:
        """Those of another study too."""
        for name, found in other.rows.items():
            self.rows.setdefault(name, []).extend(found)
        self.without += other.without

    def show(self, name: str) -> None:
        """One line a design."""
        parts = []
        for key, found in self.rows.items():
            truth, value, low, high = np.array(found).T
            held = ((low <= truth) & (truth <= high)).mean()
            bias = np.median(value - truth) / max(float(np.std(value)), 1e-300)
            parts.append(
                f"{key} {held:.3f} (bias {bias:+.2f} sd, width {np.median(high - low):.3g})"
            )
        missing = f"; {self.without} intervals not given" if self.without else ""
        print(f"{name:>28}: {', '.join(parts)}{missing}", flush=True)


def losses(
    law: str, n: np.ndarray, d: np.ndarray, unique: np.ndarray, **other: float
) -> np.ndarray:
    """The law's losses at its truth, or at other values of its parameters."""
    formula = LAWS[law].formula
    assert formula is not None
    row = np.array([list((TRUTHS[law] | other).values())])
    return np.asarray(formula(row, *(np.log(v)[None] for v in (n, d, unique)))[0])


def of_compute(law: str, compute: np.ndarray) -> np.ndarray:
    """The losses of a law of compute at its truth."""
    floor, k, gamma, middle, width, more = (
        TRUTHS[law].get(name, 0.0) for name in ("E", "K", "gamma", "C1", "f", "delta")
    )
    power = floor + k * compute**-gamma
    if not middle:
        return np.asarray(power)
    bent = (1 + (compute / middle) ** (1 / width)) ** (-more * width)
    return np.asarray(floor + (power - floor) * bent)


def best_runs(law: str, draw: Generator) -> pd.DataFrame:
    """Three runs of the best size at each of eight budgets over four decades; with a break at each
    of twenty over five."""
    budgets = np.geomspace(1e17, 1e22, 20) if law == "broken" else np.geomspace(1e18, 1e22, 8)
    compute = np.repeat(budgets, 3)
    loss = of_compute(law, compute) * np.exp(NOISE * draw.standard_normal(len(compute)))
    return pd.DataFrame({"loss": loss, "compute": compute, "budget": compute})


def table(law: str, draw: Generator, **other: float) -> pd.DataFrame:
    """Eight sizes by six budgets; of repeated data eight sizes by eight token counts."""
    if law not in SIZED:
        return best_runs(law, draw)
    n, d = grid(8, 6)
    if law == "repeated":
        mesh = np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e8, 4e10, 8))
        n, d = (axis.ravel() for axis in mesh)
    unique = np.tile([1e8, 4e8, 1.6e9, 6.4e9], len(n) // 4)
    loss = losses(law, n, d, unique, **other) * np.exp(NOISE * draw.standard_normal(len(n)))
    compute = 6 * n * d
    rows = {"loss": loss, "parameters": n, "tokens": d, "unique": unique, "compute": compute}
    frame = pd.DataFrame(rows).assign(budget=np.round(np.log(compute), 2))
    return frame.assign(line=range(2, len(n) + 2))


def asked(law: Any, refits: int, seed: int) -> Request:
    """The command's defaults."""
    return Request(law, "huber", refits, seed, None, ())


def of_law(law: str, pins: tuple[str, ...] = ()) -> Study:
    """Parameters and exponents of a law; some of them pinned to the truth."""

    def study(draw: Generator, refits: int, seed: int, tally: Tally) -> None:
        request, rows = asked(law, refits, seed), table(law, draw)
        if pins:
            pinned = {name: TRUTHS[law][name] for name in pins}
            request = replace(request, constraints=Constraints(pinned))
        if law != "repeated" and not pins:
            request = replace(request, predict=({"c": 10 * float(rows["compute"].max())},))
        found = law_group(rows, request, seed).result
        ends = {**found["intervals"], **found["derived_intervals"]}
        for name, truth in TRUTHS[law].items():
            if name not in (*COEFFICIENTS, *pins):
                tally.add(name, truth, found["parameters"][name], ends[name])
        if "a" in found["derived"]:
            alpha, beta = TRUTHS[law]["alpha"], TRUTHS[law]["beta"]
            tally.add("a", beta / (alpha + beta), found["derived"]["a"], ends["a"])
        for place in found.get("predictions", []):
            if law not in SIZED:
                (low,) = of_compute(law, np.array([place["c"]]))
                tally.add("L*", low, place["loss"], place["confidence_interval"])
                continue
            x = np.linspace(np.log(1e8), np.log(1e12), 4001)
            curve = losses(law, np.exp(x), place["c"] / 6 / np.exp(x), np.ones(4001))
            size, low = float(np.exp(x[curve.argmin()])), float(curve.min())
            tally.add("log N*", np.log(size), np.log(place["parameters"]),
                      list(np.log(place["parameters_interval"])))  # fmt: skip
            tally.add("L*", low, place["loss"], place["confidence_interval"])

    return study


def shared_floor(draw: Generator, refits: int, seed: int, tally: Tally) -> None:
    """Two groups of one floor."""
    groups = [table("chinchilla", draw).assign(group="x"),
              table("chinchilla", draw, A=700.0, alpha=0.38).assign(group="y")]  # fmt: skip
    rows = Table(pd.concat(groups, ignore_index=True), (), RowCounts(96))
    found = shared_fit(rows, replace(asked("chinchilla", refits, seed), share=("E",)))
    assert found is not None
    ends = found.result["intervals"]
    for name, truth in (("E", 1.8), ("alpha[x]", 0.345), ("alpha[y]", 0.38)):
        tally.add(name, truth, found.result["parameters"][name], ends[name])
    rejected = float(found.result["test"]["rejected"])
    tally.add("sharing kept", 0.0, rejected, [rejected, rejected])


def optima(draw: Generator, refits: int, seed: int, tally: Tally) -> None:
    """Ten budgets, sizes scattered by 5%, losses by 0.2%."""
    compute = np.geomspace(1e18, 1e22, 10)
    n = best_size(compute) * np.exp(0.05 * draw.standard_normal(10))
    loss = (1.8 + 1.2 * (compute / 1e19) ** -0.177) * np.exp(0.002 * draw.standard_normal(10))
    rows = pd.DataFrame({"compute": compute, "parameters": n, "tokens": compute / 6 / n,
                         "loss": loss, "line": range(2, 12)})  # fmt: skip
    found = optima_group(rows, ({"c": 1e23},), samples=refits, seed=seed)
    tally.add("a", 0.365 / 0.71, found["parameters"]["a"], found["intervals"]["a"])
    curve = found["loss_curve"]
    tally.add("gamma", 0.177, curve["parameters"]["gamma"], curve["intervals"]["gamma"])
    (place,) = found["predictions"]
    truth = float(best_size(1e23))
    tally.add("log N*", np.log(truth), np.log(place["parameters"]),
              list(np.log(place["parameters_interval"])))  # fmt: skip
    tally.add("L*", 1.8 + 1.2 * 1e4**-0.177, place["loss"], place["confidence_interval"])


def rates(draw: Generator, refits: int, seed: int, tally: Tally) -> None:
    """A learning rate at three sizes by three budgets, scattered by 15%."""
    n, c = (axis.ravel() for axis in np.meshgrid([1e7, 1e8, 1e9], [1e18, 1e19, 1e20]))
    rate = 1e-3 * (n / 1e8) ** -0.3 * (c / 1e19) ** -0.1 * np.exp(0.15 * draw.standard_normal(9))
    rows = pd.DataFrame({"parameters": n, "compute": c, "setting": rate})
    found = settings_group(rows, from_losses=False)
    for name, truth in (("p_N", -0.3), ("p_C", -0.1)):
        tally.add(name, truth, found["parameters"][name], found["intervals"][name])


def gates(count: int) -> Study:
    """One change at so many gates; noise of 1% of the loss above E."""

    def study(draw: Generator, refits: int, seed: int, tally: Tally) -> None:
        compute = np.tile(np.geomspace(1e18, 1e20, count), 2)
        group = np.repeat(["a", "b"], count)
        times = np.where(group == "b", 1.3, 1.0)
        above = 1.6 * (compute * times / 1e18) ** -0.12
        above *= np.exp(0.01 * draw.standard_normal(2 * count))
        rows = pd.DataFrame({"compute": compute, "group": group, "loss": 1.7 + above})
        found = speedup(rows.assign(line=range(2, 2 + 2 * count)), 1.7)
        ends = [float(np.log(end)) for end in found["interval"]]
        tally.add("log speed-up", np.log(1.3), np.log(found["speedup"]), ends)

    return study


DESIGNS: dict[str, Study] = {
    **{law: of_law(law) for law in LAWS},
    "chinchilla, E pinned": of_law("chinchilla", ("E",)),
    "chinchilla, E and alpha pinned": of_law("chinchilla", ("E", "alpha")),
    "floor in common": shared_floor,
    "optima": optima,
    "learning rates": rates,
    **{f"speed-up, {count} gates": gates(count) for count in (2, 3, 4)},
}


def kept(path: Path | None) -> dict[tuple[str, int], Tally]:
    """The studies that a file has, by design and number."""
    if path is None or not path.exists():
        return {}
    return {
        (study["design"], study["number"]): Tally(study["rows"], study["without"])
        for study in read_lines(path)
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--refits", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first study")
    parser.add_argument("--only", default="", help="designs whose names hold this")
    parser.add_argument("--to", type=Path, help="file of JSON lines, one a study")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these")
    arguments = parser.parse_args()
    done, end = kept(arguments.to), time.monotonic() + 60 * arguments.minutes
    for name, study in DESIGNS.items():
        if arguments.only not in name:
            continue
        tally = Tally()
        for number in range(arguments.first, arguments.first + arguments.studies):
            mine = done.get((name, number))
            if mine is None and time.monotonic() < end:
                mine = Tally()
                draw = np.random.default_rng([len(name), number])
                study(draw, arguments.refits, number, mine)
                if arguments.to is not None:
                    with LineWriter(arguments.to) as file:
                        file.write({"design": name, "number": number} | asdict(mine))
            if mine is not None:
                tally.join(mine)
        tally.show(name)


if __name__ == "__main__":
    main()
