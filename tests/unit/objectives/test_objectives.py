"""Objectives: what each gradient mode reaches, what the weights do, unbiasedness."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cola.errors import SpecError
from cola.families.cola.spec import ColaObjective, ColaSettings
from cola.families.interface.family import Batch
from cola.families.llada.spec import MaskedDiffusion
from cola.families.registry import family_of
from cola.models.cola_dlm import ColaDLM
from cola.objectives.masked_diffusion import masked_diffusion_draws
from cola.objectives.vae import Posterior, kl_to_standard_normal
from cola.seeding import Stream
from cola.spec.objectives import JointObjective, LogitNormal, UniformTime, VAEObjective
from tests.sizes import size_model

VOCAB, LENGTH = 40, 32


def cola() -> ColaDLM:
    torch.manual_seed(0)
    spec = size_model("cola", 60_000, VOCAB, latent_dim=4, block_size=8)
    model: ColaDLM = family_of("cola").build(spec)  # type: ignore[assignment]
    return model


def batch(rows: int = 4, *, stage_step: int = 3) -> Batch:
    """A batch of the step in which an interval of 4 trains the VAE."""
    tokens = torch.randint(0, VOCAB, (rows, LENGTH), generator=torch.Generator().manual_seed(1))
    stream = Stream(0, 0, range(rows))
    return Batch(tokens, stream, list(range(rows)), rows, stage_step=stage_step)


def gradient_reaches(objective: ColaObjective) -> dict[str, bool]:
    """Whether stage 2 gives encoder, decoder and DiT a gradient that is not zero."""
    model = cola()
    module = family_of("cola").stage_module(model, objective, "joint")
    module(**module.draw(batch()))["loss"].backward()
    parts = {"encoder": model.vae.encoder, "decoder": model.vae.decoder, "dit": model.dit}
    return {
        name: any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in part.parameters())
        for name, part in parts.items()
    }


def only_flow_matching(mode: str) -> ColaObjective:
    """lambda_vae 0: whatever reaches the VAE then comes from the flow-matching loss."""
    return ColaObjective(stage2=JointObjective(gradient_mode=mode, lambda_vae=0.0))


@pytest.mark.parametrize("mode", ["detach_target", "interval", "joint", "scratch"])
def test_the_flow_matching_loss_reaches_the_encoder_only_in_joint_modes(mode: str) -> None:
    reached = gradient_reaches(only_flow_matching(mode))
    assert reached == {"encoder": mode in ("joint", "scratch"), "decoder": False, "dit": True}


@pytest.mark.parametrize("mode", ["detach_target", "interval", "joint", "scratch"])
def test_the_vae_learns_by_its_own_loss_in_every_other_mode(mode: str) -> None:
    objective = ColaObjective(stage2=JointObjective(gradient_mode=mode))
    assert gradient_reaches(objective) == {"encoder": True, "decoder": True, "dit": True}


def test_between_two_updates_of_an_interval_the_vae_gets_no_gradient_and_no_pass_but_encoding() -> (
    None
):
    """A step in between is one of `frozen_vae`: the same draws, the same loss."""
    model, found = cola(), {}
    for mode in ("interval", "frozen_vae"):
        objective = ColaObjective(stage2=JointObjective(gradient_mode=mode))
        module = family_of("cola").stage_module(model, objective, "joint")
        terms = module(**module.draw(batch(stage_step=2)))
        terms["loss"].backward()
        found[mode] = {name: float(value.detach()) for name, value in terms.items()}
        assert all(p.grad is None for p in model.vae.parameters())
    assert found["interval"] == found["frozen_vae"]
    assert found["interval"].keys() == {"loss", "log_snr", "fm"}


def test_stage_2_learns_from_latents_of_the_whole_text() -> None:
    """Token dropout changes what is reconstructed from, and nothing else."""
    model = cola()
    joint = JointObjective(gradient_mode="joint", lambda_ref=1.0)

    def terms(dropout: float) -> dict[str, float]:
        objective = ColaObjective(stage1=VAEObjective(token_dropout=dropout), stage2=joint)
        module = family_of("cola").stage_module(model, objective, "joint")
        with torch.no_grad():
            return {name: float(value) for name, value in module(**module.draw(batch())).items()}

    whole, dropped = terms(0.0), terms(0.5)
    for name in ("fm", "log_q", "log_snr", "reference_kl", "masked"):
        assert dropped[name] == pytest.approx(whole[name], rel=1e-5, abs=1e-6), name
    assert dropped["reconstruction"] != pytest.approx(whole["reconstruction"], rel=1e-3)


def test_a_frozen_vae_gets_nothing() -> None:
    objective = ColaObjective(stage2=JointObjective(gradient_mode="frozen_vae"))
    assert gradient_reaches(objective) == {"encoder": False, "decoder": False, "dit": True}


def test_the_reference_holds_the_encoder_it_was_copied_from() -> None:
    objective = ColaObjective(stage2=JointObjective(gradient_mode="joint", lambda_ref=1.0))
    model = cola()
    module = family_of("cola").stage_module(model, objective, "joint")
    terms = module(**module.draw(batch()))
    assert float(terms["reference_kl"]) == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        model.vae.encoder.final_layer.weight.mul_(1.5).add_(0.01)
    assert float(module(**module.draw(batch()))["reference_kl"]) > 1e-3


@pytest.mark.parametrize("mode", ["detach_target", "interval"])
def test_the_reference_holds_the_encoder_in_every_mode_that_trains_one_of_stage_1(
    mode: str,
) -> None:
    """The KL's gradient reaches the encoder, whose own terms are off."""
    stage2 = {"gradient_mode": mode, "lambda_vae": 0.0, "reference_in": "every_mode"}
    found = {}
    for weight in (0.0, 1.0):
        model = cola()
        objective = ColaObjective(stage2=JointObjective(**stage2, lambda_ref=weight))
        module = family_of("cola").stage_module(model, objective, "joint")
        with torch.no_grad():
            model.vae.encoder.final_layer.weight.mul_(1.5)
        terms = module(**module.draw(batch()))
        terms["loss"].backward()
        grad = model.vae.encoder.final_layer.weight.grad
        assert grad is not None
        found[weight] = float(grad.abs().max())
        assert ("reference_kl" in terms) == (weight > 0)
        resting = module(**module.draw(batch(stage_step=2)))
        assert ("reference_kl" in resting) == (weight > 0 and mode == "detach_target")
    assert found[0.0] == 0.0
    assert found[1.0] > 0


