"""The toy family without its network."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from cola.compute.activations import Precision
from cola.compute.flops import TRAINED, Convention, FlopsBreakdown, ParameterCounts
from cola.families.interface.definition import FamilyDefinition, Look
from cola.spec import GenerationSpec, LikelihoodSpec
from toy_family.spec import ToyModelSpec, ToyObjective, ToySettings

if TYPE_CHECKING:
    from cola.families.interface.family import Family


class ToyDefinition(FamilyDefinition):
    """See `FamilyDefinition`."""

    name = "toy"
    label = "Toy"
    look = Look(colour="#CC79A7", line=":", marker="D")
    settings, model, objective = ToySettings, ToyModelSpec, ToyObjective
    folders = MappingProxyType({".": "toy_bigram"})
    generation_keys = frozenset({"max_new_tokens", "temperature"})
    diagnostics = MappingProxyType({"entropy": "mean entropy of the next token, nats"})
    task_note = "it sees one token of every prompt."
    opening_note = "Nothing but the toy package opens this folder."

    def implementation(self) -> Family:
        """See `FamilyDefinition.implementation`."""
        from toy_family.family import ToyFamily

        return ToyFamily()

    def paper_row(self, vocab_size: int, settings: ToySettings) -> ToyModelSpec:
        """See `FamilyDefinition.paper_row`."""
        return ToyModelSpec(
            vocab_size=vocab_size, width=2048, inner=8192, layers=27 * settings.layers
        )

    def nearest(self, core_parameters: int, vocab_size: int, settings: ToySettings) -> ToyModelSpec:
        """See `FamilyDefinition.nearest`."""
        width = 64 if core_parameters >= 1_000_000 else 32
        inner = max(1, round(core_parameters / (2 * width * settings.layers)))
        return ToyModelSpec(vocab_size=vocab_size, width=width, inner=inner, layers=settings.layers)

    def parameter_counts(self, model: ToyModelSpec) -> ParameterCounts:
        """The embedding has a row for the start of a text."""
        core = model.layers * 2 * model.width * model.inner
        head = model.vocab_size * model.width
        return ParameterCounts(core, head + (model.vocab_size + 1) * model.width, head)

    def train_flops_per_token(
        self,
        model: ToyModelSpec,
        objective: ToyObjective,
        length: int,
        *,
        stage: str,
        convention: Convention,
    ) -> FlopsBreakdown:
        """Both conventions agree: there is no attention."""
        return FlopsBreakdown({name: TRAINED * v for name, v in forward(model).items()})

    def likelihood_flops_per_token(
        self, model: ToyModelSpec, settings: LikelihoodSpec, length: int
    ) -> FlopsBreakdown:
        """One pass."""
        return FlopsBreakdown(forward(model))

    def generation_flops_per_token(
        self, model: ToyModelSpec, settings: GenerationSpec, prompt: int, *, batch: int = 1
    ) -> FlopsBreakdown:
        """The prompt is not read, but for its last token."""
        return FlopsBreakdown(forward(model))

    def activation_bytes(
        self,
        model: ToyModelSpec,
        objective: ToyObjective,
        precision: Precision,
    ) -> float:
        """Inputs of every product, and logits with their gradient."""
        layer = 8.0 * model.width + 12.0 * model.inner
        return model.layers * layer + 12.0 * model.vocab_size


def forward(model: ToyModelSpec) -> dict[str, float]:
    """Forward FLOPs per token."""
    return {
        "mlp": model.layers * 4.0 * model.width * model.inner,
        "head": 2.0 * model.width * model.vocab_size,
    }


TOY = ToyDefinition()
