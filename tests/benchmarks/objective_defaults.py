"""The demo's Cola DLM with one setting of its objective changed at a time, at its tuned rate.

    python -m tests.benchmarks.objective_defaults --out FOLDER [--budget 1e12] [--rates 1.2e-2 6e-3]

Each row is a training of a minute on a core (`cola sweep` runs two side by side), at every one of
the rates, of which the best counts; the same command resumes. Printed are the bound on validation
text, its difference from the defaults' with the standard error of one run, distortion and rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.sweep_report.rate_profiles import DISTORTION, RATE
from cola.records import Metric, TrialFinished
from cola.spec import load_yaml
from orchestration.driver.live_screen import LiveScreen
from orchestration.planning.catalog import shipped_studies
from sweeps.driver.runner import run_sweep
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec

CORE = 250_000
OBJECTIVE, RATES = "families.cola.objective", "families.cola.training.optimizer.learning_rate"
CHANGES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "beta=0": {"stage1": {"beta": 0.0}},
    "beta=1e-5": {"stage1": {"beta": 1e-5}},
    "beta=1e-3": {"stage1": {"beta": 1e-3}},
    "beta=1e-2": {"stage1": {"beta": 1e-2}},
    "lambda_mask=0": {"stage1": {"lambda_mask": 0.0}},
    "lambda_mask=1": {"stage1": {"lambda_mask": 1.0}},
    "mask_rate=0.3": {"stage1": {"mask_rate": 0.3}},
    "stage1_share=0.15": {"stage1_share": 0.15},
    "stage1_share=0.5": {"stage1_share": 0.5},
    "frozen_vae": {"stage2": {"gradient_mode": "frozen_vae"}},
    "joint": {"stage2": {"gradient_mode": "joint"}},
    "joint lambda_ref=1": {"stage2": {"gradient_mode": "joint", "lambda_ref": 1.0}},
    "scratch": {"stage2": {"gradient_mode": "scratch"}},
    "lambda_fm=3": {"stage2": {"lambda_fm": 3.0}},
    "vae_lr_ratio=0.3": {"stage2": {"vae_lr_ratio": 0.3}},
    "uniform times": {"stage2": {"timestep": {"kind": "uniform"}}},
    "timestep_loc=0": {"stage2": {"timestep": {"kind": "logit_normal", "timestep_loc": 0.0}}},
    "stratified": {"stage2": {"stratified": True}},
    "likelihood times": {"stage2": {"timestep": {"kind": "likelihood"}, "stratified": True}},
    "learned times": {
        "stage2": {"timestep": {"kind": "likelihood", "learned": True}, "stratified": True}
    },
    "self_conditioning=0.5": {"stage2": {"self_conditioning": 0.5}},
    "stage2.lambda_mask=0": {"stage2": {"lambda_mask": 0.0}},
    "prompt_block_probability=0": {"stage2": {"prompt_block_probability": 0.0}},
}


def changed(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The objective with these settings in place of its own."""
    result = dict(base)
    for key, value in change.items():
        result[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
    return result


def sweep_of(names: Sequence[str], rates: Sequence[float], *, budget: float, out: Path) -> Any:
    """A sweep with a trial for each row and rate."""
    cola = load_yaml(shipped_studies()["demo"])["families"]["cola"]
    base = cola["objective"]
    sweep = {
        "name": "objective-defaults",
        "study": "demo",
        "set": {
            "families": {"cola": cola},
            "ladder": [{"budget": budget, "core_parameters": CORE}],
            "evaluation.points": 1,
            "evaluation.samples": 0,
            "evaluation.tasks": [],
            "evaluation.validation_sequences": 128,
            "output": str(out.resolve()),
        },
        "space": {
            OBJECTIVE: [changed(base, CHANGES[name]) for name in names],
            RATES: list(rates),
        },
        "algorithm": {"kind": "grid"},
        "seeds": [66],
    }
    return PointPlanner(SweepSpec.parse(sweep, origin="objective_defaults"), [])


def bound_of(outcome: TrialFinished | None) -> float:
    """The bound of a trial; infinite where it has none."""
    if outcome is None or outcome.state != "finished":
        return float("inf")
    return outcome.metrics[Metric.NLL]


def main() -> None:
    """Train the rows, or resume, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=1e12)
    parser.add_argument("--rates", type=float, nargs="+", default=[1.2e-2])
    parser.add_argument("--rows", nargs="*", default=list(CHANGES), choices=list(CHANGES))
    arguments = parser.parse_args()
    names, rates = arguments.rows, arguments.rates
    planner = sweep_of(names, rates, budget=arguments.budget, out=arguments.out)
    log = SweepLog(run_sweep(planner, None, LiveScreen()).folder)
    ended = {request.identity: outcome for request, outcome in log.ended_trials("")}
    best: dict[str, TrialFinished | None] = {}
    for name, value in zip(names, planner.sweep.space[OBJECTIVE].values, strict=True):
        points = [planner.plan("", {OBJECTIVE: value, RATES: rate}) for rate in rates]
        best[name] = min((ended.get(point.identity) for point in points), key=bound_of)
    reference = bound_of(best.get("defaults"))
    print("setting                        bound    from the defaults   distortion    rate")
    for name, outcome in best.items():
        if outcome is None or outcome.state != "finished":
            print(f"{name:28s} {'not trained' if outcome is None else outcome.reason}")
            continue
        m = outcome.metrics
        print(
            f"{name:28s} {m[Metric.NLL]:7.3f}   {m[Metric.NLL] - reference:+.3f} "
            f"(one run: ±{m[Metric.NLL_STANDARD_ERROR]:.3f})   "
            f"{m.get(DISTORTION, float('nan')):6.3f}   {m.get(RATE, float('nan')):6.3f}"
        )


if __name__ == "__main__":
    main()
