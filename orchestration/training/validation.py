"""Validation during training: fixed sequences and noise, shared out over the workers."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from torch import Tensor, nn

from cola.data import PreparedData, Split
from cola.evaluation.clusters import clustered_mean
from cola.evaluation.pair_accuracy import PictureRecord, caption_in, pair_accuracy
from cola.evaluation.topic_probe import topic_probe
from cola.families.interface.family import Family
from cola.families.registry import has_likelihood
from cola.hidden_topics.truth import true_nll
from cola.image_captions.png import data_uri
from cola.records import EXCESS, VALIDATION_SEED, Metric, SampleRecord
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from cola.study import RunSpec
from orchestration.training.distributed import gather_objects
from orchestration.training.train_loop import TrainState

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 8  # chosen: sequences of one forward pass
POOLED = "pooled/"  # begins the names of rows' values that only all sequences together give meaning


def evaluation_steps(run: RunSpec) -> list[int]:
    """Steps after which the run is evaluated: `points` of them, evenly spaced, up to the end.

    Points before the last stage are left out: only the last stage trains the whole model.
    """
    points = run.evaluation.points
    first = run.steps - run.stages[-1].steps
    steps = {run.step_at((point + 1) / points) for point in range(points)}
    return sorted(step for step in steps if step > first)


@torch.no_grad()
def validation_rows(state: TrainState, data: PreparedData) -> dict[int, dict[str, float]]:
    """Likelihood rows of the run's fixed sequences, by id; the same on every worker."""
    return _scored(state, data, "validation")


@torch.no_grad()
def final_rows(state: TrainState, data: PreparedData) -> dict[int, dict[str, float]]:
    """Likelihood rows of as many sequences of the test split, as far as it has them."""
    return _scored(state, data, "test")


def _scored(state: TrainState, data: PreparedData, split: Split) -> dict[int, dict[str, float]]:
    count = state.run.evaluation.validation_sequences
    ids = np.arange(count if split == "validation" else min(count, len(data.split(split))))
    if not len(ids):
        return {}
    log.debug("step %d: %d sequences of the %s split", state.step, len(ids), split)
    state.engine.module.eval()
    rows = gathered_rows(state, data, ids, split=split)
    state.engine.module.train()
    return {int(i): rows[int(i)] for i in ids}


def summary_of(
    rows: dict[int, dict[str, float]],
    data: PreparedData,
    family: Family,
    *,
    split: Split = "validation",
) -> dict[str, float]:
    """NLL in nats per token and bits per byte, where the model has a likelihood, and the rest, from
    likelihood rows by sequence id.

    Standard errors (of what is in nats per token) are over documents: they measure how well these
    represent the corpus, not how tight a bound is. Metrics of the test split have their own names.
    """
    ids, packed = np.array(list(rows)), data.split(split)
    documents_B = packed.documents_of(ids)
    metrics = {Metric.CLUSTERS: float(len(set(documents_B.tolist())))}
    if "nll" in rows[ids[0]]:
        nll_B = np.array([row["nll"] for row in rows.values()])
        total_nats = float(nll_B.sum() * packed.sequence_length)
        total_bytes = int(packed.bytes_of(ids).sum())
        found = clustered_mean(nll_B, documents_B)
        metrics = {
            Metric.NLL: found.mean,
            Metric.NLL_STANDARD_ERROR: found.standard_error,
            Metric.BITS_PER_BYTE: total_nats / math.log(2) / total_bytes,
            Metric.CLUSTERS: float(found.clusters),
        }
    pooled = {}
    for name in sorted(rows[ids[0]].keys() - {"nll"}):
        values_B = np.array([row[name] for row in rows.values()])
        if name.startswith(POOLED):
            pooled[name.removeprefix(POOLED)] = float(values_B.mean())
            continue
        metrics[Metric.val(name)] = float(values_B.mean())
        measured = name.removesuffix("_nats_per_token")
        if measured != name:
            error = clustered_mean(values_B, documents_B).standard_error
            metrics[Metric.val_error(measured)] = error
    metrics |= {Metric.val(name): value for name, value in family.pooled_metrics(pooled).items()}
    if split == "test":
        return {Metric.on_test(key): value for key, value in metrics.items()} | {
            Metric.TEST_SEQUENCES: float(len(ids))
        }
    return metrics


