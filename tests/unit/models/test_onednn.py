"""The copy that generates faster on a CPU: the same velocity, the original untouched."""

from __future__ import annotations

import pytest
import torch

from cola.models.adaln import CachedTimestep, TimestepTable
from cola.models.dit import ColaDiT
from cola.models.dit_config import DiTConfig
from cola.models.onednn import PackedLinear, for_generation

BLOCK = 8


def make() -> ColaDiT:
    torch.manual_seed(0)
    config = DiTConfig(
        txt_in_channels=4, txt_out_channels=4, txt_dim=64, emb_dim=64, heads=2, head_dim=32,
        num_layers=3, rope_dim=24, block_size=BLOCK, init_std=0.1,
    )  # fmt: skip
    return ColaDiT(config).eval()


@torch.no_grad()
def velocity(dit: ColaDiT) -> torch.Tensor:
    """Of a block behind two committed ones, conditional and alone."""
    generator = torch.Generator().manual_seed(1)
    prefix, z = (torch.randn(3, n, 4, generator=generator) for n in (2 * BLOCK, BLOCK))
    cache = dit.new_cache(3, 3 * BLOCK, prefix)
    dit.commit(prefix, cache, [2 * BLOCK, BLOCK, 2 * BLOCK])
    table = TimestepTable(dit.embed_times(torch.full((1, 1), 0.6)))
    timesteps, rotary = CachedTimestep(table, index=0), dit.block_rotary(cache)
    return torch.cat(dit.denoise(z, timesteps, rotary, cache=cache, guided=True)).float()


@pytest.mark.parametrize("by", ["weights", "autocast"])
def test_the_packed_copy_has_the_same_velocity(by: str) -> None:
    dit = make()
    exact = velocity(dit)
    if by == "weights":
        dit = dit.bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=by == "autocast"):
        packed = for_generation(dit)
        assert isinstance(packed.layers[0].msa.proj_qkv, PackedLinear)
        found = velocity(packed)
        plain = velocity(dit)
    spread = exact.std()
    assert (found - exact).abs().max() < 0.1 * spread
    # It is no further from float32 than bfloat16 is anyway.
    assert (found - exact).square().mean() < 2 * (plain - exact).square().mean()


def test_the_original_is_left_as_it_was() -> None:
    dit = make().bfloat16()
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    with torch.no_grad():
        packed = for_generation(dit)
    assert packed is not dit
    assert not any(isinstance(module, PackedLinear) for module in dit.modules())
    after = dit.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # What is not replaced is shared, not copied.
    assert packed.txt_in.proj.weight.data_ptr() == dit.txt_in.proj.weight.data_ptr()


def test_there_is_none_where_it_would_not_fit() -> None:
    dit = make()
    with torch.no_grad():
        assert for_generation(dit) is dit  # float32
    half = make().bfloat16()
    assert for_generation(half) is half  # gradients are wanted
