"""Cola DLM's networks: who sees whom, and training pass against cached inference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cola.families.cola.spec import ColaModelSpec
from cola.families.registry import family_of
from cola.models.adaln import CachedTimestep, TimestepTable
from cola.models.cola_dlm import ColaDLM
from cola.models.dit import ColaDiT
from cola.models.kv_cache import KVCache
from cola.models.layers import attend_plainly
from cola.spec import DiTSpec, TextVAESpec

BLOCK, WIDTH, LATENTS, D = 4, 32, 16, 4


def make(patch_size: int = 1, attention: str = "causal", post_norm: bool = True) -> ColaDLM:
    torch.manual_seed(0)
    model = (
        family_of("cola")
        .build(
            ColaModelSpec(
                vae=TextVAESpec(
                    vocab_size=50,
                    hidden_size=WIDTH,
                    ffn_size=64,
                    num_heads=2,
                    encoder_layers=2,
                    decoder_layers=2,
                    latent_dim=D,
                    patch_size=patch_size,
                    attention=attention,
                    block_size=2 if attention == "block_causal" else 1,
                    post_norm=post_norm,
                ),
                dit=DiTSpec(
                    hidden_size=WIDTH,
                    num_layers=3,
                    num_heads=2,
                    head_dim=16,
                    rope_dim=12,
                    latent_dim=D,
                    block_size=BLOCK,
                ),
            )
        )
        .eval()
    )
    with torch.no_grad():  # the initial AdaLN and projections are too small to tell errors apart
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else parameter.add_(0.1)
    return model


def latents(batch: int = 2, length: int = LATENTS) -> Tensor:
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def cached_velocity(dit: ColaDiT, z0: Tensor, zt: Tensor, t_Bb: Tensor) -> Tensor:
    """Velocity of every block as generation computes it: block by block behind a cache."""
    cache: KVCache = dit.new_cache(len(z0), z0.shape[1], z0)
    found = []
    for block in range(z0.shape[1] // BLOCK):
        span = slice(block * BLOCK, (block + 1) * BLOCK)
        timesteps, rotary = dit.timesteps(t_Bb[:, block : block + 1]), dit.block_rotary(cache)
        found.append(dit.denoise(zt[:, span], timesteps, rotary, cache=cache, guided=False)[0])
        dit.commit(z0[:, span], cache, [BLOCK] * len(z0))
    return torch.cat(found, dim=1)


def test_training_pass_equals_cached_inference() -> None:
    dit, z0, zt = make().dit, latents(), latents() * 0.5 + 1
    t_Bb = torch.rand(2, LATENTS // BLOCK, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together = dit(z0, zt, t_Bb)
    assert together.std() > 0.1
    torch.testing.assert_close(together, cached_velocity(dit, z0, zt, t_Bb), atol=1e-5, rtol=0)


def test_committing_a_prefix_at_once_equals_block_by_block() -> None:
    dit, z0, zt = make().dit, latents(), latents() * 0.5 + 1
    last = slice(LATENTS - BLOCK, LATENTS)
    t_B1 = torch.full((2, 1), 0.3)
    with torch.no_grad():
        cache = dit.new_cache(2, LATENTS, z0)
        dit.commit(z0[:, : LATENTS - BLOCK], cache, [LATENTS - BLOCK] * 2)
        rotary = dit.block_rotary(cache)
        alone, _ = dit.denoise(zt[:, last], dit.timesteps(t_B1), rotary, cache=cache, guided=False)
        together = dit(z0, zt, t_B1)[:, last]
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changed_block", range(LATENTS // BLOCK))
def test_nothing_in_a_block_sees_a_later_block(changed_block: int) -> None:
    dit, z0, zt = make().dit, latents(), latents() * 0.5 + 1
    t_B1 = torch.full((2, 1), 0.4)
    span = slice(changed_block * BLOCK, (changed_block + 1) * BLOCK)
    with torch.no_grad():
        before = dit(z0, zt, t_B1)
        changed_clean, changed_noisy = z0.clone(), zt.clone()
        changed_clean[:, span] += 1.0
        changed_noisy[:, span] += 1.0
        by_clean = (dit(changed_clean, zt, t_B1) - before).abs().amax((0, 2)).view(-1, BLOCK)
        by_noisy = (dit(z0, changed_noisy, t_B1) - before).abs().amax((0, 2)).view(-1, BLOCK)
    reached_clean, reached_noisy = by_clean.amax(1) > 0, by_noisy.amax(1) > 0
    blocks = torch.arange(LATENTS // BLOCK)
    # Clean latents are seen by later blocks only, noisy ones by their own block only.
    assert reached_clean.tolist() == (blocks > changed_block).tolist()
    assert reached_noisy.tolist() == (blocks == changed_block).tolist()


def test_the_unconditional_pass_equals_a_first_block() -> None:
    dit, z0, zt = make().dit, latents(), latents() * 0.5 + 1
    t_B1 = torch.full((2, 1), 0.7)
    with torch.no_grad():
        cache = dit.new_cache(2, LATENTS, z0)
        dit.commit(z0[:, : 2 * BLOCK], cache, [2 * BLOCK] * 2)
        rotary = dit.block_rotary(cache)
        block = zt[:, 2 * BLOCK : 3 * BLOCK]
        conditional, alone = dit.denoise(
            block, dit.timesteps(t_B1[:1]), rotary, cache=cache, guided=True
        )
        first = dit(block, block, t_B1)
    torch.testing.assert_close(alone, first, atol=1e-5, rtol=0)
    assert (conditional - alone).abs().max() > 1e-3


def test_clean_latents_equal_times_written_out() -> None:
    """AdaLN once per distinct timestep and spread: the same numbers as one a latent."""
    dit, z0, zt = make().dit, latents(), latents() * 0.5 + 1
    clean_Bn = torch.rand(2, LATENTS, generator=torch.Generator().manual_seed(3)) < 0.3
    t_Bb = torch.rand(2, LATENTS // BLOCK, generator=torch.Generator().manual_seed(4))
    t_Bn = t_Bb.repeat_interleave(BLOCK, dim=1).masked_fill(clean_Bn, 0.0)
    with torch.no_grad():
        spread = dit(z0, zt, t_Bb, clean_Bn=clean_Bn)
        written_out = dit(z0, zt, t_Bn)
    torch.testing.assert_close(spread, written_out, atol=1e-6, rtol=0)
    assert (spread - dit(z0, zt, t_Bb)).abs().max() > 1e-3


def test_cached_timesteps_give_the_same_velocity() -> None:
    dit, z0, zt = make().dit, latents(), latents() * 0.5 + 1
    block = zt[:, :BLOCK]
    with torch.no_grad():
        cache = dit.new_cache(2, LATENTS, z0)
        table = TimestepTable(dit.embed_times(torch.tensor([[0.2, 0.7]])))
        cached = CachedTimestep(table, index=1)
        rotary = dit.block_rotary(cache)
        found = [dit.denoise(block, cached, rotary, cache=cache, guided=False)[0] for _ in range(2)]
        expected = dit(block, block, torch.full((2, 1), 0.7))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


def test_rows_of_unequal_length_see_their_own_entries_only() -> None:
    """A short row behind a cache that a long row has filled further, against the row alone."""
    dit, z0, zt = make().dit, latents(), latents() * 0.5 + 1
    timesteps = dit.timesteps(torch.full((1, 1), 0.3))
    counts = [2 * BLOCK, BLOCK]

    def velocity(rows: slice) -> Tensor:
        own = counts[rows]
        cache = dit.new_cache(len(own), LATENTS, z0)
        dit.commit(z0[rows, : max(own)], cache, own)
        rotary = dit.block_rotary(cache)
        return dit.denoise(zt[rows, :BLOCK], timesteps, rotary, cache=cache, guided=True)[0]

    with torch.no_grad():
        together = velocity(slice(0, 2))
        apart = torch.cat([velocity(slice(0, 1)), velocity(slice(1, 2))])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


def test_a_bfloat16_timestep_is_the_rounded_one() -> None:
    """1000 t = 937.5 is 936 in bfloat16, as the release's code rounds it."""
    dit, z0, zt = make().dit, latents(), latents() * 0.5 + 1

    def velocity(t: float) -> Tensor:
        with torch.no_grad():
            return dit(z0, zt, torch.full((2, 1), t))

    exact, rounded = velocity(0.9375), velocity(0.936)
    dit.config.timestep_dtype = "bfloat16"
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(velocity(0.9375), rounded, atol=1e-6, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_plain_attention_is_scaled_dot_product_attention(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, count, 8, generator=generator) for count in (4, 9, 9))
    mask = torch.rand(2, 1, 1, 9, generator=generator) < 0.7 if masked else None
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend_plainly(q, k, v, mask=mask), expected, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("length", [LATENTS, BLOCK, 160])
def test_flex_attention_gives_the_same_velocity(length: int) -> None:
    """What CUDA runs, forward and unfused; 160 latents span two of its 128-wide tiles."""
    dit, z0, zt = make().dit, latents(length=length), latents(length=length) * 0.5 + 1
    t_Bb = torch.rand(2, length // BLOCK, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = dit(z0, zt, t_Bb)
        dit.use_flex = True
        found = dit(z0, zt, t_Bb)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_layouts_may_alternate() -> None:
    """Positions are explicit: a short pass between two long ones changes nothing."""
    dit, z0, zt = make().dit, latents(), latents() * 0.5 + 1
    t_B1 = torch.full((2, 1), 0.5)
    with torch.no_grad():
        before = dit(z0, zt, t_B1)
        dit(z0[:, :BLOCK], zt[:, :BLOCK], t_B1)
        assert torch.equal(dit(z0, zt, t_B1), before)


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("attention", ["causal", "block_causal"])
@pytest.mark.parametrize("post_norm", [True, False])
def test_the_decoder_behind_its_cache_equals_the_whole_decoder(
    patch_size: int, attention: str, post_norm: bool
) -> None:
    vae = make(patch_size, attention, post_norm).vae
    z = latents()
    with torch.no_grad():
        whole = vae.decoder(z)
        cache = vae.decoder.new_cache(2, LATENTS, z)
        parts = []
        for start in range(0, LATENTS, BLOCK):
            parts.append(vae.decoder.write(z[:, start : start + BLOCK], cache))
            cache.advance([BLOCK] * 2)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["causal", "block_causal"])
def test_encoder_and_decoder_are_causal(attention: str) -> None:
    vae = make(attention=attention).vae
    tokens = torch.randint(0, 50, (1, LATENTS), generator=torch.Generator().manual_seed(4))
    changed = tokens.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 50
    with torch.no_grad():
        moved = (vae.encoder(tokens)[0] - vae.encoder(changed)[0]).abs().amax((0, 2)) > 0
    first = 9 if attention == "causal" else 8
    assert moved.tolist() == [place >= first for place in range(LATENTS)]


def test_a_fixed_log_snr_fixes_sigma() -> None:
    model = make()
    model.vae.config.log_snr = 3.0
    mean, log_variance = model.vae.encoder(torch.randint(0, 50, (2, 8)))
    assert torch.equal(log_variance, torch.full_like(log_variance, -3.0))
    torch.testing.assert_close(mean.square().mean(-1), torch.ones(2, 8), atol=1e-3, rtol=0)
