"""What families of one Llama trunk have in common, AR and masked diffusion among them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from cola.compute.activations import Precision, logit_bytes, trunk_bytes
from cola.compute.flops import TRAINED, Convention, FlopsBreakdown, trunk_nominal
from cola.compute.sizing import PAPER_TRUNK, trunk_sizes
from cola.families.interface.definition import FamilyDefinition
from cola.families.interface.specs import ModelSpec


class TrunkDefinition(FamilyDefinition):
    """A family whose model is a `TransformerSpec` and whose settings have its `rope_theta`."""

    @abstractmethod
    def forward(self, model: Any, length: int) -> dict[str, float]:
        """Forward FLOPs per token of a sequence of `length` tokens, by component."""

    def paper_row(self, vocab_size: int, settings: Any) -> ModelSpec:
        """See `FamilyDefinition.paper_row`."""
        return self._model(vocab_size, settings, PAPER_TRUNK)

    def nearest(self, core_parameters: int, vocab_size: int, settings: Any) -> ModelSpec:
        """See `FamilyDefinition.nearest`."""
        return self._model(vocab_size, settings, trunk_sizes(core_parameters))

    def train_flops_per_token(
        self, model: Any, objective: Any, length: int, *, stage: str, convention: Convention
    ) -> FlopsBreakdown:
        """One forward and backward pass of the whole sequence; nominal is 6 N D."""
        if convention == "nominal":
            return trunk_nominal(model, self.parameter_counts(model).head)
        forward = self.forward(model, length)
        return FlopsBreakdown({name: TRAINED * value for name, value in forward.items()})

    def activation_bytes(self, model: Any, objective: Any, precision: Precision) -> float:
        """See `FamilyDefinition.activation_bytes`."""
        return trunk_bytes(model, precision) + logit_bytes(model.vocab_size, precision)

    def checkpointed_bytes(self, model: Any, objective: Any, precision: Precision) -> float:
        """See `FamilyDefinition.checkpointed_bytes`."""
        kept = trunk_bytes(model, precision, checkpoints=True)
        return kept + logit_bytes(model.vocab_size, precision)

    def head_shares(self, objective: Any) -> tuple[float, ...]:
        """See `FamilyDefinition.head_shares`: every token."""
        return (1.0,)

    def _model(self, vocab_size: int, settings: Any, sizes: dict[str, int]) -> ModelSpec:
        values = {"vocab_size": vocab_size, "rope_theta": settings.rope_theta, **sizes}
        return self.model.model_validate(values)
