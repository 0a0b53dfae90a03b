"""Networks of Cola DLM from its specification, and back; one class for each kind of prior."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from cola.families.cola.spec import ColaModelSpec
from cola.families.interface.pretrained import CONFIG, load_pretrained, read_config, read_json
from cola.models.cola_dlm import ColaDLM, dit_config, dit_sizes, vae_config, vae_sizes
from cola.models.dit import BlockCausalDiT, ColaDiT
from cola.models.dit_config import DiTConfig
from cola.models.latents.drifting import DriftingConfig, DriftingDiT
from cola.models.latents.mixture import MixtureConfig, MixtureDiT
from cola.models.text_vae import TextVAE, TextVAEConfig
from cola.spec.networks import DriftingPrior, FlowPrior, MixturePrior, PriorSpec

VAE, PRIOR = "cola_vae", "cola_dit"  # the release's names
CLASSES: tuple[type[BlockCausalDiT], ...] = (ColaDiT, MixtureDiT, DriftingDiT)


def build_model(spec: ColaModelSpec) -> ColaDLM:
    """A freshly initialised model of these sizes."""
    vae = TextVAE(vae_config(spec.vae, spec.scaling_factor, spec.shifting_factor))
    return ColaDLM(vae, _build_prior(spec))


def _build_prior(spec: ColaModelSpec) -> BlockCausalDiT:
    config = dit_config(spec.dit)
    if isinstance(spec.prior, FlowPrior):
        return ColaDiT(config)
    sizes = config.to_diff_dict()
    del sizes["model_type"]
    if isinstance(spec.prior, MixturePrior):
        return MixtureDiT(MixtureConfig(components=spec.prior.components, **sizes))
    return DriftingDiT(DriftingConfig(**sizes))


def prior_of(config: DiTConfig) -> PriorSpec:
    """The specification of the kind of prior that a configuration is of."""
    if isinstance(config, MixtureConfig):
        return MixturePrior(components=config.components)
    return DriftingPrior() if isinstance(config, DriftingConfig) else FlowPrior()


def sizes_of(vae: TextVAEConfig, dit: DiTConfig) -> ColaModelSpec:
    """The specification of a model with networks of these configurations."""
    return ColaModelSpec(
        prior=prior_of(dit),
        vae=vae_sizes(vae),
        dit=dit_sizes(dit),
        scaling_factor=vae.scaling_factor,
        shifting_factor=vae.shifting_factor,
    )


def save_model(model: ColaDLM, folder: Path) -> None:
    """Two folders in the public release's layout; the prior's network is the release's where it is
    a flow."""
    model.vae.save_pretrained(folder / VAE)
    model.dit.save_pretrained(folder / PRIOR)


def load_model(folder: Path) -> ColaDLM:
    """Load what `save_model` wrote, or a release checkpoint in that layout.

    Raises:
        SpecError: see `load_pretrained`.
    """
    vae = load_pretrained(TextVAE, folder / VAE)
    return ColaDLM(vae, load_pretrained(_prior_in(folder), folder / PRIOR))


def sizes_in(folder: Path) -> ColaModelSpec:
    """The specification of the model that `save_model` wrote.

    Raises:
        SpecError: see `read_config`.
    """
    vae, dit = (
        read_config(each.config_class, folder / part)
        for each, part in ((TextVAE, VAE), (_prior_in(folder), PRIOR))
    )
    return sizes_of(cast(TextVAEConfig, vae), cast(DiTConfig, dit))


def _prior_in(folder: Path) -> type[BlockCausalDiT]:
    kind = read_json(folder / PRIOR / CONFIG).get("model_type")
    found = [each for each in CLASSES if each.config_class.model_type == kind]
    return found[0] if found else ColaDiT
