"""The masked-diffusion family without its network."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from cola.compute.flops import (
    FlopsBreakdown,
    trunk_forward,
)
from cola.families.interface.definition import Look
from cola.families.interface.masked_definition import MaskedDefinition
from cola.families.llada.spec import LLaDAModelSpec, LLaDASettings, MaskedDiffusion
from cola.spec import GenerationSpec, LikelihoodSpec

if TYPE_CHECKING:
    from cola.families.interface.family import Family


class LLaDADefinition(MaskedDefinition):
    """See `FamilyDefinition`."""

    name = "llada"
    label = "LLaDA"
    look = Look(colour="#D55E00", line="-.")
    settings, model, objective = LLaDASettings, LLaDAModelSpec, MaskedDiffusion
    folders = MappingProxyType({".": "cola_llada"})
    generation_keys = frozenset(
        {
            "max_new_tokens",
            "temperature",
            "top_k",
            "top_p",
            "tokens_per_pass",
            "remasking",
            "unmasking_block",
            "unmasking_guidance_scale",
        }
    )
    task_note = "word nats of the cloze are a bound."
    bootstrap_seed = 1

    def implementation(self) -> Family:
        """See `FamilyDefinition.implementation`."""
        from cola.families.llada.family import LLaDAFamily

        return LLaDAFamily()

    def likelihood_flops_per_token(
        self, model: LLaDAModelSpec, settings: LikelihoodSpec, length: int
    ) -> FlopsBreakdown:
        """A pass a mask count, or a pass a token."""
        passes = settings.mask_samples if settings.masked == "monte_carlo" else length
        forward = self.forward(model, length)
        return FlopsBreakdown({name: passes * value for name, value in forward.items()})

    def generation_flops_per_token(
        self, model: LLaDAModelSpec, settings: GenerationSpec, prompt: int, *, batch: int = 1
    ) -> FlopsBreakdown:
        """The whole sequence once a pass, twice with guidance; logits of the new tokens alone."""
        new = settings.max_new_tokens
        passes = settings.unmasking_passes(new)
        if settings.unmasking_guidance_scale != 1.0:
            passes *= 2
        total = prompt + new
        forward = self.forward(model, total)
        forward["head"] *= new / total
        return FlopsBreakdown({name: passes * total * v / new for name, v in forward.items()})

    def predictive_flops(
        self, model: LLaDAModelSpec, settings: GenerationSpec, prompt: int, *, draws: int
    ) -> float:
        """The drawn tokens and the text's own, along the same orders, with one token's logits a
        pass."""
        new = settings.max_new_tokens
        forward = self.forward(model, prompt + new)
        head = forward.pop("head")
        return 2 * draws * new * ((prompt + new) * sum(forward.values()) + head)

    def unmasking(self, settings: GenerationSpec) -> str:
        """See `MaskedDefinition.unmasking`."""
        how = super().unmasking(settings)
        if settings.unmasking_block is not None:
            how += f", in blocks of {settings.unmasking_block}"
        if settings.unmasking_guidance_scale != 1.0:
            how += f", guidance {settings.unmasking_guidance_scale:g}"
        return how

    def forward(self, model: LLaDAModelSpec, length: int) -> dict[str, float]:
        """Forward FLOPs per token, where every token sees every other."""
        return trunk_forward(model, length, model.vocab_size)


LLADA = LLaDADefinition()
