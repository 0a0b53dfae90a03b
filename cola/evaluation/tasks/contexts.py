"""The likelihood of sequences that are longer than those of training, within and beyond that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cola.evaluation.clusters import (
    cluster_numbers,
    clustered_mean,
    with_error,
    with_half_interval,
)
from cola.evaluation.items import Id
from cola.evaluation.tasks.likelihood import LikelihoodTask
from cola.evaluation.tasks.task import Record, TaskResult
from cola.spec import LikelihoodSpec


class ContextLikelihoodTask(LikelihoodTask):
    """`LikelihoodTask` of long sequences of a model that was trained on `trained` tokens."""

    def __init__(
        self,
        rows_NL: np.ndarray,
        bytes_N: np.ndarray,
        settings: LikelihoodSpec,
        *,
        seed: int,
        documents_N: np.ndarray,
        trained: int,
    ) -> None:
        super().__init__(rows_NL, bytes_N, settings, seed=seed, documents_N=documents_N)
        self._trained = trained

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`: with nats per token in the second half of the training length
        (`nll_within`), behind it (`nll_beyond`), in each stretch that doubles it, and what is paid
        more beyond than within, with the half of its 95% interval over documents.

        Where a family does not say what each place costs, the result is that of the sequences.
        """
        result = super().summary(records)
        positions = [record["by_position"] for record in records.values()]
        if None in positions:
            return result
        nats_BL = np.array(positions)
        clusters_B = cluster_numbers(list(records), result.clusters)
        within_B, beyond_B = (
            nats_BL[:, self._trained // 2 : self._trained].mean(1),
            nats_BL[:, self._trained :].mean(1),
        )
        columns = {"nll_within": within_B, "nll_beyond": beyond_B}
        for start, stop in stretches(self._trained, nats_BL.shape[1]):
            columns[f"nll_from_{start}_to_{stop}"] = nats_BL[:, start:stop].mean(1)
        metrics = dict(result.metrics)
        for name, values_B in columns.items():
            metrics |= with_error(name, clustered_mean(values_B, clusters_B))
        more = clustered_mean(beyond_B - within_B, clusters_B)
        metrics |= with_half_interval("nll_more_beyond", more)
        return replace(result, metrics=metrics)


def stretches(trained: int, length: int) -> list[tuple[int, int]]:
    """[start, stop) of places behind the training length, each stretch up to twice its start."""
    found, start = [], trained
    while start < length:
        found.append((start, min(2 * start, length)))
        start *= 2
    return found
