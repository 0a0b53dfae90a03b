"""Block diffusion over masks: its ends are AR and LLaDA, and its loss is a published formula's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cola.errors import SpecError
from cola.families.bd3lm.spec import BD3LMModelSpec, BlockMaskedDiffusion
from cola.families.interface.family import Batch
from cola.families.llada.spec import MaskedDiffusion
from cola.families.registry import family_of
from cola.models.transformer import build_llada
from cola.objectives.masked_blocks import block_masking_draws
from cola.objectives.masked_diffusion import mask_probabilities, masked_diffusion_loss
from cola.seeding import Stream
from tests.factories import tiny_model

VOCAB, LENGTH, ROWS = 40, 16, 4
TOKENS = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))


def built(block_size: int) -> Any:
    _, model = tiny_model("bd3lm", 60_000, VOCAB, 3.0, block_size=block_size)
    return model


def loss_and_draws(model: Any, objective: BlockMaskedDiffusion) -> tuple[float, dict[str, Tensor]]:
    module = family_of("bd3lm").stage_module(model, objective, "train")
    draws = module.draw(Batch(TOKENS, Stream(0, 0, range(ROWS)), list(range(ROWS)), ROWS))
    with torch.no_grad():
        return float(module(**draws)["loss"]), draws


def test_one_block_has_lladas_loss() -> None:
    """Same weights, same masks: the network sees what LLaDA's sees."""
    model = built(LENGTH)
    llada = build_llada(family_of("bd3lm").sizes_of(model)).eval()
    llada.load_state_dict(model.state_dict())
    found, draws = loss_and_draws(model, BlockMaskedDiffusion())
    mask_BL, p_B1 = draws["mask_BL"], draws["p_BL"][:, :1]
    with torch.no_grad():
        expected = masked_diffusion_loss(llada, TOKENS, {"mask_BL": mask_BL, "p_B1": p_B1})
    assert found == pytest.approx(float(expected["loss"]), rel=1e-5)


def test_blocks_of_one_token_have_the_loss_of_the_chain_rule() -> None:
    """All masked (p = 1), each token is predicted from the tokens before it and from no other."""
    model = built(1)
    objective = BlockMaskedDiffusion(min_mask_probability=1.0)
    found, _ = loss_and_draws(model, objective)
    expected = 0.0
    for place in range(LENGTH):
        text = TOKENS[:, : place + 1].clone()
        text[:, place] = model.config.mask_token_id
        with torch.no_grad():
            log_p_BV = model(TOKENS[:, : place + 1], text)[:, -1].log_softmax(-1)
        expected -= float(log_p_BV.gather(1, TOKENS[:, place, None]).mean()) / LENGTH
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_the_loss_is_unbiased_for_a_uniform_model(block_size: int) -> None:
    """A model that knows nothing has NLL log V a token: so has the loss on average."""
    model = built(block_size)
    torch.nn.init.zeros_(model.lm_head.weight)
    masked = [
        draws["mask_BL"] / draws["p_BL"]
        for step in range(400)
        for draws in [
            block_masking_draws(
                BlockMaskedDiffusion(min_mask_probability=0.05),
                TOKENS,
                block_size,
                stream=Stream(0, step, range(ROWS)),
                positions=range(ROWS),
                global_size=ROWS,
            )
        ]
    ]
    means = torch.stack(masked).mean((1, 2))
    assert abs(float(means.mean()) - 1.0) < 4 * float(means.std()) / math.sqrt(len(masked))
    found, draws = loss_and_draws(model, BlockMaskedDiffusion())
    weights = (draws["mask_BL"] / draws["p_BL"]).mean()
    assert found == pytest.approx(float(weights) * math.log(VOCAB), rel=1e-5)


def test_lladas_loss_is_mdlms_without_random_lengths() -> None:
    """MDLM with the log-linear schedule, a_t = 1 - (1 - e) s: the weight is -a'/(1 - a)."""
    _, llada = tiny_model("llada", 60_000, VOCAB, 3.0)
    least = 1e-3
    objective = MaskedDiffusion(min_mask_probability=least, random_length_fraction=0.0)
    batch = Batch(TOKENS, Stream(0, 0, range(ROWS)), list(range(ROWS)), ROWS)
    module = family_of("llada").stage_module(llada, objective, "train")
    draws = module.draw(batch)
    s_B1 = (Stream(0, 0, range(ROWS)).shared_uniform("timestep") + torch.arange(ROWS)) / ROWS
    s_B1 = ((1 - least) * s_B1 + least)[:, None]  # sampled between e and 1
    weight_B1 = torch.autograd.functional.jacobian(lambda s: -(1 - s).sum(), s_B1) / s_B1
    with torch.no_grad():
        found = float(module(**draws)["loss"])
        text = torch.where(draws["mask_BL"], VOCAB, TOKENS)
        log_p_BLV = llada(text).log_softmax(-1)  # no output for [mask]: SUBS' zero masking
    log_p_BL = log_p_BLV.gather(2, TOKENS[..., None])[..., 0] * draws["mask_BL"]  # carry-over
    assert found == pytest.approx(float(-(weight_B1 * log_p_BL).mean()), rel=1e-5)


def test_times_are_stratified_over_the_batch_in_every_block() -> None:
    objective = BlockMaskedDiffusion()
    p_Bb = mask_probabilities(
        objective, Stream(0, 5, range(8)), positions=range(8), global_size=8, blocks=5
    )
    low = objective.min_mask_probability
    t_Bb = (p_Bb - low) / (1 - low)
    for block in range(5):  # every eighth of the circle once, wherever the block's times begin
        turned = (t_Bb[:, block] - t_Bb[0, block]) % 1.0
        assert sorted((turned * 8).round().int().remainder(8).tolist()) == list(range(8))


def test_clipped_rates_lie_between_their_ends() -> None:
    objective = BlockMaskedDiffusion(min_mask_probability=0.3, max_mask_probability=0.8)
    for stratified in (True, False):
        p_Bb = mask_probabilities(
            objective.model_copy(update={"stratified": stratified}),
            Stream(0, 1, range(64)),
            positions=range(64),
            global_size=64,
            blocks=4,
        )
        assert float(p_Bb.min()) == pytest.approx(0.3, abs=0.02)
        assert float(p_Bb.max()) == pytest.approx(0.8, abs=0.02)
    assert "max_mask_probability" not in BlockMaskedDiffusion().model_dump()
    assert objective.model_dump()["max_mask_probability"] == 0.8


def test_rates_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(SpecError, match=r"min_mask_probability=0.8 is above max_mask_probability"):
        BlockMaskedDiffusion.parse({"min_mask_probability": 0.8, "max_mask_probability": 0.3})


def test_sizes_carry_the_block_size() -> None:
    sizes = family_of("bd3lm").sizes_of(built(8))
    assert isinstance(sizes, BD3LMModelSpec)
    assert sizes.block_size == 8
