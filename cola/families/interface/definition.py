"""The torch-free half of a family: all that planning, tracking and reports need of it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from cola.compute.flops import Convention, FlopsBreakdown, ParameterCounts
from cola.compute.sizing import check_core, no_shape, size_by_total
from cola.errors import SpecError
from cola.families.interface.specs import FamilySettings, ModelSpec, ObjectiveSpec
from cola.records import NllKind
from cola.spec import GenerationSpec, LikelihoodSpec

if TYPE_CHECKING:
    from cola.families.interface.family import Family

MODEL_CONFIG = "config.json"


@dataclass(frozen=True)
class Look:
    """How a family's curves are drawn: Okabe and Ito's palette is distinct with every common
    colour blindness. `line` is the style of curves that compare another family with this one: a
    name of matplotlib's, or (offset, lengths of dashes and gaps in points)."""

    colour: str
    line: str | tuple[float, tuple[float, ...]] = "-"
    marker: str = "o"


@dataclass(frozen=True)
class Protocol:
    """How texts are made: `mode`, the model's most probable answer as its decoding finds it, or a
    `draw` of many possible ones; `text` says it for people."""

    kind: Literal["mode", "draw"]
    text: str


class FamilyDefinition(ABC):
    """One model family without its networks.

    Settings, model and objective are the family's own types, so the methods leave them open; each
    takes only specifications of this family.
    """

    name: str  # in specifications, tags and run names
    label: str  # for people
    look: Look
    settings: type[FamilySettings]
    model: type[ModelSpec]
    objective: type[ObjectiveSpec]
    # Where an exported model's configurations lie: subfolder ("." for the folder itself) to their
    # `model_type`. The first one says how many tokens a sequence may have.
    folders: Mapping[str, str]
    # Of these folders, `model_type`s that they may have in place of that.
    other_types: Mapping[str, frozenset[str]] = MappingProxyType({})
    # Whether one pass of the model gives the exact likelihood of a text and `Family.judge` is
    # implemented: such a model can judge the texts of others.
    exact_in_one_pass: bool = False
    # Whether `Family.likelihood` solves an equation, whose error it reports as the diagnostic
    # `cola.records.SOLVER_DIFFERENCE`: without a small one its bound is an estimate.
    likelihood_is_solved: bool = False
    # What `Family` reads of `GenerationSpec` and `LikelihoodSpec`; another key has no effect.
    generation_keys: frozenset[str] = frozenset()
    likelihood_keys: frozenset[str] = frozenset()
    # Names of `Family.diagnostics`, without their last part, to what each means.
    diagnostics: Mapping[str, str] = MappingProxyType({})
    # What a reader of task results must know of this family: sentences of the report.
    task_note: str = ""
    # How an exported folder is opened: a sentence of the model card.
    opening_note: str = "`AutoTokenizer` opens this folder, `cola serve-model` serves the model."
    # The library by which Hugging Face's hub knows the folder, where it opens the model itself.
    library: str | None = None

    @abstractmethod
    def implementation(self) -> Family:
        """The half with torch, imported on demand."""

    @abstractmethod
    def paper_row(self, vocab_size: int, settings: Any) -> ModelSpec:
        """The model of the paper's row of about 2 B parameters (docs/model.md)."""

    @abstractmethod
    def nearest(self, core_parameters: int, vocab_size: int, settings: Any) -> ModelSpec:
        """The model with about this many parameters outside token embeddings and head.

        Raises:
            SpecError: when the target is too small for any shape.
        """

    def size(self, core_parameters: int, vocab_size: int, settings: Any) -> ModelSpec:
        """The model with this many parameters outside token embeddings and head.

        Raises:
            SpecError: when no shape comes within the tolerance of `cola.compute.sizing`.
        """
        try:
            model = self.nearest(core_parameters, vocab_size, settings)
        except SpecError as error:
            raise no_shape(self.name, core_parameters, error) from None
        check_core(self.name, core_parameters, self.parameter_counts(model).core)
        return model

    def size_by_total(self, total_parameters: int, vocab_size: int, settings: Any) -> ModelSpec:
        """The model with this many parameters in all, embeddings included.

        Raises:
            SpecError: when embeddings leave no core, or no shape comes within the tolerance.
        """

        def size(core: int) -> tuple[ModelSpec, int]:
            model = self.size(core, vocab_size, settings)
            return model, self.parameter_counts(model).total

        return size_by_total(self.name, total_parameters, vocab_size, size=size)

    @abstractmethod
    def parameter_counts(self, model: Any) -> ParameterCounts:
        """Exact parameter counts, as the built model has them."""

    @abstractmethod
    def train_flops_per_token(
        self, model: Any, objective: Any, length: int, *, stage: str, convention: Convention
    ) -> FlopsBreakdown:
        """Training FLOPs per token of a stage; see `cola.compute.flops` for the conventions."""

    def prior_flops_per_token(
        self, model: Any, objective: Any, length: int, *, stage: str
    ) -> float | None:
        """What of a stage's executed `train_flops_per_token` trains the prior of the latents; None
        where the model is no such prior with something else beside it."""
        return None

    def nll_kind(self, model: Any, settings: LikelihoodSpec) -> NllKind | None:
        """Whether `Family.likelihood` of such a model is exact or an upper bound with these
        settings; where it solves an equation, given that its steps are short enough. None: such a
        model has no likelihood, and is measured by `Family.measurements`.

        `model`: its specification, or the entry's settings; None where a family gives no sizes.
        """
        return "exact"

    @abstractmethod
    def likelihood_flops_per_token(
        self, model: Any, settings: LikelihoodSpec, length: int
    ) -> FlopsBreakdown:
        """Executed FLOPs of a validation NLL per token of a sequence of `length` tokens."""

    @abstractmethod
    def generation_flops_per_token(
        self, model: Any, settings: GenerationSpec, prompt: int, *, batch: int = 1
    ) -> FlopsBreakdown:
        """Executed FLOPs of a continuation of `max_new_tokens` tokens, per new token, the prompt's
        part included.

        Rows of a batch are counted alone: what a batch shares is divided by `batch`. Stops at EOS
        are left out.
        """

    def predictive_flops(
        self, model: Any, settings: GenerationSpec, prompt: int, *, draws: int
    ) -> float:
        """Executed FLOPs of `Family.predictive_draws` and `Family.next_tokens` behind one prompt of
        `prompt` tokens; by default those of as many continuations as there are draws."""
        per_token = self.generation_flops_per_token(model, settings, prompt, batch=draws)
        return draws * settings.max_new_tokens * per_token.total

    def keys_read(self, part: str, model: Any) -> frozenset[str]:
        """Keys of `GenerationSpec` (`part` generation) or `LikelihoodSpec` (likelihood) that such a
        model reads.

        `model`: its specification, or the entry's settings; None where neither is known, and all
        that some model of the family reads are given.
        """
        return self.generation_keys if part == "generation" else self.likelihood_keys

    def protocol(self, settings: GenerationSpec, model: Any = None) -> Protocol:
        """How texts of such a model (see `keys_read`) are made at these settings: by default as a
        model that draws tokens does."""
        read, drawn = self.generation_keys, settings.temperature > 0
        text = f"tokens drawn at temperature {settings.temperature:g}"
        if not drawn:
            text = "the most probable token"
        for key in ("top_k", "top_p") if drawn else ():
            value = getattr(settings, key)
            if key in read and value is not None:
                text += f", {key} {value:g}"
        if "repetition_penalty" in read and settings.repetition_penalty != 1.0:
            text += f", repetition penalty {settings.repetition_penalty:g}"
        return Protocol("draw" if drawn else "mode", text)

    @abstractmethod
    def activation_bytes(
        self, model: Any, objective: Any, precision: Literal["float32", "bfloat16"]
    ) -> float:
        """Bytes that a token of a micro-batch keeps for the backward pass, in the largest stage."""

    def checkpointed_bytes(
        self, model: Any, objective: Any, precision: Literal["float32", "bfloat16"]
    ) -> float | None:
        """`activation_bytes` with activation checkpointing; None where the family's networks do
        not pass their blocks through `cola.models.execution.run_block`."""
        return None

    def head_shares(self, objective: Any) -> tuple[float, ...]:
        """Of each pass of a training step through a `cola.models.head.OutputHead` that scores
        tokens: their number over the text's. Empty: all logits of `activation_bytes` are kept."""
        return ()

    def frozen_parameters(self, model: Any, objective: Any) -> int:
        """Parameters of copies that training holds beside the model, without gradients."""
        return 0

    def channel_capacity(self, model: Any) -> float | None:
        """Most nats a token that the model's latents can hold; None where it has none, or where
        training decides it."""
        return None

    def problem(self, values: Mapping[str, float], unigram: float) -> str | None:
        """One sentence on what is wrong with a finished model, by the measurements of its last
        validation, by name; None where nothing is. unigram: nats a token of token frequencies on
        the same sequences."""
        return None

    def longest_sequence(self, model: Any) -> int | None:
        """Most tokens of a sequence that such a model can read; None: any number, as models whose
        positions are relative can."""
        return None

    def sequence_multiple(self, settings: Any) -> tuple[int, str]:
        """What the sequence length must be a multiple of, and the settings that make it up."""
        return 1, ""

    def image_shape(self, settings: Any) -> tuple[int, int, int] | None:
        """Channels, height and width of the images that an entry of these settings reads beside
        its texts; None: it reads texts alone."""
        return None

    def deciding(self, model: Any, objective: Any, stage: str) -> dict[str, Any]:
        """What of model and objective decides the training state at the end of a stage.

        Runs that agree in it (and in data, seed, optimiser and rates) share those steps.
        """
        return {
            "model": model.model_dump(mode="json"),
            "objective": objective.model_dump(mode="json"),
        }

    @property
    def bootstrap_seed(self) -> int:
        """Seed of the curve's refits: different for every family, whichever others there are."""
        return seed_of(self.name)

    def config_file(self) -> str:
        """The exported configuration that says how many tokens a sequence may have."""
        first = next(iter(self.folders))
        return MODEL_CONFIG if first == "." else f"{first}/{MODEL_CONFIG}"


def seed_of(name: str) -> int:
    """A seed that depends on the name alone: 32 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
