"""The half of a family that has networks: training, likelihood, generation, export.

Nothing outside a family's own folder branches on its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cola.errors import SpecError
from cola.models.execution import BlockExecution, executing
from cola.records import NllKind
from cola.sampling.continuous_batching import Ended, in_chunks
from cola.sampling.predictive import NextTokens, PredictiveDraws
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec

WATCHED_POINTS = 16  # of a stage that `Family.collapse` gets


@dataclass(frozen=True)
class Batch:
    """Token ids and where they stand in the run.

    tokens_BL: (B, L) int64. images: (B, channels, height, width) uint8, one a sequence (None: the
    corpus has none). `stream` is keyed by the sequences' ids. `positions` are the rows'
    places in the global batch of `global_size` sequences (for stratified draws). `stage_step`
    counts the stage's optimiser steps before this one.
    """

    tokens_BL: Tensor
    stream: Stream
    positions: Sequence[int]
    global_size: int
    stage_step: int = 0
    images: Tensor | None = None


@dataclass(frozen=True)
class Likelihood:
    """Per-sequence negative log-likelihood, summed over its tokens, in nats.

    nll_B: (B,) float64. `parts` are its summands, `diagnostics` other numbers a sequence, each by
    name and of the same shape; `pooled` are means over a sequence, which say something once they
    are averaged over all sequences (`Family.pooled_metrics`). by_position_BL: how nll_B is made up,
    where that is known; a family that only knows the sum of several tokens spreads it evenly over
    them.
    """

    nll_B: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    pooled: dict[str, Tensor] = field(default_factory=dict)
    by_position_BL: Tensor | None = None


@dataclass(frozen=True)
class Conditional:
    """-log p(continuation | prompt) a row, summed over the continuation's tokens, in nats.

    nll_B: (B,) float64. kind: "exact", an upper "bound", or an "estimate" that is neither.
    greedy_B: (B,) bool, whether greedy generation makes the continuation; None where the family's
    generation is not of that kind, or finding out would take generating.
    """

    nll_B: Tensor
    kind: NllKind
    greedy_B: Tensor | None = None


class StageModule(nn.Module):
    """What an optimiser sees in one stage: `forward` takes the drawn inputs of one micro-batch.

    Returns a dictionary of scalar tensors: "loss" (what is minimised) and its parts and
    diagnostics by name, each a mean over the rows. How its networks' blocks run (compiled, with
    activation checkpointing) holds for its own passes, not for other uses of the model.
    """

    execution = BlockExecution()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`, whose blocks run as `execution` says."""
        tokens_BL = kwargs.get("tokens_BL")
        given = self.execution if tokens_BL is None else self.execution.of_pass(len(tokens_BL))
        with executing(given):
            return super().__call__(*args, **kwargs)

    def compile(
        self, *args: Any, backend: str = "inductor", rows: int | None = None, **kwargs: Any
    ) -> None:
        """Compile the blocks, each kind of block once, as they are called first.

        In place of torch's, which would compile the whole stage as one graph: for a deep model that
        takes minutes. `rows`: sequences of the largest micro-batch; blocks of a smaller one have
        rows of zeros for the rest, as another number of rows would be compiled anew.
        """
        self.execution = replace(self.execution, backend=backend, rows=rows)

    def checkpoint_activations(self) -> None:
        """Keep the inputs of blocks alone for the backward pass, which computes the rest again."""
        self.execution = replace(self.execution, checkpoints=True)

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """All random inputs of `forward`, from the batch's stream; runs without gradients.

        It is called on the host in a thread while the step before is in work, so it must not read
        weights. What depends on the values drawn is decided here: `forward` must not ask a GPU for
        a number, as the host would wait for it.
        """
        raise TypeError(f"{type(self).__name__} must say what it draws")


