"""Do 95% intervals and bands of `cola fit` hold what they claim? Simulated studies, public data.

    python -m tests.benchmarks.law_coverage [--studies 100] [--refits 200] [--only NAME]

Studies of the law L = E + A/N^alpha + B/D^beta with known parameters: grids of sizes and budgets
under normal, t3 and spiked noise, seeds and checkpoints as `--run`, the multiplier of two groups.
Then laws fitted to the smaller budgets of public tables, and how many of the larger ones their 95%
prediction bands hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.table import Columns, read_table
from analysis.table_fit.comparison import compare_pair
from analysis.table_fit.law_group import LawGroup, law_group
from analysis.table_fit.request import Request
from cola.errors import FitError

E, A, B, ALPHA, BETA = 1.80, 450.0, 2000.0, 0.345, 0.365
EXPONENT = BETA / (ALPHA + BETA)
NOISE = 0.003
DATA = Path(__file__).parents[1] / "data" / "scaling"
Generator = np.random.Generator


def loss_at(n: Any, d: Any, times: float = 1.0) -> Any:
    """The true loss; `times`: how many times less compute a better family needs."""
    return E + A / (n * times**EXPONENT) ** ALPHA + B / (d * times ** (1 - EXPONENT)) ** BETA


def best_size(compute: Any) -> Any:
    """N* at C = 6 N D."""
    scale = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return scale * (compute / 6) ** EXPONENT


def drawn(count: int, draw: Generator, kind: str = "normal") -> np.ndarray:
    """Noise of log loss: normal, Student's t3 of the same scale, or normal with 5% spikes up."""
    if kind == "t3":
        return NOISE * draw.standard_t(3, count)
    noise = NOISE * draw.standard_normal(count)
    if kind == "spikes":
        noise += (draw.random(count) < 0.05) * draw.uniform(0.02, 0.06, count)
    return noise


def table(n: np.ndarray, d: np.ndarray, loss: np.ndarray, **more: Any) -> pd.DataFrame:
    """Rows as `cola fit` reads them."""
    compute = 6 * n * d
    columns = {"loss": loss, "parameters": n, "tokens": d, "compute": compute}
    return pd.DataFrame({**columns, "budget": np.round(np.log(compute), 2), **more})


