"""Latent-space diagnostics of a Cola DLM, measured on fixed tokens with fixed noise.

Every function takes a model and tokens (B, L), L a multiple of the tokens of a block, draws its
noise from a `Stream`, runs without gradients and returns plain numbers. Accuracies are fractions
of tokens in [0, 1].
Shapes: B batch, L tokens, n latents, d latent width, b blocks, N latents of all sequences, V vocab.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cola.models.cola_dlm import ColaDLM
from cola.models.head import judged_nll
from cola.objectives.flow_matching import ESTIMATES, flow_matching_loss
from cola.objectives.vae import Posterior
from cola.seeding import Stream

ACTIVE_VARIANCE = 0.01  # Burda et al., 2016 (arXiv 1509.00519), section 5.2
# Chosen values, and part of the names under which the measurements are logged.
NOISE_SCALES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
WAYS = (0.0, 0.25, 0.5, 0.75, 1.0)  # to another text's latents
OFFSETS = tuple(range(-4, 5))
RIDGE = 1e-3  # fraction of the features' mean power; chosen, small against it
TEST_FRACTION = 0.5  # of the sequences; chosen
PROBE_ROWS = 4096  # test latents scored at once; bounds the memory of a (rows, V) matrix


def latent_diagnostics(model: ColaDLM, tokens_BL: Tensor, stream: Stream) -> dict[str, float]:
    """The measurements that a study logs of a finished run, by name."""
    probe = context_probe(model, tokens_BL)
    tables: dict[str, dict[Any, Any]] = {
        "reconstruction_accuracy": reconstruction_accuracy(model, tokens_BL, stream),
        "active_units": active_units(model, tokens_BL),
        "decode_accuracy_at_noise": latent_smoothness(model, tokens_BL, stream),
        "decode_accuracy_on_the_way": interpolation(model, tokens_BL),
        "probe_accuracy_at_offset": probe["accuracy"],
        "probe_majority_at_offset": probe["majority"],
    }
    named = {f"{table}/{key}": value for table, row in tables.items() for key, value in row.items()}
    return {"log_snr": float(posterior_of(model, tokens_BL).log_snr()), **named}


def flow_diagnostics(model: ColaDLM, tokens_BL: Tensor, stream: Stream) -> dict[str, float]:
    """The measurements that a study logs of a finished flow, by name."""
    by_time = flow_matching_by_time(model, tokens_BL, stream)
    return {f"fm_at_time/{time}": value for time, value in by_time.items()}


@torch.no_grad()
def posterior_of(model: ColaDLM, tokens_BL: Tensor) -> Posterior:
    """q(z0 | x) of whole sequences."""
    return Posterior(*model.vae.encoder(tokens_BL))


def reconstruction_accuracy(model: ColaDLM, tokens_BL: Tensor, stream: Stream) -> dict[str, float]:
    """Fraction of tokens that argmax p(x | z0) reconstructs.

    "mean": from posterior means (which prompts are encoded to); "sample": from one posterior
    sample.
    """
    posterior = posterior_of(model, tokens_BL)
    noise = stream.normal("posterior", *posterior.mean.shape[1:])
    return {
        "mean": decode_accuracy(model, posterior.mean, tokens_BL),
        "sample": decode_accuracy(model, posterior.sample(noise), tokens_BL),
    }


@torch.no_grad()
def decode_accuracy(model: ColaDLM, z_Bnd: Tensor, tokens_BL: Tensor) -> float:
    """Fraction of tokens that argmax p(x | z) predicts correctly, z in the VAE's normalisation."""
    decoder = model.vae.decoder
    features_NC, tokens_N = decoder.features(z_Bnd).flatten(0, 1), tokens_BL.flatten()
    every = decoder.config.vocab_size
    _, right_N = judged_nll(decoder.final_layer, features_NC, tokens_N, candidates=every)
    return float(right_N.double().mean())


def active_units(model: ColaDLM, tokens_BL: Tensor) -> dict[str, float]:
    """Number ("count", 0 to d) and "fraction" of latent dimensions that depend on the text.

    These are the ones whose posterior mean varies by more than ACTIVE_VARIANCE over all latents of
    all sequences, in squared units of the VAE's latents (E[mu^2] = 1).
    """
    variance_d = posterior_of(model, tokens_BL).mean.flatten(0, 1).var(0, unbiased=False)
    active_d = (variance_d > ACTIVE_VARIANCE).double()
    return {"count": float(active_d.sum()), "fraction": float(active_d.mean())}


def log_snr(model: ColaDLM, tokens_BL: Tensor) -> dict[str, float | list[float]]:
    """logSNR in nats (model.md, Eq. 13): "overall", and "per_dimension" (d numbers)."""
    posterior = posterior_of(model, tokens_BL)
    signal_d = posterior.mean.square().mean((0, 1))
    noise_d = posterior.log_variance.exp().mean((0, 1))
    return {
        "overall": float(posterior.log_snr()),
        "per_dimension": (signal_d / noise_d).log().tolist(),
    }


