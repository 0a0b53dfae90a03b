"""The folder of a rate sweep whose best rates are known: R* = 0.8 (C / 1e12)^exponent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cola.records import RunResult, TrialFinished, TrialRequested

DIM, RATE_KEY = "families.cola.latent_dim", "training.optimizer.learning_rate"
NLL, ACCURACY = "val/nll_nats_per_token", "continuation/token_accuracy"
DIMS = (2, 3, 4, 6, 8, 12)
BUDGETS = (2.5e11, 5e11, 1e12, 2e12)


def best_rate(budget: float, exponent: float) -> float:
    return float(0.8 * (budget / 1e12) ** exponent)


def measured(
    budget: float, rate: float, *, exponent: float, noise: float, generation: float
) -> dict[str, float]:
    """A parabola in log rate for the bound, and one for the accuracy at `generation` times R*."""
    best = best_rate(budget, exponent)
    bound = 5.6 * (budget / 1e12) ** -0.05 + 0.3 * np.log(rate / best) ** 2 + noise
    accuracy = 0.3 - 0.05 * np.log(rate / (generation * best)) ** 2 - noise
    return {NLL: float(bound), "val/reconstruction": float(bound - rate), ACCURACY: float(accuracy)}


def write_rate_sweep(
    folder: Path,
    *,
    budgets: tuple[float, ...] = BUDGETS,
    dims: tuple[int, ...] = DIMS,
    exponent: float = 0.4,
    noise: float = 0.01,
    generation: float = 1.0,
    seed: int = 0,
    learning_rates: tuple[float, ...] = (0.01,),
    start: float = 1000.0,
    scale: float = 0.2,
    first: int = 1,
) -> Path:
    """Trials of a grid, the rate `scale` nats a dimension; a wrong learning rate costs 0.5."""
    draws = np.random.default_rng(seed)
    goals = [{"name": NLL, "direction": "minimize"}, {"name": ACCURACY, "direction": "maximize"}]
    spec: dict[str, Any] = {
        "name": "rates", "question": "Which rate?", "description": "", "arms": {},
        "space": {"ladder": None, DIM: None, RATE_KEY: None}, "metrics": goals,
        "answer": {"kind": "rate", "forecast": True}, "budget": {"trials": None},
        "algorithm": {"kind": "grid"}, "scheduler": {"kind": "none"},
    }  # fmt: skip
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"sweep": spec, "study": {}}))
    lines, number = [], first
    for budget in budgets:
        for dim in dims:
            for learning_rate in learning_rates:
                values = measured(
                    budget, scale * dim, exponent=exponent, generation=generation,
                    noise=noise * draws.standard_normal() + 0.5 * (learning_rate != 0.01),
                )  # fmt: skip
                ladder = [{"budget": budget, "core_parameters": 300_000}]
                point = {"ladder": ladder, DIM: dim, RATE_KEY: learning_rate}
                key = f"k{number}"
                run = RunResult(name=key, run_key=key, family="cola", seed=66, state="finished",
                                reason=None, reused=False, metrics=values)  # fmt: skip
                lines.append(TrialRequested(trial=number, arm="", point=point, identity=key,
                                            run_keys=[key], time=start + number))  # fmt: skip
                lines.append(TrialFinished(
                    trial=number, state="finished", reason=None, metrics=values, runs=[run],
                    wall_seconds=20.0, working_seconds=12.0, training_seconds=10.0, flops=budget,
                    accelerator_hours=0.1, time=start + number + 1,
                ))  # fmt: skip
                number += 1
    with (folder / "trials.jsonl").open("a") as file:
        file.writelines(line.model_dump_json() + "\n" for line in lines)
    return folder
