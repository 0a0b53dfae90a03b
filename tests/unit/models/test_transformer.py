"""The baselines' trunk: norms that are one kernel where nothing is differentiated."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from cola.families.registry import family_of
from cola.models.transformer import FusedRMSNorm
from tests.sizes import size_model


@pytest.mark.parametrize("width", [12, 64, 200])
@pytest.mark.parametrize("rows", [1, 33])
def test_a_fused_norm_is_the_plain_one_to_the_last_bit(rows: int, width: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    plain = LlamaRMSNorm(width, eps=1e-6)
    with torch.no_grad():
        plain.weight.normal_(1.0, 0.1, generator=generator)
    fused = copy.deepcopy(plain)
    fused.__class__ = FusedRMSNorm
    x = 3 * torch.randn(rows, 2, width, generator=generator)
    with torch.no_grad():
        assert torch.equal(fused(x), plain(x))
        short = x.bfloat16()
        assert torch.equal(fused(short), plain(short))  # weights are float32: as it was
        assert fused.bfloat16()(short).dtype == torch.bfloat16
    assert fused(x.bfloat16().requires_grad_()).requires_grad


@pytest.mark.parametrize("name", ["ar", "llada"])
def test_all_norms_of_a_trunk_are_fused_and_keep_their_names(name: str) -> None:
    model = family_of(name).build(size_model(name, 20_000, 60))
    norms = {key: part for key, part in model.named_modules() if isinstance(part, LlamaRMSNorm)}
    assert {type(part) for part in norms.values()} == {FusedRMSNorm}
    layers = model.config.num_hidden_layers
    assert len(norms) == 2 * layers + 1
    assert "model.norm.weight" in model.state_dict()
