"""The autoregressive family without its network."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from cola.compute.flops import (
    FlopsBreakdown,
    ParameterCounts,
    trunk_forward,
    trunk_parameters,
)
from cola.families.ar.spec import ARModelSpec, ARSettings, NextToken
from cola.families.interface.definition import Look
from cola.families.interface.trunk import TrunkDefinition
from cola.spec import GenerationSpec, LikelihoodSpec

if TYPE_CHECKING:
    from cola.families.interface.family import Family


class ARDefinition(TrunkDefinition):
    """See `FamilyDefinition`."""

    name = "ar"
    label = "AR"
    look = Look(colour="#0072B2", line="-")
    settings, model, objective = ARSettings, ARModelSpec, NextToken
    folders = MappingProxyType({".": "llama"})
    exact_in_one_pass = True
    generation_keys = frozenset(
        {"max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty"}
    )
    library = "transformers"
    opening_note = (
        "`AutoTokenizer` and `AutoModelForCausalLM` of `transformers` open this folder. The model "
        "reads a start token before every text; `AutoTokenizer` puts it there."
    )
    task_note = "word nats of the cloze are exact; infilling sees only what is left of the gap."
    bootstrap_seed = 0

    def implementation(self) -> Family:
        """See `FamilyDefinition.implementation`."""
        from cola.families.ar.family import ARFamily

        return ARFamily()

    def parameter_counts(self, model: ARModelSpec) -> ParameterCounts:
        """Both tables have a row for the start token."""
        return trunk_parameters(model, model.vocab_size + 1, model.vocab_size + 1)

    def likelihood_flops_per_token(
        self, model: ARModelSpec, settings: LikelihoodSpec, length: int
    ) -> FlopsBreakdown:
        """One pass."""
        return FlopsBreakdown(self.forward(model, length))

    def generation_flops_per_token(
        self, model: ARModelSpec, settings: GenerationSpec, prompt: int, *, batch: int = 1
    ) -> FlopsBreakdown:
        """Every token but the last is read once, behind a cache; the start token too."""
        new = settings.max_new_tokens
        read = prompt + new
        parts = {name: read * value for name, value in self.forward(model, read).items()}
        parts["head"] = parts["head"] * new / read
        return FlopsBreakdown({name: value / new for name, value in parts.items()})

    def predictive_flops(
        self, model: ARModelSpec, settings: GenerationSpec, prompt: int, *, draws: int
    ) -> float:
        """The prompt once for all draws, all tokens of each but the last behind it, and a pass over
        the text's own."""
        new = settings.max_new_tokens
        alone, whole = self.forward(model, prompt + 1), self.forward(model, prompt + new)
        # Logits of the text's tokens, of the first one drawn, and of each draw's further ones.
        head = alone.pop("head") * (new + 1 + draws * (new - 1))
        del whole["head"]
        of_prompt = (prompt + 1) * sum(alone.values())
        of_text = (prompt + new) * sum(whole.values())
        return head + of_text + of_prompt + draws * (of_text - of_prompt)

    def forward(self, model: ARModelSpec, length: int) -> dict[str, float]:
        """Forward FLOPs per token, with causal density."""
        return trunk_forward(model, (length + 1) / 2, model.vocab_size + 1)


AR = ARDefinition()
