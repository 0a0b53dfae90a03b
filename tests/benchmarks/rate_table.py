"""Rate and distortion of Cola DLM at 2e12 FLOPs on the standard library, beside a recorded table.

    python -m tests.benchmarks.rate_table --out FOLDER [--rows 4 2 12]

Each row is one training of a few minutes on a core (`cola sweep` runs two side by side); the same
command resumes. Printed are bound, distortion and rate with the recorded ones, and the bound's
difference in standard errors of both. Recorded with 24 steps of Heun's method, whose bias is not
corrected, on the same 64 sequences; block sizes were not recorded and are of 16 tokens here.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.sweep_report.rate_profiles import DISTORTION, RATE, RECONSTRUCTION
from cola.records import Metric, TrialFinished
from orchestration.driver.live_screen import LiveScreen
from sweeps.driver.runner import run_sweep
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec

BUDGET, CORE = 2e12, 320_000
BLOCK_TOKENS = 16
KEY = "families.cola"


@dataclass(frozen=True)
class Row:
    """A recorded run: its settings, and what it measured (nats a token)."""

    latent_dim: int
    patch_size: int
    log_snr: float
    learning_rate: float
    bound: float
    error: float
    distortion: float
    rate: float
    stage1_share: float = 0.3

    def settings(self) -> dict[str, Any]:
        """The entry of the study's families."""
        return {
            "latent_dim": self.latent_dim,
            "patch_size": self.patch_size,
            "block_size": BLOCK_TOKENS // self.patch_size,
            "log_snr": self.log_snr,
            "objective": {
                "stage1_share": self.stage1_share,
                "stage2": {"gradient_mode": "detach_target"},
            },
            "training": {"optimizer": {"learning_rate": self.learning_rate}, "ema_decay": 0.99},
        }


TABLE = (
    Row(4, 4, 2.0, 0.014, 5.682, 0.044, 4.91, 0.77),
    Row(4, 4, 2.0, 0.009, 5.697, 0.040, 4.94, 0.76),
    Row(4, 4, 2.0, 0.013, 5.701, 0.041, 4.92, 0.78),
    Row(4, 4, 2.0, 0.015, 5.721, 0.042, 4.97, 0.75),
    Row(3, 2, 2.0, 0.013, 5.731, 0.042, 4.75, 0.98),
    Row(3, 2, 3.0, 0.018, 5.828, 0.046, 4.53, 1.30),
    Row(4, 4, 3.0, 0.017, 5.840, 0.048, 4.74, 1.10),
    Row(4, 2, 2.0, 0.009, 5.855, 0.048, 4.33, 1.53),
    Row(3, 4, 2.0, 0.012, 5.983, 0.040, 5.50, 0.48),
    Row(1, 4, 2.0, 0.015, 6.210, 0.026, 6.21, 0.00),
    Row(4, 1, 2.0, 0.006, 6.393, 0.034, 3.21, 3.19),
    Row(4, 1, 3.0, 0.012, 6.768, 0.034, 2.36, 4.41),
    Row(8, 1, 3.0, 0.032, 10.018, 0.042, 0.38, 9.64, stage1_share=0.5),
)
DEFAULT_ROWS = (0, 7, 10, 8)


def sweep_of(rows: list[Row], folder: Path) -> PointPlanner:
    """A sweep with a trial for each row."""
    sweep = {
        "name": "rate-table",
        "study": "sweep-laptop",
        "set": {
            "ladder": [{"budget": BUDGET, "core_parameters": CORE}],
            "evaluation.likelihood.ode_steps": 24,
            "evaluation.validation_sequences": 64,
            "output": str(folder.resolve()),
        },
        "space": {KEY: [row.settings() for row in rows]},
        "algorithm": {"kind": "grid"},
        "seeds": [66],
    }
    return PointPlanner(SweepSpec.parse(sweep, origin="rate_table"), [])


def line_of(row: Row, outcome: TrialFinished | None) -> str:
    """A row as measured, beside what was recorded."""
    name = f"{row.latent_dim:2d} / {row.patch_size} / {row.log_snr:g} / {row.learning_rate:g}"
    recorded = f"{row.bound:6.3f} {row.distortion:5.2f} {row.rate:5.2f}"
    if outcome is None or outcome.state != "finished":
        why = "not trained" if outcome is None else f"{outcome.state}: {outcome.reason}"
        return f"{name:24s} {recorded}   {why}"
    metrics = outcome.metrics
    bound, error = metrics[Metric.NLL], metrics[Metric.NLL_STANDARD_ERROR]
    distortion = metrics.get(DISTORTION, metrics.get(RECONSTRUCTION, math.nan))
    rate = metrics.get(RATE, bound - distortion)
    apart = (bound - row.bound) / math.hypot(error, row.error)
    within = "within" if abs(apart) <= 2 else "NOT within"
    return (
        f"{name:24s} {recorded}   {bound:6.3f} {distortion:5.2f} {rate:5.2f}  {apart:+5.1f} "
        f"({within} 2 standard errors)  {outcome.wall_seconds:.0f} s"
    )


def main() -> None:
    """Train the rows, or resume, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="*", default=list(DEFAULT_ROWS))
    parser.add_argument("--list", action="store_true", help="print the recorded rows alone")
    arguments = parser.parse_args()
    rows = [TABLE[index] for index in arguments.rows]
    if arguments.list:
        for index, row in enumerate(TABLE):
            print(f"{index:3d}  {line_of(row, None)}")
        return
    planner = sweep_of(rows, arguments.out)
    result = run_sweep(planner, None, LiveScreen())
    log = SweepLog(result.folder)
    print("dim / patch / logSNR / lr   recorded: bound distortion rate; measured; difference")
    for row in rows:
        identity = planner.plan("", {KEY: row.settings()}).identity
        request = log.with_identity(identity)
        print(line_of(row, None if request is None else log.outcomes.get(request.trial)))


if __name__ == "__main__":
    main()
