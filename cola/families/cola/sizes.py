"""Sizes of Cola DLM for a target of core parameters (the DiT's and the VAE's together)."""

from __future__ import annotations

from functools import cache
from typing import Any

from cola.compute.flops import (
    adaln_layer_parameters,
    dit_fixed_parameters,
    dit_layer_parameters,
    vae_fixed_parameters,
    vae_layer_parameters,
)
from cola.compute.sizing import Shape, aspect, best_shape, head_dim, width_step
from cola.families.cola.spec import ColaModelSpec, ColaSettings
from cola.spec.networks import DiTSpec, MixturePrior, TextVAESpec

# The settings that shapes depend on.
SHAPING = (
    "latent_dim", "patch_size", "vae_share", "vae_aspect", "vae_qk_norm", "dit_mlp_ratio",
    "dit_qk_bias", "adaln_rank",
)  # fmt: skip


def paper_row(vocab_size: int, settings: ColaSettings) -> ColaModelSpec:
    """The paper's row of about 2 B parameters (docs/model.md): the VAE has 9.6% of its core, and
    4 + 4 layers, whatever `vae_share` and `vae_aspect` are."""
    vae = {
        "hidden_size": 1536,
        "ffn_size": 6144,
        "num_heads": 12,
        "encoder_layers": 4,
        "decoder_layers": 4,
    }
    dit = {"hidden_size": 2048, "num_layers": 24, "num_heads": 16, "head_dim": 128, "rope_dim": 96}
    return model_of(vocab_size, settings, vae, dit=dit)


def core_sized(target: int, vocab_size: int, settings: ColaSettings) -> ColaModelSpec:
    """The model with about this many parameters outside token embeddings and head.

    Raises:
        SpecError: when the target is too small for any shape.
    """
    shaping = {name: getattr(settings, name) for name in SHAPING}
    estimates = settings.objective.stage2.self_conditioning > 0
    outputs = _outputs(settings)
    dit, vae = _shapes(target, **shaping, self_conditioning=estimates, outputs=outputs)
    return shaped(vocab_size, settings, dit, vae)


def shaped(vocab_size: int, settings: ColaSettings, dit: Shape, vae: Shape) -> ColaModelSpec:
    """A model of these shapes, whose encoder and decoder are alike."""
    vae_sizes = {
        "hidden_size": vae.width,
        "ffn_size": vae.ffn,
        "num_heads": vae.width // head_dim(vae.width),
        "encoder_layers": vae.layers,
        "decoder_layers": vae.layers,
    }
    head = head_dim(dit.width)
    dit_sizes = {
        "hidden_size": dit.width,
        "num_layers": dit.layers,
        "num_heads": dit.width // head,
        "head_dim": head,
        "rope_dim": head * 3 // 4,
    }
    return model_of(vocab_size, settings, vae_sizes, dit=dit_sizes)


@cache
def _shapes(target: int, **settings: Any) -> tuple[Shape, Shape]:
    """The DiT near its share first (its shapes are coarse), then the VAE makes up the rest.

    `vae_share` of the core is the VAE's, as nearly as its shapes allow. Many runs of a study or
    sweep ask for the same: a search takes tens of milliseconds.
    """
    step, latent_dim = width_step(target), settings["latent_dim"]

    def dit_size(layers: int, width: int, _: int) -> int:
        ratio, bias = settings["dit_mlp_ratio"], settings["dit_qk_bias"]
        layer = dit_layer_parameters(width, width, head_dim(width), ratio=ratio, bias=bias)
        rank, estimates = settings["adaln_rank"], settings["self_conditioning"]
        return layers * (layer + adaln_layer_parameters(width, rank)) + dit_fixed_parameters(
            width,
            latent_dim,
            outputs=settings["outputs"],
            rank=rank,
            self_conditioning=estimates,
        )

    def vae_size(layers: int, width: int, ffn: int) -> int:
        fixed = vae_fixed_parameters(width, latent_dim, settings["patch_size"])
        return 2 * layers * vae_layer_parameters(width, ffn, settings["vae_qk_norm"]) + fixed

    dit_target = (1 - settings["vae_share"]) * target
    dit = best_shape(dit_target, dit_size, step, wanted_aspect=aspect(dit_target), tuned=False)
    rest = target - dit.parameters
    # Encoder and decoder are shallow and wide: 4 + 4 layers of 1536 in the reference sizes.
    wanted = settings["vae_aspect"] * aspect(rest)
    vae = best_shape(rest, vae_size, step, wanted_aspect=wanted, scale=target)
    return dit, vae


def _outputs(settings: ColaSettings) -> int | None:
    """Numbers that the prior's network says of a latent; None: a velocity."""
    prior = settings.prior
    return prior.outputs(settings.latent_dim) if isinstance(prior, MixturePrior) else None


def model_of(
    vocab_size: int, settings: ColaSettings, vae: dict[str, Any], *, dit: dict[str, Any]
) -> ColaModelSpec:
    """A model of these sizes; the settings decide the rest."""
    return ColaModelSpec(
        vae=TextVAESpec(
            vocab_size=vocab_size,
            latent_dim=settings.latent_dim,
            patch_size=settings.patch_size,
            attention=settings.vae_attention,
            block_size=settings.vae_block_size,
            log_snr=settings.log_snr,
            rope_theta=settings.vae_rope_theta,
            qk_norm=settings.vae_qk_norm,
            post_norm=settings.vae_post_norm,
            **vae,
        ),
        dit=DiTSpec(
            latent_dim=settings.latent_dim,
            block_size=settings.block_size,
            mlp_ratio=settings.dit_mlp_ratio,
            qk_bias=settings.dit_qk_bias,
            adaln_rank=settings.adaln_rank,
            self_conditioning=settings.objective.stage2.self_conditioning > 0,
            output_dim=_outputs(settings),
            **dit,
        ),
        scaling_factor=settings.latent_scaling,
        shifting_factor=settings.latent_shift,
        prior=settings.prior,
    )
