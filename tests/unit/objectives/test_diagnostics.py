"""Diagnostics of a VAE trained for a moment on tiny text, and of models with known defects."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cola.families.cola.spec import ColaObjective
from cola.families.interface.family import Batch
from cola.families.registry import family_of
from cola.models.cola_dlm import ColaDLM
from cola.objectives.diagnostics import (
    WAYS,
    active_units,
    context_probe,
    flow_diagnostics,
    flow_matching_by_time,
    interpolation,
    latent_diagnostics,
    latent_smoothness,
    log_snr,
    posterior_of,
    reconstruction_accuracy,
)
from cola.objectives.flow_matching import flow_matching_loss
from cola.seeding import Stream
from cola.spec.objectives import VAEObjective
from tests.sizes import size_model

LENGTH, WIDTH, STEPS = 32, 8, 300


def stream(rows: int, step: int = 0) -> Stream:
    return Stream(7, step, range(rows))


@pytest.fixture(scope="module")
def corpus_tokens(corpus_file: Path) -> Tensor:
    """The tiny corpus as letters."""
    text = corpus_file.read_text()
    index = {letter: place for place, letter in enumerate(sorted(set(text)))}
    ids = torch.tensor([index[letter] for letter in text])
    return ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)


@pytest.fixture(scope="module")
def untrained(corpus_tokens: Tensor) -> ColaDLM:
    torch.manual_seed(0)
    vocabulary = int(corpus_tokens.max()) + 1
    spec = size_model("cola", 60_000, vocabulary, latent_dim=WIDTH, block_size=8, vae_share=0.5)
    model: ColaDLM = family_of("cola").build(spec)
    return model


@pytest.fixture(scope="module")
def model(untrained: ColaDLM, corpus_tokens: Tensor) -> ColaDLM:
    """Stage 1 for a few hundred steps."""
    trained = copy.deepcopy(untrained)
    objective = ColaObjective(stage1=VAEObjective(lambda_mask=0.0))
    module = family_of("cola").stage_module(trained, objective, "vae")
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for step in range(STEPS):
        rows = corpus_tokens[(step * 16) % 2048 :][:16]
        batch = Batch(rows, stream(len(rows), step), list(range(len(rows))), len(rows))
        optimizer.zero_grad()
        module(**module.draw(batch))["loss"].backward()
        optimizer.step()
    return trained


@pytest.fixture(scope="module")
def held_out(corpus_tokens: Tensor) -> Tensor:
    return corpus_tokens[2048 : 2048 + 128]


def test_a_text_is_lost_on_the_way_to_another(model: ColaDLM, held_out: Tensor) -> None:
    found = interpolation(model, held_out)
    assert found[0.0] == reconstruction_accuracy(model, held_out, stream(128))["mean"]
    assert [found[way] for way in WAYS] == sorted(found.values(), reverse=True)
    # At the other end what is left is where the two texts have the same letter.
    same = float((held_out == held_out.roll(-1, dims=0)).double().mean())
    assert found[1.0] == pytest.approx(same, abs=0.03)


def test_reconstruction_is_learned(model: ColaDLM, untrained: ColaDLM, held_out: Tensor) -> None:
    found = reconstruction_accuracy(model, held_out, stream(128))
    assert found["mean"] > 0.97
    assert 0.9 < found["sample"] <= found["mean"] + 0.01
    assert reconstruction_accuracy(untrained, held_out, stream(128))["mean"] < 0.5


def test_active_units_drop_with_a_dimension_that_ignores_the_text(
    model: ColaDLM, held_out: Tensor
) -> None:
    assert active_units(model, held_out) == {"count": WIDTH, "fraction": 1.0}
    broken = copy.deepcopy(model)
    broken.vae.config.encoder_last_ln = False
    whole = active_units(broken, held_out)["count"]
    with torch.no_grad():
        broken.vae.encoder.final_layer.weight[2].zero_()
    assert active_units(broken, held_out)["count"] == whole - 1


def test_log_snr_per_dimension(model: ColaDLM, held_out: Tensor) -> None:
    found = log_snr(model, held_out)
    assert isinstance(found["overall"], float)
    assert isinstance(found["per_dimension"], list)
    assert len(found["per_dimension"]) == WIDTH
    assert min(found["per_dimension"]) < found["overall"] < max(found["per_dimension"])
    louder = copy.deepcopy(model)
    with torch.no_grad():  # sigma of dimension 1 grows by e: its logSNR falls by 2
        louder.vae.encoder.final_layer.bias[WIDTH + 1] += 2.0
    changed = log_snr(louder, held_out)["per_dimension"]
    assert isinstance(changed, list)
    differences = [new - old for new, old in zip(changed, found["per_dimension"], strict=True)]
    assert differences == pytest.approx([0, -2, 0, 0, 0, 0, 0, 0], abs=1e-4)


def test_time_bins_average_to_the_loss_under_uniform_times(
    model: ColaDLM, held_out: Tensor
) -> None:
    bins = flow_matching_by_time(model, held_out, stream(128))
    assert list(bins) == pytest.approx([0.05 + 0.1 * index for index in range(10)])
    assert flow_matching_by_time(model, held_out, stream(128)) == bins
    posterior = posterior_of(model, held_out)
    draws = stream(128, 1)
    shape = posterior.mean.shape[1:]
    with torch.no_grad():
        z0 = model.to_dit(posterior.sample(draws.normal("posterior", *shape)))
        inputs = {"z1": draws.normal("z1", *shape), "t_Bb": draws.uniform("t", 4)}
        overall = float(flow_matching_loss(model.dit, z0, inputs))
    assert sum(bins.values()) / len(bins) == pytest.approx(overall, rel=0.03)


def test_a_velocity_of_zero_leaves_the_same_error_at_every_time(
    model: ColaDLM, held_out: Tensor
) -> None:
    """E|z1 - z0|^2 = 1 + E[z0^2] whatever t is."""
    still = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in still.dit.parameters():
            parameter.zero_()
    posterior = posterior_of(still, held_out)
    power = 1 + float((posterior.mean.square() + posterior.log_variance.exp()).mean())
    bins = list(flow_matching_by_time(still, held_out, stream(128), bins=4).values())
    assert bins == pytest.approx([bins[0]] * 4)
    assert bins[0] == pytest.approx(power, rel=0.03)


def test_smoothness_falls_with_noise(model: ColaDLM, held_out: Tensor) -> None:
    found = latent_smoothness(model, held_out, stream(128))
    values = list(found.values())
    assert values == sorted(values, reverse=True)
    assert found[0.0] == reconstruction_accuracy(model, held_out, stream(128))["mean"]
    assert values[0] - values[-1] > 0.4


def test_the_probe_knows_the_own_token_best(model: ColaDLM, held_out: Tensor) -> None:
    found = context_probe(model, held_out)
    accuracy, majority = found["accuracy"], found["majority"]
    assert list(accuracy) == list(range(-4, 5))
    assert max(accuracy, key=lambda offset: accuracy[offset]) == 0
    assert accuracy[0] > max(accuracy[-4], accuracy[4]) + 0.1
    assert accuracy[0] > majority[0] + 0.2


def test_the_probe_finds_nothing_where_nothing_is(model: ColaDLM) -> None:
    """Independent tokens: neighbours (of a causal encoder: later ones) cannot be told."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, model.vae.config.vocab_size, (256, LENGTH), generator=generator)
    accuracy = context_probe(model, rows)["accuracy"]
    chance = 1 / model.vae.config.vocab_size
    error = math.sqrt(chance / (128 * (LENGTH - 4)))
    assert all(abs(accuracy[offset] - chance) < 5 * error for offset in (1, 2, 3, 4))
    assert accuracy[0] > 5 * chance


def test_the_probe_needs_both_parts(model: ColaDLM, held_out: Tensor) -> None:
    with pytest.raises(ValueError, match="1 sequences"):
        context_probe(model, held_out[:1])


def test_all_of_them_by_name(model: ColaDLM, corpus_tokens: Tensor) -> None:
    tokens = corpus_tokens[:8]
    found = latent_diagnostics(model, tokens, stream(8))
    found |= flow_diagnostics(model, tokens, stream(8))
    smooth = latent_smoothness(model, tokens, stream(8))
    assert found["decode_accuracy_at_noise/0.4"] == smooth[0.4]
    assert found["reconstruction_accuracy/sample"] > 0.9
    assert found["log_snr"] == log_snr(model, tokens)["overall"]
    assert {name.split("/")[0] for name in found} == {
        "log_snr", "reconstruction_accuracy", "active_units", "fm_at_time",
        "decode_accuracy_at_noise", "decode_accuracy_on_the_way", "probe_accuracy_at_offset",
        "probe_majority_at_offset",
    }  # fmt: skip
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())
