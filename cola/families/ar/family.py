"""The autoregressive baseline as a family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from cola.errors import SpecError
from cola.families.ar.spec import ARModelSpec, NextToken
from cola.families.interface.family import Batch, Conditional, Likelihood, StageModule
from cola.families.interface.pretrained import load_pretrained
from cola.families.interface.refilling import RefillingFamily
from cola.likelihood.next_token import conditional_nll, judged
from cola.models.transformer import build_ar, llama_sizes, with_output_head
from cola.objectives.next_token import next_token_loss, token_nll
from cola.sampling.autoregressive import iter_generate, stream_tokens
from cola.sampling.next_token_draws import next_token_draws, next_tokens
from cola.sampling.predictive import NextTokens, PredictiveDraws
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec


class NextTokenStage(StageModule):
    """Mean next-token cross entropy."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing is random."""
        return {"tokens_BL": batch.tokens_BL}

    def forward(self, tokens_BL: Tensor) -> dict[str, Tensor]:
        """See `StageModule`."""
        return {"loss": next_token_loss(self.model, tokens_BL)}


class ARFamily(RefillingFamily):
    """See `Family`."""

    name = "ar"

    def build(self, spec: ARModelSpec) -> LlamaForCausalLM:
        """See `Family.build`."""
        return build_ar(spec)

    def stage_module(
        self, model: LlamaForCausalLM, objective: NextToken, stage: str
    ) -> StageModule:
        """See `Family.stage_module`; the only stage is train."""
        return NextTokenStage(model)

    def likelihood(
        self,
        model: LlamaForCausalLM,
        tokens_BL: Tensor,
        settings: LikelihoodSpec,
        *,
        stream: Stream,
    ) -> Likelihood:
        """See `Family.likelihood`: exact, by the chain rule."""
        nll_BL = token_nll(model, tokens_BL).double()
        return Likelihood(nll_BL.sum(1), by_position_BL=nll_BL)

    def generation_evaluations(
        self, model: LlamaForCausalLM, settings: GenerationSpec, prompt: int
    ) -> int:
        """See `Family.generation_evaluations`: one a token."""
        return settings.max_new_tokens

    def conditional_nll(
        self,
        model: LlamaForCausalLM,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        settings: LikelihoodSpec,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Conditional:
        """See `Family.conditional_nll`: exact, with the start token before the prompt."""
        nll_B, greedy_B = conditional_nll(model, prompts, continuations)
        return Conditional(nll_B, "exact", greedy_B)

    def judge(
        self, model: LlamaForCausalLM, rows: Sequence[Sequence[int]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """See `Family.judge`: the start token precedes every text."""
        return judged(model, rows, device)

    def stream(
        self,
        model: LlamaForCausalLM,
        prompt: list[int],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Iterator[list[int]]:
        """See `Family.stream`: token by token."""
        return stream_tokens(model, prompt, settings, stream=stream, eos_token_id=eos_token_id)

    def predictive_draws(
        self,
        model: LlamaForCausalLM,
        prompts_BL: Tensor,
        truth_BN: Tensor,
        settings: GenerationSpec,
        *,
        draws: Sequence[int],
        stream: Stream,
        eos_token_id: int | None,
    ) -> PredictiveDraws:
        """See `Family.predictive_draws`: token by token."""
        return next_token_draws(model, prompts_BL, truth_BN, settings, draws=draws, stream=stream)

    def next_tokens(
        self, model: LlamaForCausalLM, prompts_BL: Tensor, truth_BN: Tensor
    ) -> NextTokens:
        """See `Family.next_tokens`."""
        return next_tokens(model, prompts_BL, truth_BN)

    def infill(
        self,
        model: LlamaForCausalLM,
        lefts: list[list[int]],
        gaps: list[int],
        *,
        rights: list[list[int]],
        settings: GenerationSpec,
        stream: Stream,
    ) -> list[list[int]]:
        """See `Family.infill`: no right context conditions it."""
        raise SpecError(
            "ar models cannot fill a gap: they see only what is left of it; use another family's"
        )

    def sizes_of(self, model: LlamaForCausalLM) -> ARModelSpec:
        """See `Family.sizes_of`."""
        return ARModelSpec(**llama_sizes(model.config))

    def save(self, model: LlamaForCausalLM, folder: Path) -> None:
        """A plain Llama folder."""
        model.save_pretrained(folder)

    def load(self, folder: Path) -> LlamaForCausalLM:
        """Load what `save` wrote."""
        return with_output_head(load_pretrained(LlamaForCausalLM, folder))

    def name_tokens(self, folder: Path, eos_token_id: int) -> int:
        """See `Family.name_tokens`: generation ends with EOS and never makes the start token."""
        start: int = LlamaConfig.from_pretrained(folder).bos_token_id
        GenerationConfig(
            bos_token_id=start,
            eos_token_id=eos_token_id,
            pad_token_id=eos_token_id,
            suppress_tokens=[start],
        ).save_pretrained(folder)
        return start

    continuations = staticmethod(iter_generate)