@pytest.mark.parametrize(
    ("stage2", "said"),
    [
        ({"gradient_mode": "frozen_vae", "reference_in": "every_mode"}, "trains no VAE"),
        ({"gradient_mode": "scratch", "reference_in": "every_mode"}, "has no stage 1"),
        ({"lambda_ref": 0.5}, "joint', or to reference_in=every_mode"),
        ({"gradient_mode": "frozen_vae", "lambda_mask": 0.0}, "trains no VAE; leave it out"),
    ],
)
def test_weights_without_an_effect_are_refused(stage2: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        JointObjective.parse(stage2)


def test_stage_2_can_leave_out_the_masked_pass() -> None:
    objective = ColaObjective(stage2=JointObjective(lambda_mask=0.0))
    model, family = cola(), family_of("cola")
    stages = {name: family.stage_module(model, objective, name) for name in ("vae", "joint")}
    masked = {name: "masked" in stage(**stage.draw(batch())) for name, stage in stages.items()}
    assert masked == {"vae": True, "joint": False}


def test_learning_rate_groups() -> None:
    family = family_of("cola")

    def groups(stage2: JointObjective) -> list[dict[str, object]]:
        objective = ColaObjective(stage2=stage2)
        module = family.stage_module(cola(), objective, "joint")
        found = family.parameter_groups(module, objective, "joint")
        return [{k: v for k, v in group.items() if k != "params"} for group in found]

    assert groups(JointObjective(gradient_mode="frozen_vae")) == [{"lr_ratio": 1.0}]
    assert groups(JointObjective(vae_lr_ratio=0.01)) == [{"lr_ratio": 1.0}, {"lr_ratio": 0.01}]
    interval = groups(JointObjective(gradient_mode="interval", vae_interval=5))
    assert interval[1] == {"lr_ratio": 1.0, "interval": 5}


def test_every_sequence_masks_the_same_number_of_tokens() -> None:
    module = family_of("cola").stage_module(cola(), ColaObjective(), "vae")
    draws = module.draw(batch(16))
    assert draws["masked_BM"].shape == (16, round(ColaObjective().stage1.mask_rate * LENGTH))
    assert all(len(set(row)) == len(row) for row in draws["masked_BM"].tolist())


def test_prompt_blocks_keep_a_part_clean_and_some_of_it_noisy() -> None:
    stage2 = JointObjective(prompt_block_probability=1.0)
    module = family_of("cola").stage_module(cola(), ColaObjective(stage2=stage2), "joint")
    prompt = module.draw(batch(16))["prompt_Bn"].view(16, -1, 8)
    known = prompt.sum(-1)
    assert (known >= 1).all()
    assert (known <= 7).all()
    assert (prompt[..., 1:] <= prompt[..., :-1]).all()  # known latents are a left part


def test_blocks_of_one_latent_lose_no_loss_to_prompts() -> None:
    torch.manual_seed(0)
    model = family_of("cola").build(size_model("cola", 60_000, VOCAB, latent_dim=4, block_size=1))
    module = family_of("cola").stage_module(model, ColaObjective(), "joint")
    assert "prompt_Bn" not in module.draw(batch())
    message = r"prompt_block_probability=0.5 has no effect with block_size=1"
    with pytest.raises(SpecError, match=message):
        ColaSettings.parse(
            {
                "block_size": 1,
                "objective": {"stage2": {"prompt_block_probability": 0.5}},
            }
        )


@pytest.mark.parametrize("loc", [0.0, 1.0, 2.3])
def test_times_are_logit_normal(loc: float) -> None:
    stage2 = JointObjective(timestep=LogitNormal(timestep_loc=loc))
    module = family_of("cola").stage_module(cola(), ColaObjective(stage2=stage2), "joint")
    logits = module.draw(batch(600))["t_Bb"].logit()
    error = 1 / math.sqrt(logits.numel())
    assert float(logits.mean()) == pytest.approx(loc, abs=5 * error)
    assert float(logits.std()) == pytest.approx(1.0, abs=5 * error)


def test_one_time_a_sequence_or_one_a_block() -> None:
    for per, distinct in (("sequence", 1), ("block", LENGTH // 8)):
        stage2 = JointObjective(timestep=UniformTime(), timestep_per=per)
        module = family_of("cola").stage_module(cola(), ColaObjective(stage2=stage2), "joint")
        t_Bb = module.draw(batch())["t_Bb"]
        assert [len(set(row)) for row in t_Bb.tolist()] == [distinct] * 4


def test_kl_matches_torch_and_free_bits_hold_it_up() -> None:
    posterior = Posterior(torch.randn(3, 5, 4), torch.randn(3, 5, 4))
    normal = torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(normal, standard).sum(-1)
    torch.testing.assert_close(kl_to_standard_normal(posterior, 0.0), expected)
    collapsed = Posterior(torch.zeros(3, 5, 4), torch.zeros(3, 5, 4))
    held = kl_to_standard_normal(collapsed, 0.5)
    torch.testing.assert_close(held, torch.full((3, 5), 2.0))


def test_log_density_matches_torch() -> None:
    posterior = Posterior(torch.randn(3, 5, 4), torch.randn(3, 5, 4))
    z0 = posterior.sample(torch.randn(3, 5, 4))
    normal = torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    torch.testing.assert_close(posterior.log_density(z0), normal.log_prob(z0).sum(-1))


def test_log_snr_is_the_ratio_of_mean_squares() -> None:
    posterior = Posterior(torch.full((2, 3, 4), 2.0), torch.full((2, 3, 4), -3.0))
    assert float(posterior.log_snr()) == pytest.approx(math.log(4.0) + 3.0)


def test_stratified_times_fill_the_unit_interval_over_the_global_batch() -> None:
    tokens = torch.zeros(8, LENGTH, dtype=torch.long)
    objective = MaskedDiffusion(min_mask_probability=1e-3)
    draws = masked_diffusion_draws(
        objective, tokens, Stream(0, 5, range(8)), positions=range(8), global_size=8
    )
    t = (draws["p_B1"][:, 0] - 1e-3) / (1 - 1e-3)
    assert (t * 8).floor().tolist() == list(range(8))


def test_only_batches_with_a_shortened_sequence_have_a_padding_mask() -> None:
    tokens = torch.zeros(4, LENGTH, dtype=torch.long)
    objective = MaskedDiffusion(random_length_fraction=0.2)
    seen = set()
    for step in range(20):
        stream = Stream(0, step, range(4))
        draws = masked_diffusion_draws(objective, tokens, stream, positions=range(4), global_size=4)
        is_cut_B1 = stream.uniform("is_cut", 1) < 0.2
        kept_B1 = 1 + (stream.uniform("length", 1) * LENGTH).long()
        shortened = bool((is_cut_B1 & (kept_B1 < LENGTH)).any())
        assert ("real_BL" in draws) == shortened
        seen.add(shortened)
    assert seen == {True, False}


def test_the_masked_diffusion_loss_is_unbiased_for_a_uniform_model() -> None:
    """A model that knows nothing has NLL log V a token: so has the loss on average."""
    family = family_of("llada")
    model = family.build(size_model("llada", 60_000, VOCAB))
    torch.nn.init.zeros_(model.lm_head.weight)
    module = family.stage_module(model, MaskedDiffusion(), "train")
    losses = []
    for step in range(60):
        rows = batch(8)
        rows = Batch(rows.tokens_BL, Stream(0, step, range(8)), list(range(8)), 8)
        with torch.no_grad():
            losses.append(float(module(**module.draw(rows))["loss"]))
    mean, error = torch.tensor(losses).mean(), torch.tensor(losses).std() / math.sqrt(60)
    assert abs(float(mean) - math.log(VOCAB)) < 4 * float(error)


def test_switched_off_terms_are_not_computed() -> None:
    stage1 = VAEObjective(lambda_mask=0.0)
    module = family_of("cola").stage_module(cola(), ColaObjective(stage1=stage1), "vae")
    draws = module.draw(batch())
    assert "masked_BM" not in draws
    assert "masked" not in module(**draws)


def test_dropout_on_tokens_and_latents_changes_the_reconstruction() -> None:
    model = cola()
    family = family_of("cola")

    def loss(stage1: VAEObjective) -> float:
        module = family.stage_module(model, ColaObjective(stage1=stage1), "vae")
        with torch.no_grad():
            return float(module(**module.draw(batch()))["reconstruction"])

    plain = loss(VAEObjective())
    assert loss(VAEObjective(token_dropout=0.5)) != plain
    assert loss(VAEObjective(latent_dropout=0.5)) != plain
