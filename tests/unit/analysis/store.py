"""Writes runs into a real MLflow store as the recorder does."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow.entities import Metric as MlflowMetric
from mlflow.entities import Param
from mlflow.tracking import MlflowClient

from cola.records import (
    NO_LIKELIHOOD,
    RATE,
    SCHEMA_VERSION,
    SOLVER_DIFFERENCE,
    Artifact,
    Metric,
    Tag,
)
from tests.stores import new_store

KINDS = {"ar": "exact", "llada": "bound", "cola": "bound"}
LEVELS = {"ar": 4.0, "llada": 5.5, "cola": 9.0}
BUDGETS = (1e12, 2e12, 4e12, 8e12)


class Store:
    """Writes runs as the recorder does, through MLflow's own client."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, new_store(folder / "mlflow.db")
        self.client = MlflowClient(tracking_uri=self.uri)
        self.count = 0

    def experiment(self, study: str) -> str:
        found = self.client.get_experiment_by_name(study)
        if found:
            return str(found.experiment_id)
        location = (self.folder / "artifacts").as_uri()
        return str(self.client.create_experiment(study, artifact_location=location))

    def run(
        self,
        study: str,
        family: str,
        rung: int,
        level: float | None = None,
        lines: dict[str, float] | None = None,
        test: float | None = None,
        solver_difference: float | None = 0.001,
        **changes: str,
    ) -> str:
        """Write a finished run; returns its id. `lines`: what guesses without a model give.

        `test`: how much higher the NLL is on the test split; None: it was not tested.
        `solver_difference`: of Cola DLM's likelihood, in nats a latent.
        """
        self.count += 1
        budget = BUDGETS[rung]
        tags = {
            Tag.STUDY: study,
            Tag.FAMILY: family,
            Tag.RUN_KEY: f"{family}-{rung}",
            Tag.RUNG: str(rung),
            Tag.BUDGET: repr(budget),
            Tag.SEED: "66",
            Tag.STATUS: "finished",
            Tag.NLL_KIND: KINDS[family],
            Tag.COMPUTE: "executed",
            Tag.CORE_PARAMETERS: str(200_000 + rung),
            Tag.EMBEDDING_PARAMETERS: "100000",
            Tag.TOTAL_PARAMETERS: "300000",
            Tag.DATA_ORDER: json.dumps({"1": "a", "64": "b"}),
            Tag.SCHEMA_VERSION: SCHEMA_VERSION,
        } | changes
        created = self.client.create_run(
            self.experiment(study), tags=tags, run_name=f"{family}-{budget:.3g}-seed66",
            start_time=self.count,
        )  # fmt: skip
        metrics = []
        for part in (1, 2):
            step, flops = 50 * part, 0.99 * budget * part / 2
            nll = (level or LEVELS[family]) * (flops / 1e12) ** -0.05
            values = {
                Metric.TRAIN_LOSS: nll + 0.1,
                Metric.TOKENS: step * 100.0,
                Metric.TRAIN_FLOPS_EXECUTED: flops,
                Metric.TRAIN_FLOPS_NOMINAL: 0.8 * flops,
                Metric.NLL: nll,
                Metric.NLL_STANDARD_ERROR: 0.02,
                Metric.BITS_PER_BYTE: nll / 2.3,
                Metric.ELAPSED_SECONDS: 10.0 * part,
                Metric.TOKENS_PER_SECOND: 5000.0,
            }
            if family == "cola" and part == 2:
                values[Metric.diagnostic("log_snr")] = 4.0 + rung
            if part == 2 and test is not None:
                values |= {
                    Metric.TEST_NLL: nll + test,
                    Metric.TEST_NLL_STANDARD_ERROR: 0.03,
                    Metric.TEST_BITS_PER_BYTE: (nll + test) / 2.3,
                    Metric.on_test(Metric.CLUSTERS): 9.0,
                    Metric.TEST_SEQUENCES: 32.0,
                }
            if family == "cola" and solver_difference is not None:
                values[Metric.val(SOLVER_DIFFERENCE)] = solver_difference
                values |= {Metric.val_nats(RATE): 0.7, Metric.val_error(RATE): 0.02}
            if part == 2:
                values |= {Metric.accuracy(f"task{t}"): 0.2 + 0.05 * rung + 0.1 * t for t in (1, 2)}
            if tags[Tag.NLL_KIND] == NO_LIKELIHOOD:
                scores = (Metric.NLL, Metric.NLL_STANDARD_ERROR, Metric.BITS_PER_BYTE)
                values = {name: value for name, value in values.items() if name not in scores}
            metrics += [MlflowMetric(name, value, part, step) for name, value in values.items()]
        for name, value in (lines or {}).items():
            metrics.append(MlflowMetric(Metric.reference(name), value, 2, 100))
            if test is not None:
                key = Metric.on_test(Metric.reference(name))
                metrics.append(MlflowMetric(key, value + 1, 2, 100))
        params = [Param("stages.0.steps", "100")]
        self.client.log_batch(created.info.run_id, metrics=metrics, params=params)
        sample = {"family": family, "step": 100, "prompt": "<b>def", "continuation": " f(): pass",
                  "reference": "x"}  # fmt: skip
        self.client.log_text(created.info.run_id, json.dumps(sample), Artifact.SAMPLES)
        self.client.log_text(created.info.run_id, '{"python": "3.11"}', Artifact.ENVIRONMENT)
        return str(created.info.run_id)
