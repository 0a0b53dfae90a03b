"""Stage 1, the text VAE's objective (model.md, Eqs. 10 to 13), in nats per token.

Shapes: B batch, L tokens, n latents, d latent width, M masked tokens per sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.models.head import mean_nll, mean_nll_and_accuracy
from cola.models.text_vae import TextVAE
from cola.seeding import Stream
from cola.spec.objectives import VAEObjective


@dataclass(frozen=True)
class Posterior:
    """q(z0 | x) = N(mean, exp(log_variance)) (model.md, Eq. 10); both (B, n, d)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """z0 = mean + sigma * noise, (B, n, d)."""
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def log_density(self, z0: Tensor) -> Tensor:
        """log q(z0 | x) in nats, summed over d: (B, n)."""
        square = (z0 - self.mean).square() * (-self.log_variance).exp()
        return -0.5 * (square + self.log_variance + math.log(2 * math.pi)).sum(-1)

    def log_snr(self) -> Tensor:
        """log(E[mu^2] / E[sigma^2]), a scalar in nats (model.md, Eq. 13)."""
        return (self.mean.square().mean() / self.log_variance.exp().mean()).log()


def vae_draws(
    vae: TextVAE, objective: VAEObjective, tokens_BL: Tensor, *, stream: Stream
) -> dict[str, Tensor]:
    """Random inputs of `vae_terms`, without those of terms that are switched off.

    Every sequence masks exactly round(mask_rate L) tokens, so that the mean over workers is the
    mean over the batch.
    """
    length = tokens_BL.shape[1]
    latents = length // vae.config.patch_size
    draws = {"posterior_noise": stream.normal("posterior", latents, vae.config.latent_dim)}
    if objective.lambda_mask > 0:
        count = max(1, round(objective.mask_rate * length))
        order_BL = stream.uniform("mask", length)
        draws["masked_BM"] = order_BL.topk(count, dim=1).indices
        draws["masked_noise"] = stream.normal("masked", latents, vae.config.latent_dim)
    if objective.token_dropout > 0:
        draws["dropped_BL"] = stream.uniform("token_dropout", length) < objective.token_dropout
    if objective.latent_dropout > 0:
        kept = stream.uniform("latent_dropout", latents) >= objective.latent_dropout
        draws["kept_Bn"] = kept.float()
    return draws


def vae_terms(
    vae: TextVAE,
    objective: VAEObjective,
    tokens_BL: Tensor,
    *,
    draws: dict[str, Tensor],
    whole_text: bool = False,
) -> tuple[dict[str, Tensor], Posterior, Tensor]:
    """Reconstruction, masked-token loss and diagnostics; the posterior and a sample of it.

    With token dropout the posterior is that of the text as the encoder sees it, or with
    `whole_text` of the text itself, which is then encoded too.
    """
    inputs_BL = tokens_BL
    if "dropped_BL" in draws:
        inputs_BL = tokens_BL.masked_fill(draws["dropped_BL"], vae.config.mask_token_id)
    encoded, noise = inputs_BL, draws["posterior_noise"]
    if "masked_BM" in draws:
        masked_BL = tokens_BL.scatter(1, draws["masked_BM"], vae.config.mask_token_id)
        encoded = torch.cat([inputs_BL, masked_BL])
        noise = torch.cat([noise, draws["masked_noise"]])
    batch, decoded_rows = len(tokens_BL), len(encoded)
    if whole_text and "dropped_BL" in draws:
        encoded = torch.cat([encoded, tokens_BL])
        noise = torch.cat([noise, draws["posterior_noise"]])
    # The clean and the masked sequences pass encoder and decoder as one batch.
    encoded_rows = Posterior(*vae.encoder(encoded))
    every_z0 = encoded_rows.sample(noise)
    z0 = every_z0[:decoded_rows]
    decoded = z0 if "kept_Bn" not in draws else _drop_latents(z0, draws["kept_Bn"])
    features = vae.decoder.features(decoded)
    head = vae.decoder.final_layer
    reconstruction, accuracy = mean_nll_and_accuracy(head, features[:batch], tokens_BL)
    terms = {"reconstruction": reconstruction, "reconstruction_accuracy": accuracy}
    if "masked_BM" in draws:
        masked_BLC = features[batch:]
        terms["masked"] = masked_loss(vae, masked_BLC, tokens_BL, masked_BM=draws["masked_BM"])
    first = decoded_rows if len(encoded) > decoded_rows else 0
    own = slice(first, first + batch)
    posterior = Posterior(encoded_rows.mean[own], encoded_rows.log_variance[own])
    terms["log_snr"] = posterior.log_snr()
    return terms, posterior, every_z0[own]


def masked_loss(
    vae: TextVAE, features_BLC: Tensor, tokens_BL: Tensor, *, masked_BM: Tensor
) -> Tensor:
    """L_mask (model.md, Eq. 12): cross entropy of the masked tokens, nats per masked token."""
    index = masked_BM[..., None].expand(-1, -1, features_BLC.shape[-1])
    features_BMC = features_BLC.gather(1, index)
    return mean_nll(vae.decoder.final_layer, features_BMC, tokens_BL.gather(1, masked_BM))


def kl_to_standard_normal(posterior: Posterior, free_bits: float) -> Tensor:
    """KL(q || N(0, I)) per latent in nats, (B, n): model.md, Eq. 15, with r = N(0, I).

    With `free_bits` (nats), a dimension whose mean KL is below it is not reduced further.
    """
    mean, log_variance = posterior.mean, posterior.log_variance
    kl_Bnd = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    if free_bits > 0:
        # The mean is per sequence and dimension, so that rows do not depend on their batch.
        kl_Bd = kl_Bnd.mean(1).clamp_min(free_bits)
        return kl_Bd.sum(-1, keepdim=True).expand(-1, kl_Bnd.shape[1])
    return kl_Bnd.sum(-1)


def stage1_loss(
    vae: TextVAE, objective: VAEObjective, tokens_BL: Tensor, *, draws: dict[str, Tensor]
) -> dict[str, Tensor]:
    """L_VAE (model.md, Eq. 11) and its parts, nats per token; "kl" is spread over the patch."""
    terms, posterior, _ = vae_terms(vae, objective, tokens_BL, draws=draws)
    kl = kl_to_standard_normal(posterior, objective.free_bits).mean() / vae.config.patch_size
    loss = terms["reconstruction"] + objective.beta * kl
    if "masked" in terms:
        loss = loss + objective.lambda_mask * terms["masked"]
    return {"loss": loss, "kl": kl, **terms}


def _drop_latents(z0: Tensor, kept_Bn: Tensor) -> Tensor:
    """Zero the dropped latents of the clean rows; masked rows (if any) keep all of theirs."""
    rows = len(kept_Bn)
    return torch.cat([z0[:rows] * kept_Bn[..., None], z0[rows:]])
