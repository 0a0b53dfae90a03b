"""FLOPs of validation and generation against torch's own counter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cola.compute.flops import FlopsBreakdown
from cola.families.interface.specs import ModelSpec
from cola.families.registry import definition_of, family_of
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec
from tests.sizes import generation_flops_per_token, likelihood_flops_per_token, size_model

BATCH, LENGTH = 3, 64


class FlopCounter(TorchDispatchMode):
    """torch's own counts by operator. Its FlopCounterMode also follows modules, which gradients
    towards an input (the divergence's) do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            formula = flop_registry[func._overloadpacket]
            self.counts[str(func)] += formula(*args, **(kwargs or {}), out_val=out)
        return out


def counted(job: Callable[[], object]) -> tuple[float, float]:
    """FLOPs of a call by torch: (outside attention products, inside)."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounter() as counter:
        job()
    attention = sum(count for name, count in counter.counts.items() if "bmm" in name)
    return counter.counts.total() - attention, attention


def split(found: FlopsBreakdown, tokens: int) -> tuple[float, float]:
    """The same split of ours, for `tokens` tokens."""
    scores = sum(v for name, v in found.components.items() if name.endswith("attention_scores"))
    return (found.total - scores) * tokens, scores * tokens


def model_of(spec: ModelSpec) -> Any:
    torch.manual_seed(0)
    return family_of(spec.family).build(spec).eval()


@pytest.mark.parametrize(
    ("family", "settings", "size"),
    [
        *(
            (family, settings, size)
            for family, settings in (
                ("ar", LikelihoodSpec()),
                ("llada", LikelihoodSpec(mask_samples=3)),
                ("llada", LikelihoodSpec(masked="chain_rule")),
                ("cola", LikelihoodSpec(ode_steps=2, diffusion_times=3)),
                ("bd3lm", LikelihoodSpec(mask_samples=3)),
                ("embedding_diffusion", LikelihoodSpec(ode_steps=2, diffusion_times=3)),
            )
            for size in (100_000, 1_000_000)
        ),
        # Of the smaller size only.
        pytest.param(
            "cola",
            LikelihoodSpec(
                ode_steps=1, divergence="exact", importance_samples=2, diffusion_times=1
            ),
            100_000,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_validation_agrees_with_torch(family: str, settings: LikelihoodSpec, size: int) -> None:
    # An exact divergence has a backward pass for every coordinate of a block.
    own = {"latent_dim": 2, "block_size": 8} if settings.divergence == "exact" else {}
    spec = size_model(family, size, 300, **own)
    model, tokens = model_of(spec), torch.randint(0, 300, (BATCH, LENGTH))
    stream = Stream(0, 0, range(BATCH))
    outside, inside = counted(
        lambda: family_of(family).likelihood(model, tokens, settings, stream=stream)
    )
    ours = split(likelihood_flops_per_token(spec, settings, LENGTH), BATCH * LENGTH)
    assert ours[0] == pytest.approx(outside, rel=0.01)
    assert ours[1] <= inside * (1 + 1e-9)  # torch multiplies hidden pairs too
    assert ours[1] > 0.3 * inside


@pytest.mark.parametrize("size", [100_000, 1_000_000])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("ar", {}),
        ("llada", {"tokens_per_pass": 7}),
        (
            "llada",
            {"tokens_per_pass": 8, "unmasking_block": 12, "unmasking_guidance_scale": 2.0},
        ),
        ("cola", {"steps": 3, "guidance_scale": 1.0}),
        ("cola", {"steps": 3, "guidance_scale": 4.0}),
        ("cola", {"steps": 2, "solver": "heun"}),
        ("cola", {"steps": 2, "solver": "midpoint", "guidance_scale": 1.0}),
        ("bd3lm", {"tokens_per_pass": 3}),
        ("embedding_diffusion", {"steps": 3, "guidance_scale": 4.0}),
        ("embedding_diffusion", {"steps": 2, "solver": "heun", "guidance_scale": 1.0}),
    ],
)
def test_generation_agrees_with_torch(family: str, changes: dict[str, Any], size: int) -> None:
    spec = size_model(family, size, 300)
    settings = GenerationSpec(max_new_tokens=32, **changes)
    model = model_of(spec)
    prompts = torch.randint(0, 300, (BATCH, 32)).tolist()
    with torch.no_grad():
        outside, inside = counted(
            lambda: family_of(family).generate(
                model, prompts, settings, stream=Stream(0, 0, range(BATCH)), eos_token_id=None
            )
        )
    ours = split(generation_flops_per_token(spec, settings, 32, batch=BATCH), BATCH * 32)
    assert ours[0] == pytest.approx(outside, rel=0.01)
    assert ours[1] <= inside * (1 + 1e-9)
    assert ours[1] > 0.3 * inside


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_two_passes_an_evaluation_agree_with_torch(guidance: float) -> None:
    """With self-conditioning."""
    spec = size_model("cola", 100_000, 300, objective={"stage2": {"self_conditioning": 0.5}})
    model, family = model_of(spec), family_of("cola")
    tokens, stream = torch.randint(0, 300, (BATCH, LENGTH)), Stream(0, 0, range(BATCH))
    likelihood = LikelihoodSpec(ode_steps=1, diffusion_times=1)
    generation = GenerationSpec(max_new_tokens=32, steps=2, guidance_scale=guidance)

    def generate() -> None:
        with torch.no_grad():
            family.generate(
                model, tokens[:, :32].tolist(), generation, stream=stream, eos_token_id=None
            )

    outside, _ = counted(lambda: family.likelihood(model, tokens, likelihood, stream=stream))
    ours = split(likelihood_flops_per_token(spec, likelihood, LENGTH), BATCH * LENGTH)
    assert ours[0] == pytest.approx(outside, rel=0.01)
    outside, _ = counted(generate)
    ours = split(generation_flops_per_token(spec, generation, 32, batch=BATCH), BATCH * 32)
    assert ours[0] == pytest.approx(outside, rel=0.01)


def test_a_prompt_that_ends_in_a_block_has_that_block_made_again() -> None:
    spec = size_model("cola", 1_000_000, 300)
    repaint = GenerationSpec(max_new_tokens=32)
    padded = GenerationSpec(max_new_tokens=32, first_block="left_padding")
    made = [
        generation_flops_per_token(spec, settings, 40).components["dit_mlp"]
        for settings in (repaint, padded)
    ]
    assert made[0] == pytest.approx(made[1] * 3 / 2)  # 8 + 32 tokens are 3 blocks, 32 are 2


@pytest.mark.parametrize(("prompt", "vocab"), [(32, 300), (40, 3_000)])
@pytest.mark.parametrize("family", ["ar", "llada", "cola", "bd3lm", "embedding_diffusion"])
def test_predictive_draws_agree_with_torch(family: str, prompt: int, vocab: int) -> None:
    """Logits are of the drawn tokens alone, which a large vocabulary shows."""
    spec = size_model(family, 100_000, vocab)
    settings = GenerationSpec(max_new_tokens=20, steps=3).ancestral()
    model, implementation = model_of(spec), family_of(family)
    text = torch.randint(0, vocab, (1, prompt + 20))
    prompts, truth = text[:, :prompt], text[:, prompt:]

    def job() -> None:
        implementation.predictive_draws(
            model,
            prompts,
            truth,
            settings,
            draws=range(4),
            stream=Stream(0, 0, [0]),
            eos_token_id=None,
        )
        implementation.next_tokens(model, prompts, truth)

    outside, inside = counted(job)
    ours = definition_of(family).predictive_flops(spec, settings, prompt, draws=4)
    assert outside < ours < 1.03 * (outside + inside)