def grid(sizes: int, budgets: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes within a factor 4 of the best at budgets over two and a half decades."""
    compute = np.repeat(np.geomspace(1e18, 3e20, budgets), sizes)
    n = best_size(compute) * np.tile(np.geomspace(0.25, 4, sizes), budgets)
    return n, compute / (6 * n)


@dataclass
class Tally:
    """How often each interval held its truth, and its width."""

    held: dict[str, list[bool]] = field(default_factory=dict)
    width: dict[str, list[float]] = field(default_factory=dict)
    without: int = 0

    def add(self, name: str, truth: float, interval: list[float] | None) -> None:
        """One interval; one without ends counts apart."""
        if not interval or any(end is None or np.isnan(end) for end in interval):
            self.without += 1
            return
        self.held.setdefault(name, []).append(bool(interval[0] <= truth <= interval[1]))
        self.width.setdefault(name, []).append(float(interval[1] - interval[0]))

    def show(self, name: str) -> None:
        """One line a design."""
        parts = [
            f"{key} {np.mean(held):.3f} (width {np.median(self.width[key]):.3g})"
            for key, held in self.held.items()
        ]
        missing = f"; {self.without} intervals not given" if self.without else ""
        print(f"{name:>36}: {', '.join(parts)}{missing}", flush=True)


def asked(refits: int, seed: int, *places: dict[str, float], law: str = "chinchilla") -> Request:
    """The command's defaults."""
    return Request(law, "huber", refits, seed, None, tuple(places))


def parameters(tally: Tally, found: LawGroup) -> None:
    """a, alpha and E of one study."""
    result = found.result
    ends = {**result["intervals"], **result.get("derived_intervals", {})}
    for name, truth in (("a", EXPONENT), ("alpha", ALPHA), ("E", E)):
        tally.add(name, truth, ends.get(name))


def plane(sizes: int, budgets: int, kind: str) -> Callable[[Generator, int, int, Tally], None]:
    """One run a point."""

    def study(draw: Generator, refits: int, seed: int, tally: Tally) -> None:
        n, d = grid(sizes, budgets)
        rows = table(n, d, loss_at(n, d) * np.exp(drawn(len(n), draw, kind)))
        compute = 10 * float(rows["compute"].max())
        size = float(best_size(compute))
        place = {"n": size, "d": compute / (6 * size)}
        found = law_group(rows, asked(refits, seed, place), seed)
        parameters(tally, found)
        (prediction,) = found.result["predictions"]
        truth = float(loss_at(**place))
        new = truth * float(np.exp(drawn(1, draw, kind)[0]))
        tally.add("loss at 10x", truth, prediction.get("confidence_interval"))
        tally.add("new run at 10x", new, prediction.get("prediction_interval"))

    return study


def seeds(count: int) -> Callable[[Generator, int, int, Tally], None]:
    """Five sizes by four budgets with seeds, and the seed given as the run."""

    def study(draw: Generator, refits: int, seed: int, tally: Tally) -> None:
        n, d = (np.tile(axis, count) for axis in grid(5, 4))
        rows = table(n, d, loss_at(n, d) * np.exp(drawn(len(n), draw)))
        rows["run"] = np.repeat(np.arange(count), 20).astype(str)
        parameters(tally, law_group(rows, asked(refits, seed), seed))

    return study


def checkpoints(runs: int) -> Callable[[Generator, int, int, Tally], None]:
    """Six checkpoints a run; a run's noise of 0.5% in common, a checkpoint's of 0.1%."""

    def study(draw: Generator, refits: int, seed: int, tally: Tally) -> None:
        n = np.repeat(np.geomspace(1.5e7, 1e9, runs), 6)
        d = np.tile(np.geomspace(6e8, 6e10, 6), runs)
        noise = np.repeat(0.005 * draw.standard_normal(runs), 6) + 0.001 * draw.standard_normal(
            len(n)
        )
        rows = table(n, d, loss_at(n, d) * np.exp(noise))
        rows["run"] = np.repeat(np.arange(runs), 6).astype(str)
        parameters(tally, law_group(rows, asked(refits, seed), seed))

    return study


def multiplier(draw: Generator, refits: int, seed: int, tally: Tally) -> None:
    """Two groups of eight sizes by six budgets; the second needs 1.5 times less compute."""
    n, d = grid(8, 6)
    found = []
    for group, times in enumerate((1.0, 1.5)):
        rows = table(n, d, loss_at(n, d, times) * np.exp(drawn(len(n), draw)))
        found.append(law_group(rows, asked(refits, seed), seed + 1000 * group).frontier)
    compared = compare_pair(*found)
    tally.add("log multiplier", np.log(1.5), list(np.log(compared["interval"])))


DESIGNS: dict[str, Callable[[Generator, int, int, Tally], None]] = {
    **{f"8 sizes x 6 budgets, {kind}": plane(8, 6, kind) for kind in ("normal", "spikes")},
    **{f"5 sizes x 4 budgets, {kind}": plane(5, 4, kind) for kind in ("normal", "t3", "spikes")},
    **{f"5 x 4, {count} seeds, --run seed": seeds(count) for count in (2, 3, 5)},
    **{f"{runs} runs x 6 checkpoints, --run": checkpoints(runs) for runs in (4, 5, 6, 8, 12, 20)},
    "two groups, 8 x 6, multiplier": multiplier,
}


def public_sets() -> dict[str, pd.DataFrame]:
    """Public tables by name."""
    columns = Columns(n="params", compute="flops")
    figure = read_table(DATA / "chinchilla.csv", columns, 5).rows
    columns = Columns(n="params", d="tokens", compute="flops", group="family", budget="budget")
    return {"chinchilla": figure, **read_table(DATA / "two_families.csv", columns).groups()}


def held_out(law: str, refits: int) -> None:
    """Of each public set: fitted below a compute, judged on all that lies above."""
    inside: list[bool] = []
    for name, rows in public_sets().items():
        logs = np.log10(rows["compute"].to_numpy(float))
        seen = 0
        for top in np.quantile(logs, (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)):
            train, test = rows[logs <= top + 0.02], rows[logs > top + 0.02]
            # A budget that straddles two cuts would count twice.
            if len(train) < max(10, 1.05 * seen) or test.empty:
                continue
            seen = len(train)
            places = [{"n": n, "d": d} for n, d in test[["parameters", "tokens"]].to_numpy(float)]
            if law.startswith("compute"):
                places = [{"c": c} for c in test["compute"].to_numpy(float)]
            try:
                found = law_group(train, asked(refits, 0, *places, law=law), 0).result
            except FitError as error:
                print(f"{law} {name} below 1e{top:.1f}: {error}")
                continue
            ends = [p["prediction_interval"] for p in found["predictions"]]
            held = [
                low <= loss <= high for (low, high), loss in zip(ends, test["loss"], strict=True)
            ]
            built = found["prediction_intervals"]
            error = np.mean(
                [
                    abs(p["loss"] / y - 1)
                    for p, y in zip(found["predictions"], test["loss"], strict=True)
                ]
            )
            print(
                f"{law} {name:>10} below 1e{top:.1f}: {sum(held)} of {len(held)} held, widened "
                f"{built['widening']:.2f} times ({built['folds']} splits), mean error {error:.2%}"
            )
            inside += held
    print(f"{law}: 95% bands hold {np.mean(inside):.1%} of {len(inside)} held-out points")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--refits", type=int, default=200)
    parser.add_argument("--only", default="", help="designs whose names hold this, or `public`")
    arguments = parser.parse_args()
    for name, study in DESIGNS.items():
        if arguments.only not in name:
            continue
        draw, tally = np.random.default_rng(len(name)), Tally()
        for number in range(arguments.studies):
            study(draw, arguments.refits, number, tally)
        tally.show(name)
    if arguments.only in "public":
        for law in ("chinchilla", "tied"):
            held_out(law, arguments.refits)


if __name__ == "__main__":
    main()
