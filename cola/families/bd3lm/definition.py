"""Block diffusion over masks without its network."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cola.compute.activations import Precision, block_trunk_bytes, logit_bytes
from cola.compute.flops import FlopsBreakdown
from cola.families.bd3lm import flops
from cola.families.bd3lm.spec import BD3LMModelSpec, BD3LMSettings, BlockMaskedDiffusion
from cola.families.interface.definition import Look
from cola.families.interface.masked_definition import MaskedDefinition
from cola.families.interface.specs import ModelSpec
from cola.records import NllKind
from cola.spec import GenerationSpec, LikelihoodSpec

if TYPE_CHECKING:
    from cola.families.interface.family import Family


class BD3LMDefinition(MaskedDefinition):
    """See `FamilyDefinition`."""

    name = "bd3lm"
    label = "BD3-LM"
    look = Look(colour="#E69F00", line=":")
    settings, model, objective = BD3LMSettings, BD3LMModelSpec, BlockMaskedDiffusion
    folders = MappingProxyType({".": "cola_bd3lm"})
    generation_keys = frozenset(
        {"max_new_tokens", "temperature", "top_k", "top_p", "tokens_per_pass", "remasking"}
    )
    task_note = (
        "word nats of the cloze are a bound, exact in blocks of one token; infilling sees what is "
        "right of the gap in the gap's last block alone."
    )

    def implementation(self) -> Family:
        """See `FamilyDefinition.implementation`."""
        from cola.families.bd3lm.family import BD3LMFamily

        return BD3LMFamily()

    def nll_kind(self, model: BD3LMModelSpec | BD3LMSettings, settings: LikelihoodSpec) -> NllKind:
        """See `FamilyDefinition.nll_kind`: a block of one token has one order alone."""
        return "exact" if flops.one_order(model.block_size, settings) else "bound"

    def likelihood_flops_per_token(
        self, model: BD3LMModelSpec, settings: LikelihoodSpec, length: int
    ) -> FlopsBreakdown:
        """The clean copy once; a noisy pass a mask count, or a token of a block."""
        passes = flops.likelihood_passes(settings, model.block_size)
        return FlopsBreakdown(flops.whole_text(model, length, noisy_passes=passes))

    def generation_flops_per_token(
        self, model: BD3LMModelSpec, settings: GenerationSpec, prompt: int, *, batch: int = 1
    ) -> FlopsBreakdown:
        """See `cola.families.bd3lm.flops.continuation`."""
        parts = flops.continuation(model, settings, prompt)
        return FlopsBreakdown({name: v / settings.max_new_tokens for name, v in parts.items()})

    def predictive_flops(
        self, model: BD3LMModelSpec, settings: GenerationSpec, prompt: int, *, draws: int
    ) -> float:
        """The drawn tokens and the text's own, along the same orders, behind a prompt that is read
        once."""
        new = settings.max_new_tokens
        return flops.draws_of_next_tokens(model, new, prompt, rows=2 * draws)

    def unmasking(self, settings: GenerationSpec) -> str:
        """See `MaskedDefinition.unmasking`."""
        return f"block by block, {super().unmasking(settings)}"

    def forward(self, model: BD3LMModelSpec, length: int) -> dict[str, float]:
        """Forward FLOPs per token of the pass on [clean | noisy]."""
        return flops.whole_text(model, length)

    def activation_bytes(
        self, model: BD3LMModelSpec, objective: Any, precision: Precision
    ) -> float:
        """See `FamilyDefinition.activation_bytes`."""
        return block_trunk_bytes(model, precision) + logit_bytes(model.vocab_size, precision)

    def checkpointed_bytes(
        self, model: BD3LMModelSpec, objective: Any, precision: Precision
    ) -> float:
        """See `FamilyDefinition.checkpointed_bytes`."""
        kept = block_trunk_bytes(model, precision, checkpoints=True)
        return kept + logit_bytes(model.vocab_size, precision)

    def sequence_multiple(self, settings: BD3LMSettings) -> tuple[int, str]:
        """Whole blocks."""
        return settings.block_size, "block_size"

    def _model(self, vocab_size: int, settings: Any, sizes: dict[str, int]) -> ModelSpec:
        return super()._model(vocab_size, settings, sizes | {"block_size": settings.block_size})


BD3LM = BD3LMDefinition()