class Family(ABC):
    """One model family, with what most families have in common as defaults.

    Model, specification and objective are the family's own types, so the interface leaves them
    open.
    """

    name: str
    fills_gaps: bool = False  # whether `infill` can
    watched: tuple[str, ...] = ()  # logged values that `collapse` looks at

    @abstractmethod
    def build(self, spec: Any) -> Any:
        """A freshly initialised model (initialisation draws from torch's global generator)."""

    @abstractmethod
    def stage_module(self, model: Any, objective: Any, stage: str) -> StageModule:
        """The module to optimise in `stage`; it shares its parameters with `model`."""

    def parameter_groups(
        self, module: StageModule, objective: Any, stage: str
    ) -> list[dict[str, Any]]:
        """Trained parameters as optimiser groups: {"params": [...], "lr_ratio": float}.

        A group with `interval` k is updated by the last of every k steps alone; the module gives
        its parameters no gradient in the others.
        """
        return [{"params": trained(module), "lr_ratio": 1.0}]

    def collapse(
        self, points: Sequence[Mapping[str, float]], spec: Any, objective: Any
    ) -> str | None:
        """What has collapsed in training, or None.

        `points` are means over the workers of the `watched` values that the stage logs, oldest
        first, at least the last `WATCHED_POINTS`.
        """
        return None

    @abstractmethod
    def likelihood(
        self, model: Any, tokens_BL: Tensor, settings: LikelihoodSpec, *, stream: Stream
    ) -> Likelihood:
        """NLL (see `FamilyDefinition.nll_kind`) of all L tokens of each sequence.

        Raises:
            SpecError: such a model has none.
        """

    def measurements(self, model: Any, tokens_BL: Tensor, stream: Stream) -> dict[str, Tensor]:
        """What sequences say of a model that has no likelihood, by name, (B,) each."""
        return {}

    def pooled_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Measurements of a validation, by name, from the means of `Likelihood.pooled` over all of
        its sequences."""
        return {}

    def likelihood_evaluations(self, model: Any, settings: LikelihoodSpec, length: int) -> int:
        """Network evaluations (of Cola DLM: of the prior's velocity) for one `likelihood` of a
        sequence of `length` tokens."""
        return 1

    @abstractmethod
    def generation_evaluations(self, model: Any, settings: GenerationSpec, prompt: int) -> int:
        """Network evaluations for one continuation of `max_new_tokens` tokens behind `prompt`
        tokens; both passes of guidance count. Encoding a prompt and decoding are left out."""

    @abstractmethod
    def conditional_nll(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        settings: LikelihoodSpec,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Conditional:
        """NLL of continuations given their prompts, rows of any lengths in one batch.

        A row's number does not depend on the other rows. A prompt may be empty. `eos_token_id` is
        what a family pads with that must fill up blocks (None: 0).
        """

    def priced_tokens(self, model: Any, tokens: int) -> int:
        """How many tokens' places `conditional_nll` prices of a continuation of so many tokens:
        more, where a family fills up its last block."""
        return tokens

    def sizes_of(self, model: Any) -> Any:
        """The specification of a model, from its networks; None where the family gives none."""
        return None

    def sizes_in(self, folder: Path) -> Any:
        """The specification of the model that `save` wrote, without its weights; None where the
        family gives none."""
        return None

    def diagnostics(self, model: Any, tokens_BL: Tensor, stream: Stream) -> dict[str, float]:
        """Measurements of a finished model beside its likelihood, by name (maybe none)."""
        return {}

    def pair_diagnostics(
        self,
        model: Any,
        tokens_BL: Tensor,
        images: Tensor,
        *,
        settings: LikelihoodSpec,
        stream: Stream,
    ) -> dict[str, float]:
        """Measurements of a finished model on texts with their images (B, channels, height, width),
        uint8, by name; none of a family of texts alone."""
        return {}

    def draw_images(
        self, model: Any, tokens_BL: Tensor, settings: GenerationSpec, *, stream: Stream
    ) -> Tensor | None:
        """An image for each text, (B, channels, height, width) uint8; None of a family of texts
        alone."""
        return None

    def describe_images(
        self, model: Any, images: Tensor, length: int, *, settings: GenerationSpec, stream: Stream
    ) -> Tensor | None:
        """`length` tokens for each image, (B, L); None of a family of texts alone."""
        return None

    def block_means(self, model: Any, tokens_BL: Tensor) -> Tensor | None:
        """What the model makes of each of b equal blocks of a text, (B, b, d), as means over their
        latents; None for a family without latents."""
        return None

    def judge(
        self, model: Any, rows: Sequence[Sequence[int]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Exact NLL in nats (N,) of texts that are not empty, by one pass, and their features
        (N, d): the last hidden state behind the last token.

        Raises:
            SpecError: where the family is not `FamilyDefinition.exact_in_one_pass`.
        """
        raise SpecError(f"{self.name} models cannot judge texts by an exact likelihood of one pass")

    @abstractmethod
    def generate(
        self,
        model: Any,
        prompts: list[list[int]],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
    ) -> list[list[int]]:
        """Continuations (new tokens only, cut after EOS) of prompts of any lengths."""

    def iter_generate(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
        rows: int,
        ended: Ended | None = None,
    ) -> Iterator[tuple[int, list[int]]]:
        """Many prompts' continuations as they end: (index of the prompt, its new tokens).

        They are those of `generate`, in any order, with at most `rows` prompts in work at once.
        `ended` says of the tokens made so far whether to stop there: a continuation is cut after
        the first token with which it holds.
        """
        return in_chunks(
            lambda texts, part: self.generate(
                model, texts, settings, stream=part, eos_token_id=eos_token_id
            ),
            prompts,
            stream,
            rows=rows,
            ended=ended,
        )

    def stream(
        self,
        model: Any,
        prompt: list[int],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Iterator[list[int]]:
        """The continuation of one prompt in the pieces in which it is made; see `generate`."""
        yield from self.generate(
            model, [prompt], settings, stream=stream, eos_token_id=eos_token_id
        )

    def predictive_draws(
        self,
        model: Any,
        prompts_BL: Tensor,
        truth_BN: Tensor,
        settings: GenerationSpec,
        *,
        draws: Sequence[int],
        stream: Stream,
        eos_token_id: int | None,
    ) -> PredictiveDraws:
        """Independent draws, by their numbers, of the N tokens behind each prompt of one length,
        and what each draw gives the text's own next tokens.

        `settings` draw from the model as it is (`GenerationSpec.ancestral`) and make N tokens. A
        draw depends on its prompt and number alone. By default draws are what `generate` makes,
        without probabilities.
        """
        made = [
            self.generate(
                model,
                prompts_BL.tolist(),
                settings,
                stream=Stream(stream.seed, draw, stream.sample_ids, device=stream.device),
                eos_token_id=None,
            )
            for draw in draws
        ]
        tokens_BMN = torch.tensor(made, device=truth_BN.device).transpose(0, 1)
        return PredictiveDraws(tokens_BMN)

    def next_tokens(self, model: Any, prompts_BL: Tensor, truth_BN: Tensor) -> NextTokens | None:
        """Exact predictions of each of the N tokens behind the prompts, from all before it; None
        where the family has none."""
        return None

    def infill(
        self,
        model: Any,
        lefts: list[list[int]],
        gaps: list[int],
        *,
        rights: list[list[int]],
        settings: GenerationSpec,
        stream: Stream,
    ) -> list[list[int]]:
        """Exactly `gaps[i]` tokens to stand between `lefts[i]` and `rights[i]`.

        Raises:
            SpecError: where the family cannot.
        """
        raise SpecError(f"{self.name} models cannot fill a gap; use another family's")

    @abstractmethod
    def save(self, model: Any, folder: Path) -> None:
        """Export as Hugging Face model folder(s)."""

    @abstractmethod
    def load(self, folder: Path) -> Any:
        """Load what `save` wrote."""

    def name_tokens(self, folder: Path, eos_token_id: int) -> int | None:
        """Tell who opens what `save` wrote without this project which tokens are special.

        Returns the id of the token that the model reads before every text (None: it reads none).
        """
        return None


def trained(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that take part in training."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@torch.no_grad()
def count_parameters(module: nn.Module) -> int:
    """Number of parameters, each shared one counted once."""
    return sum(parameter.numel() for parameter in module.parameters())