def gathered_rows(
    state: TrainState, data: PreparedData, ids: np.ndarray, *, split: Split = "validation"
) -> dict[int, dict[str, float]]:
    """Likelihood rows of all those sequences of a split, by id, on every worker (collective)."""
    worker = state.worker
    share = -(-len(ids) // worker.world_size)
    # ZeRO 3 gathers weights in each forward pass, so every worker makes equally many: the last one
    # repeats sequences to fill its share, and equal ids give equal numbers.
    mine = np.resize(ids, share * worker.world_size)[
        worker.rank * share : (worker.rank + 1) * share
    ]
    rows: dict[int, dict[str, float]] = {}
    for start in range(0, share, ROWS_AT_ONCE):
        part = mine[start : start + ROWS_AT_ONCE]
        with state.engine.autocast():
            rows.update(
                likelihood_rows(
                    state.family,
                    state.model,
                    state.run.evaluation.likelihood,
                    data=data,
                    ids=part,
                    device=state.engine.device,
                    split=split,
                )
            )
    return {key: row for part in gather_objects(rows, worker) for key, row in part.items()}


def likelihood_rows(
    family: Family,
    model: nn.Module,
    settings: LikelihoodSpec,
    *,
    data: PreparedData,
    ids: np.ndarray,
    device: torch.device,
    split: Split = "validation",
) -> dict[int, dict[str, float]]:
    """NLL and its parts (nats per token), and diagnostics, of a split's sequences by id; of
    generated text also what the NLL exceeds the source's by. Of a model that has no likelihood they
    are `Family.measurements`."""
    rows_BL = data.split(split).rows(ids)
    tokens_BL = torch.from_numpy(rows_BL).to(device)
    stream = Stream(VALIDATION_SEED, 0, [int(i) for i in ids], device=device)
    if not has_likelihood(family.name, family.sizes_of(model), settings):
        return _by_sequence(family.measurements(model, tokens_BL, stream), ids)
    likelihood = family.likelihood(model, tokens_BL, settings, stream=stream)
    nats = {"nll": likelihood.nll_B, **likelihood.parts}
    length = tokens_BL.shape[1]
    values = {name: value / length for name, value in nats.items()}
    if data.source is not None:
        truth_B = torch.from_numpy(true_nll(data.source, rows_BL).mean(1))
        values[f"{EXCESS}_nats_per_token"] = values["nll"].cpu() - truth_B
    values |= likelihood.diagnostics
    values |= {f"{POOLED}{name}": value for name, value in likelihood.pooled.items()}
    return _by_sequence(values, ids)


def _by_sequence(values: dict[str, Tensor], ids: np.ndarray) -> dict[int, dict[str, float]]:
    return {
        int(sequence): {name: float(value[row]) for name, value in values.items()}
        for row, sequence in enumerate(ids)
    }


@torch.no_grad()
def diagnostics(
    family: Family, model: nn.Module, run: RunSpec, *, data: PreparedData
) -> dict[str, float]:
    """The family's diagnostics of a finished model on the validation sequences, by metric."""
    ids = np.arange(min(run.evaluation.diagnostic_sequences, len(data.validation)))
    if len(ids) < 2:  # a probe is fitted on some sequences and scored on others
        return {}
    tokens_BL = torch.from_numpy(data.validation.rows(ids))
    model.eval()
    stream = Stream(VALIDATION_SEED, 0, range(len(ids)))
    values = family.diagnostics(model, tokens_BL, stream)
    images = data.validation.images_of(ids)
    if images is not None:
        values |= family.pair_diagnostics(
            model,
            tokens_BL,
            torch.from_numpy(images),
            settings=run.evaluation.likelihood,
            stream=stream,
        )
    if images is not None and data.pairs is not None:
        values |= pair_accuracy(
            family,
            model,
            tokens_BL,
            torch.from_numpy(images),
            settings=run.evaluation.generation,
            stream=stream,
            tokenizer=data.tokenizer,
            source=data.pairs,
        )
    means_Bbd = None if data.source is None else family.block_means(model, tokens_BL)
    if data.source is not None and means_Bbd is not None:
        found = topic_probe(means_Bbd, tokens_BL, data.source)
        values |= {f"topic_probe/{name}": value for name, value in found.items()}
    return {Metric.diagnostic(name): value for name, value in values.items()}


@torch.no_grad()
def text_samples(
    family: Family, model: nn.Module, run: RunSpec, *, data: PreparedData, step: int
) -> list[SampleRecord]:
    """Continuations of the first validation sequences, with the corpus' text as reference."""
    settings = run.evaluation
    if settings.samples == 0:
        return []
    ids = np.arange(settings.samples) % len(data.validation)
    rows = data.validation.rows(ids)
    cut, tokenizer = settings.prompt_tokens, data.tokenizer
    model.eval()
    generated = family.generate(
        model,
        [row[:cut].tolist() for row in rows],
        settings.generation,
        stream=Stream(VALIDATION_SEED, 0, [int(i) for i in ids]),
        eos_token_id=tokenizer.eos_token_id,
    )
    end = cut + settings.generation.max_new_tokens
    texts = [
        SampleRecord(
            family=run.family,
            step=step,
            prompt=tokenizer.decode(row[:cut].tolist()),
            continuation=tokenizer.decode(new),
            reference=tokenizer.decode(row[cut:end].tolist()),
        )
        for row, new in zip(rows, generated, strict=True)
    ]
    return [*texts, *picture_samples(family, model, run, data=data, step=step)]


def picture_samples(
    family: Family, model: nn.Module, run: RunSpec, *, data: PreparedData, step: int
) -> list[PictureRecord]:
    """Images of the first validation captions, and captions of their images; nothing of a family or
    of a corpus without images."""
    ids = np.arange(min(run.evaluation.samples, len(data.validation)))
    images = data.validation.images_of(ids)
    if images is None:
        return []
    tokens_BL = torch.from_numpy(data.validation.rows(ids))
    settings, stream = run.evaluation.generation, Stream(VALIDATION_SEED, 0, range(len(ids)))
    drawn = family.draw_images(model, tokens_BL, settings, stream=stream)
    written = family.describe_images(
        model, torch.from_numpy(images), tokens_BL.shape[1], settings=settings, stream=stream
    )
    if drawn is None or written is None:
        return []
    captions = [caption_in(row, data.tokenizer) for row in tokens_BL]
    about = {"family": run.family, "step": step}
    blank = {"continuation": "", "reference": ""}
    return [
        *(
            PictureRecord(**about, **blank, prompt=text, image=data_uri(image))
            for text, image in zip(captions, drawn.numpy(), strict=True)
        ),
        *(
            PictureRecord(
                **about,
                prompt="",
                continuation=caption_in(row, data.tokenizer),
                reference=text,
                prompt_image=data_uri(image),
            )
            for row, text, image in zip(written, captions, images, strict=True)
        ),
    ]
