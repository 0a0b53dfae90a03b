"""FLOPs against torch's own counter, and against the paper's row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cola.families.ar.spec import ARModelSpec, NextToken
from cola.families.bd3lm.flops import whole_text
from cola.families.bd3lm.spec import BD3LMModelSpec, BlockMaskedDiffusion
from cola.families.cola.spec import ColaModelSpec, ColaObjective
from cola.families.embedding_diffusion.spec import EmbeddingFlow
from cola.families.interface.family import Batch, count_parameters
from cola.families.interface.specs import ModelSpec, ObjectiveSpec
from cola.families.llada.spec import LLaDAModelSpec, MaskedDiffusion
from cola.families.registry import BUILT_IN, definitions, family_of
from cola.seeding import Stream
from cola.spec import DiTSpec, TextVAESpec
from cola.spec.objectives import JointObjective, VAEObjective
from tests.sizes import parameter_counts, size_model, train_flops_per_token

BATCH = 4
PAPER_TOKENS = 300_000 * 720_896
PAPER_TRUNK = {"hidden_size": 2048, "ffn_size": 8192, "num_layers": 27, "num_heads": 16}
PAPER_COLA = ColaModelSpec(
    vae=TextVAESpec(
        vocab_size=100_278,
        hidden_size=1536,
        ffn_size=6144,
        num_heads=12,
        encoder_layers=4,
        decoder_layers=4,
    ),
    dit=DiTSpec(hidden_size=2048, num_layers=24, num_heads=16, head_dim=128, rope_dim=96),
)
COLA_VARIANTS = {
    "default": ColaObjective(),
    "frozen": ColaObjective(stage2=JointObjective(gradient_mode="frozen_vae")),
    "joint": ColaObjective(stage2=JointObjective(gradient_mode="joint", lambda_ref=0.1)),
    "dropout": ColaObjective(stage1=VAEObjective(token_dropout=0.2)),
    "plain": ColaObjective(
        stage1=VAEObjective(lambda_mask=0.0), stage2=JointObjective(prompt_block_probability=0.0)
    ),
}
CASES: list[tuple[str, ObjectiveSpec, str]] = [
    ("ar", NextToken(), "train"),
    ("llada", MaskedDiffusion(random_length_fraction=0.0), "train"),
    ("cola", COLA_VARIANTS["default"], "vae"),
    *(("cola", variant, "joint") for variant in COLA_VARIANTS.values()),
    ("bd3lm", BlockMaskedDiffusion(), "train"),
    ("embedding_diffusion", EmbeddingFlow(), "train"),
    ("embedding_diffusion", EmbeddingFlow(prompt_block_probability=0.0), "train"),
]
CASES += [
    (family.name, objective, stage)
    for family in definitions()
    if family not in BUILT_IN
    for objective in [family.settings.parse({}).objective]
    for stage in objective.stage_shares()
]


def counted(
    spec: ModelSpec, objective: ObjectiveSpec, stage: str, length: int, *, step: int = 0
) -> tuple[float, float]:
    """FLOPs per token of a stage's training step by torch: (outside attention products, inside).

    Under the math kernel attention is batched products, as is AdaLN's spreading over the latents;
    everything else is not.
    """
    torch.manual_seed(0)
    family = family_of(spec.family)
    module = family.stage_module(family.build(spec), objective, stage)
    vocab = spec.vocab_size
    tokens = torch.randint(0, vocab, (BATCH, length))
    stream = Stream(0, step, range(BATCH))
    draws = module.draw(Batch(tokens, stream, list(range(BATCH)), BATCH, stage_step=step))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(**draws)["loss"].backward()
    by_operator = counter.get_flop_counts()["Global"]
    attention = sum(count for op, count in by_operator.items() if "bmm" in str(op))
    size = BATCH * length
    return (counter.get_total_flops() - attention) / size, attention / size


@pytest.mark.parametrize(("family", "objective", "stage"), CASES)
@pytest.mark.parametrize(("size", "length"), [(100_000, 64), (100_000, 128), (1_000_000, 64)])
def test_executed_agrees_with_torch(
    family: str, objective: ObjectiveSpec, stage: str, size: int, length: int
) -> None:
    spec = size_model(family, size, 300)
    ours = train_flops_per_token(spec, objective, length, stage=stage, convention="executed")
    scores = sum(v for name, v in ours.components.items() if name.endswith("attention_scores"))
    outside, inside = counted(spec, objective, stage, length)
    spread = ours.components.get("dit_adaln_spread", 0.0)
    assert ours.total - scores - spread == pytest.approx(outside, rel=0.01)
    # torch multiplies hidden pairs too: what is visible is at most that, and all of it for LLaDA.
    assert scores + spread <= inside * (1 + 1e-9)
    if family == "llada":
        assert scores == pytest.approx(inside)
    if family == "ar":
        assert scores == pytest.approx(inside * (length + 1) / (2 * length))


@pytest.mark.parametrize("more", [{}, {"reference_in": "every_mode", "lambda_mask": 0.0}])
def test_an_interval_is_charged_its_mean_step(more: dict[str, Any]) -> None:
    spec = size_model("cola", 100_000, 300)
    stage2 = JointObjective(gradient_mode="interval", vae_interval=3, **more)
    objective = ColaObjective(stage2=stage2)
    steps = [counted(spec, objective, "joint", 64, step=step)[0] for step in range(3)]
    assert steps[0] == steps[1] < 0.7 * steps[2]
    ours = train_flops_per_token(spec, objective, 64, stage="joint", convention="executed")
    inside = sum(v for name, v in ours.components.items() if name.endswith("attention_scores"))
    inside += ours.components["dit_adaln_spread"]
    assert ours.total - inside == pytest.approx(sum(steps) / 3, rel=0.01)


def test_estimates_and_narrow_projections_are_charged_as_torch_counts_them() -> None:
    """Half of the steps estimate the clean latents first; AdaLN passes through 8 channels."""
    objective = ColaObjective.parse({"stage2": {"self_conditioning": 0.5}})
    spec = size_model("cola", 300_000, 300, objective=objective.model_dump(), adaln_rank=8)
    steps = [counted(spec, objective, "joint", 64, step=step)[0] for step in range(2)]
    assert steps[0] < steps[1]
    ours = train_flops_per_token(spec, objective, 64, stage="joint", convention="executed")
    inside = sum(v for name, v in ours.components.items() if name.endswith("attention_scores"))
    inside += ours.components["dit_adaln_spread"]
    assert ours.total - inside == pytest.approx(sum(steps) / 2, rel=0.01)


def test_blocks_of_one_latent_have_no_prompt_to_pay_for() -> None:
    spec = size_model("cola", 100_000, 300, block_size=1)
    with_default, without = (
        train_flops_per_token(
            spec, COLA_VARIANTS[name], 64, stage="joint", convention="executed"
        ).components
        for name in ("default", "plain")
    )
    assert with_default["dit_adaln"] == without["dit_adaln"]
    assert "dit_adaln_spread" not in with_default


def test_visible_pairs_of_the_dit_are_counted_one_by_one() -> None:
    from cola.compute.flops import dit_forward
    from cola.models.masks import block_causal_mask, noisy_query_mask

    spec = DiTSpec(
        hidden_size=32, num_layers=3, num_heads=2, head_dim=16, rope_dim=12, block_size=4
    )
    device, length = torch.device("cpu"), 24
    noisy = int(noisy_query_mask(length, 4, device).sum())
    clean = int(block_causal_mask(length - 4, 4, device).sum())
    parts = dit_forward(spec, length, True)
    assert parts["attention_scores"] == 3 * 4 * 32 * noisy
    assert parts["second_copy_attention_scores"] == 2 * 4 * 32 * clean


@pytest.mark.parametrize("block_size", [1, 4, 24])
def test_visible_pairs_of_block_diffusion_are_counted_one_by_one(block_size: int) -> None:
    from cola.models.masks import block_causal_mask, noisy_query_mask

    spec = size_model("bd3lm", 100_000, 300, block_size=block_size)
    assert isinstance(spec, BD3LMModelSpec)
    device, length = torch.device("cpu"), 24
    noisy = int(noisy_query_mask(length, block_size, device).sum())
    clean = int(block_causal_mask(length - block_size, block_size, device).sum())
    parts, each = whole_text(spec, length), 4 * spec.hidden_size / length
    assert parts["attention_scores"] == pytest.approx(spec.num_layers * each * noisy)
    scores = parts["clean_copy_attention_scores"]
    assert scores == pytest.approx((spec.num_layers - 1) * each * clean)


def test_the_papers_row() -> None:
    cola = parameter_counts(PAPER_COLA)
    assert cola.total == 1_829_875_728 + 501_871_574
    nominal = train_flops_per_token(
        PAPER_COLA, ColaObjective(), 512, stage="joint", convention="nominal"
    ).total
    assert nominal * PAPER_TOKENS == pytest.approx(2000e18, rel=0.02)
    for spec in (ARModelSpec, LLaDAModelSpec):
        counts = parameter_counts(spec(vocab_size=100_278, **PAPER_TRUNK))
        assert counts.core == pytest.approx(1.81e9, rel=0.01)
        assert counts.total == pytest.approx(2.2e9, rel=0.02)


def test_the_papers_row_on_the_meta_device() -> None:
    for spec in (
        PAPER_COLA,
        ARModelSpec(vocab_size=100_278, **PAPER_TRUNK),
        LLaDAModelSpec(vocab_size=100_278, **PAPER_TRUNK),
    ):
        with torch.device("meta"):
            model = family_of(spec.family).build(spec)
        assert count_parameters(model) == parameter_counts(spec).total
