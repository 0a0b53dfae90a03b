"""How finished models are used: settings of generation and likelihood.

A family reads the settings that apply to it (`FamilyDefinition.generation_keys` and
`likelihood_keys`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from cola.spec.base import SparseSpec, Spec


class GenerationSpec(SparseSpec):
    """How text is generated, and images where a family has them."""

    sparse_keys: ClassVar[tuple[str, ...]] = ("split_patch", "image_guidance_scale")

    max_new_tokens: PositiveInt = Field(
        default=64,
        description="Longest continuation in tokens; by default the rest of a short sequence.",
    )
    temperature: NonNegativeFloat = Field(
        default=0.0, description="Divides the logits before a token is drawn; 0 is greedy."
    )
    top_k: PositiveInt | None = Field(
        default=None, description="Draw from this many most probable tokens; null is all."
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Draw from the most probable tokens of this probability in all; null is all.",
    )
    repetition_penalty: PositiveFloat = Field(
        default=1.0, description="Divides the logits of tokens already present; 1 is off."
    )
    steps: PositiveInt = Field(default=16, description="Steps of the flow's solver a block.")
    guidance_scale: PositiveFloat = Field(
        default=3.0, description="Classifier-free guidance of the velocity; 1 is off."
    )
    image_guidance_scale: PositiveFloat | None = Field(
        default=None, description="The same for images; null: `guidance_scale`."
    )
    solver: Literal["euler", "heun", "midpoint"] = Field(
        default="euler", description="Solver of the flow's ODE."
    )
    time_grid: Literal["uniform", "cosine", "quadratic"] = Field(
        default="uniform", description="How the solver's steps are spread over time."
    )
    first_block: Literal["clean_repaint", "partial_repaint", "left_padding", "right_padding"] = (
        Field(
            default="clean_repaint",
            description="How the first block is generated when the prompt fills part of it.",
        )
    )
    split_patch: Literal["complete", "shift"] = Field(
        default="complete",
        description="What is done with a prompt whose end splits a patch: `complete` has the VAE "
        "predict the patch's missing tokens first, `shift` leaves out as many of the prompt's "
        "first tokens as make it end with a patch.",
    )
    remasking: Literal["low_confidence", "random"] = Field(
        default="low_confidence", description="Which tokens an unmasking step masks again."
    )
    tokens_per_pass: PositiveInt = Field(
        default=1,
        description="Tokens that a pass of a masked-diffusion model unmasks; the passes of a "
        "continuation share its tokens evenly.",
    )
    unmasking_block: PositiveInt | None = Field(
        default=None,
        description="Tokens that are unmasked before the next block of them; null is all at once.",
    )
    unmasking_guidance_scale: PositiveFloat = Field(
        default=1.0, description="Classifier-free guidance of the unmasking logits; 1 is off."
    )

    def ancestral(self) -> GenerationSpec:
        """The same settings with draws from the model's own distribution in every family: no
        temperature, cut-off, penalty or guidance, and one token a pass in random order."""
        return self.model_copy(update=ANCESTRAL)

    def in_one_pass(self) -> GenerationSpec:
        """The same settings for a prior that makes a block of noise at once: one unguided step."""
        return self.model_copy(update=ONE_PASS)

    def of_images(self) -> GenerationSpec:
        """The same settings for a block of an image."""
        if self.image_guidance_scale is None:
            return self
        return self.model_copy(update={"guidance_scale": self.image_guidance_scale})

    def unmasking_blocks(self, tokens: int) -> list[tuple[int, int, int]]:
        """(first token, end, passes) of the blocks in which so many tokens are unmasked, at least
        one."""
        size = self.unmasking_block or max(1, tokens)
        starts = range(0, max(1, tokens), size)
        blocks = [(start, min(start + size, tokens)) for start in starts]
        return [(a, b, self.passes_of(b - a)) for a, b in blocks]

    def passes_of(self, tokens: int) -> int:
        """Passes that unmask so many tokens together, at least one."""
        return max(1, -(-tokens // self.tokens_per_pass))

    def unmasking_passes(self, tokens: int) -> int:
        """Passes of a masked-diffusion model that unmask so many tokens, guidance left out."""
        return sum(passes for _, _, passes in self.unmasking_blocks(tokens))


# How text is drawn from the model as it is, whatever else is asked for.
ANCESTRAL: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": None,
    "top_p": None,
    "repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "image_guidance_scale": None,
    "remasking": "random",
    "tokens_per_pass": 1,
    "unmasking_block": None,
    "unmasking_guidance_scale": 1.0,
}


# The step from noise to latents, in place of a flow's solution.
ONE_PASS: dict[str, Any] = {
    "steps": 1,
    "guidance_scale": 1.0,
    "solver": "euler",
    "time_grid": "uniform",
}


class PredictiveSpec(Spec):
    """How the task `predictive` draws the tokens behind held-out text."""

    prompts: PositiveInt | None = Field(
        default=None,
        description=(
            "Prompts, at most: they end at multiples of `evaluation.prompt_tokens`, several in a "
            "sequence where the text has fewer sequences; null: `evaluation.task_items`."
        ),
    )
    draws: int = Field(
        default=8,
        ge=2,
        description="Independent draws behind each prompt; Brier scores compare them in pairs, and "
        "a likelihood by draws is a bound that falls as they grow.",
    )
    tokens: PositiveInt = Field(
        default=4,
        description="Tokens that are drawn behind a prompt: BrierLM needs 4, and results by offset "
        "in a block those of a block.",
    )

    def prompt_lengths(self, sequence_length: int, prompt_tokens: int) -> range:
        """Where prompts end: at multiples of `prompt_tokens` that leave `tokens` of the sequence
        behind them."""
        return range(prompt_tokens, sequence_length - self.tokens + 1, prompt_tokens)

    def how(self) -> tuple[int, int]:
        """What a score depends on, whatever the number of prompts."""
        return self.draws, self.tokens


class LikelihoodSpec(Spec):
    """Cost and accuracy of the validation NLL."""

    masked: Literal["monte_carlo", "chain_rule"] = Field(
        default="monte_carlo",
        description=(
            "NLL of masked diffusion: a bound by `mask_samples` stratified mask counts a sequence, "
            "or exact for unmasking from left to right, at a pass a token."
        ),
    )
    mask_samples: PositiveInt = Field(
        default=8, description="Mask counts a sequence of the Monte Carlo bound."
    )
    ode_steps: PositiveInt = Field(
        default=16,
        description=(
            "Steps a block of the ODE for the prior's log-density; it is also solved with twice as "
            "many, and extrapolated from both."
        ),
    )
    divergence: Literal["exact", "hutchinson"] = Field(
        default="hutchinson",
        description="Divergence of the velocity: its trace, or an estimate by one fixed probe.",
    )
    probe: Literal["rademacher", "gaussian"] = Field(
        default="rademacher", description="Distribution of Hutchinson's probe."
    )
    importance_samples: PositiveInt = Field(
        default=1,
        description="Samples of the latents a sequence; 1 is the evidence bound, more is IWAE's.",
    )

    diffusion_times: NonNegativeInt = Field(
        default=8,
        description=(
            "Times a block of the Monte Carlo bound by the prior's diffusion, which is recorded "
            "beside the ODE's with `importance_samples` 1; 0: it is left out."
        ),
    )

    @model_validator(mode="after")
    def _is_a_bound(self) -> LikelihoodSpec:
        # Hutchinson's noise is unbiased in log w, hence biased upwards in w.
        if self.importance_samples > 1 and self.divergence != "exact":
            raise ValueError(
                f"importance_samples={self.importance_samples} with divergence="
                f"{self.divergence!r} would not be a bound; use divergence='exact'"
            )
        return self