@torch.no_grad()
def flow_matching_by_time(
    model: ColaDLM, tokens_BL: Tensor, stream: Stream, *, bins: int = 10
) -> dict[float, float]:
    """Flow-matching loss (model.md, Eq. 9) by time: the centre of each of `bins` bins -> loss.

    The bins are equal parts of [0, 1]. Every block of every sequence is in every bin, with the same
    z0 and z1 and with t drawn uniformly from the bin, so the mean over bins is the loss under a
    uniform t.
    """
    posterior = posterior_of(model, tokens_BL)
    latents, width = posterior.mean.shape[1:]
    z0 = model.to_dit(posterior.sample(stream.normal("posterior", latents, width)))
    z1 = stream.normal("z1", latents, width)
    inside_Bb = stream.uniform("timestep", latents // model.dit.config.block_size)
    losses = {}
    for index in range(bins):
        draws = {"z1": z1, "t_Bb": (index + inside_Bb) / bins}
        if model.dit.config.self_conditioning:
            draws[ESTIMATES] = torch.ones_like(inside_Bb, dtype=torch.bool)
        losses[(index + 0.5) / bins] = float(flow_matching_loss(model.dit, z0, draws))
    return losses


def latent_smoothness(model: ColaDLM, tokens_BL: Tensor, stream: Stream) -> dict[float, float]:
    """Accuracy of decoding posterior means with Gaussian noise added: noise scale -> accuracy.

    A scale of NOISE_SCALES is the noise's standard deviation over the means' root mean square; all
    scales use the same noise. In a smooth latent space the accuracy falls late.
    """
    mean = posterior_of(model, tokens_BL).mean
    noise = stream.normal("smoothness", *mean.shape[1:]) * mean.square().mean().sqrt()
    return {
        scale: decode_accuracy(model, mean + scale * noise, tokens_BL) for scale in NOISE_SCALES
    }


def interpolation(model: ColaDLM, tokens_BL: Tensor) -> dict[float, float]:
    """Accuracy of decoding a text from its posterior means moved towards another text's: share of
    the way -> accuracy.

    The other text is the next sequence of the batch, place by place. In the middle a code that is
    blended between texts reads as one of both, one that is not as neither.
    """
    mean = posterior_of(model, tokens_BL).mean
    other = mean.roll(-1, dims=0)
    return {way: decode_accuracy(model, (1 - way) * mean + way * other, tokens_BL) for way in WAYS}


def context_probe(model: ColaDLM, tokens_BL: Tensor) -> dict[str, dict[int, float]]:
    """Accuracy of linear probes that read a latent's own token and its neighbours off the latent.

    For each offset o of OFFSETS, ridge regression in closed form from the posterior mean of latent
    i (and a constant) to the one-hot token at i * patch_size + o, fitted on the first sequences and
    scored on the last TEST_FRACTION of them. A purely local latent predicts its own tokens (offsets
    0 to patch_size - 1) and guesses all others; better guesses elsewhere are shared, global
    structure. (Under a causal encoder, positive offsets are forecasts.)

    Returns {"accuracy": {offset: fraction}, "majority": {offset: fraction}}, where majority always
    guesses the most frequent token of the fitting part.

    Raises:
        ValueError: if a single sequence leaves none to fit or none to score.
    """
    tested = round(len(tokens_BL) * TEST_FRACTION)
    if not 0 < tested < len(tokens_BL):
        raise ValueError(
            f"{len(tokens_BL)} sequences leave none to fit or none to score; give at least 2"
        )
    mean_Bnd = posterior_of(model, tokens_BL).mean.double()
    accuracy, majority = {}, {}
    for offset in OFFSETS:
        x_Bnd, y_Bn = _aligned(mean_Bnd, tokens_BL, offset, patch_size=model.vae.config.patch_size)
        fit_x, fit_y = x_Bnd[:-tested].flatten(0, 1), y_Bn[:-tested].flatten()
        test_x, test_y = x_Bnd[-tested:].flatten(0, 1), y_Bn[-tested:].flatten()
        weights = ridge_weights(fit_x, fit_y, model.vae.config.vocab_size)
        hits = [
            (x @ weights).argmax(-1) == y
            for x, y in zip(test_x.split(PROBE_ROWS), test_y.split(PROBE_ROWS), strict=True)
        ]
        accuracy[offset] = float(torch.cat(hits).double().mean())
        majority[offset] = float((test_y == fit_y.mode().values).double().mean())
    return {"accuracy": accuracy, "majority": majority}


def _aligned(
    mean_Bnd: Tensor, tokens_BL: Tensor, offset: int, *, patch_size: int
) -> tuple[Tensor, Tensor]:
    """Latents with a constant, (B, n', d + 1), and their tokens at the offset, (B, n')."""
    length = tokens_BL.shape[1]
    position_n = torch.arange(mean_Bnd.shape[1], device=tokens_BL.device) * patch_size + offset
    inside_n = (position_n >= 0) & (position_n < length)
    return F.pad(mean_Bnd[:, inside_n], (0, 1), value=1.0), tokens_BL[:, position_n[inside_n]]


def ridge_weights(x_Nd: Tensor, y_N: Tensor, classes: int) -> Tensor:
    """(X^T X + ridge I)^-1 X^T Y, (d, classes), without building the one-hot Y."""
    products_Cd = x_Nd.new_zeros(classes, x_Nd.shape[1]).index_add_(0, y_N, x_Nd)
    gram = x_Nd.T @ x_Nd
    power = gram.diagonal().mean()
    regular = gram + RIDGE * power * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(regular, products_Cd.T)
