"""What families that diffuse latents block by block have in common without their networks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cola.families.interface.definition import FamilyDefinition, Protocol
from cola.records import NllKind
from cola.spec import GenerationSpec, LikelihoodSpec

# What measurements of all families with latents mean, by the beginning of their names.
STRUCTURE = {
    "history_gap_at_time": (
        "flow-matching loss at that t with another text's history less that with the true one"
    ),
    "late_history_gap_at_time": "the same of the second half of each block's latents",
    "topic_probe": (
        "of a generated text, blocks whose hidden topic is read off the mean of their latents"
    ),
}


class LatentDefinition(FamilyDefinition):
    """A family of evidence bounds whose prior is a flow."""

    generation_keys = frozenset(
        {
            "max_new_tokens",
            "temperature",
            "top_k",
            "top_p",
            "repetition_penalty",
            "steps",
            "guidance_scale",
            "solver",
            "time_grid",
            "first_block",
            "split_patch",
        }
    )
    likelihood_is_solved = True
    diagnostics: Mapping[str, str] = MappingProxyType(STRUCTURE)
    likelihood_keys = frozenset(
        {"ode_steps", "divergence", "probe", "importance_samples", "diffusion_times"}
    )

    def nll_kind(self, model: Any, settings: LikelihoodSpec) -> NllKind | None:
        """See `FamilyDefinition.nll_kind`."""
        return "bound"

    def protocol(self, settings: GenerationSpec, model: Any = None) -> Protocol:
        """See `FamilyDefinition.protocol`: latents are drawn at every temperature."""
        how = self.latents_of(settings, model)
        return Protocol("draw", f"latents drawn {how}; {self.tokens_of(settings)}")

    def latents_of(self, settings: GenerationSpec, model: Any) -> str:
        """How latents are drawn, in words."""
        scale = settings.guidance_scale
        guided = "without guidance" if scale == 1.0 else f"with guidance {scale:g}"
        return f"{guided} in {settings.steps} steps of {settings.solver}"

    def tokens_of(self, settings: GenerationSpec) -> str:
        """How tokens are read off latents, in words."""
        return super().protocol(settings).text
