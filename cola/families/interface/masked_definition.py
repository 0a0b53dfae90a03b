"""What families that unmask tokens have in common without their networks."""

from __future__ import annotations

from typing import Any

from cola.compute.flops import ParameterCounts, trunk_parameters
from cola.families.interface.definition import Protocol
from cola.families.interface.trunk import TrunkDefinition
from cola.records import NllKind
from cola.spec import GenerationSpec, LikelihoodSpec


class MaskedDefinition(TrunkDefinition):
    """A Llama trunk that predicts masked tokens."""

    likelihood_keys = frozenset({"masked", "mask_samples"})

    def parameter_counts(self, model: Any) -> ParameterCounts:
        """The embedding has a row for the mask token, which the head never predicts."""
        return trunk_parameters(model, model.vocab_size + 1, model.vocab_size)

    def nll_kind(self, model: Any, settings: LikelihoodSpec) -> NllKind:
        """See `FamilyDefinition.nll_kind`: exact for one order of unmasking."""
        return "exact" if settings.masked == "chain_rule" else "bound"

    def unmasking(self, settings: GenerationSpec) -> str:
        """How tokens are unmasked, in words."""
        count = settings.tokens_per_pass
        drawn = settings.remasking == "random"
        order = "in random order" if drawn else "the most certain first"
        return f"{count} token{'s' if count > 1 else ''} a pass, {order}"

    def protocol(self, settings: GenerationSpec, model: Any = None) -> Protocol:
        """See `FamilyDefinition.protocol`: the order in which tokens are unmasked counts too."""
        tokens = super().protocol(settings, model)
        kind = "draw" if settings.remasking == "random" else tokens.kind
        return Protocol(kind, f"{tokens.text}; {self.unmasking(settings)}")
