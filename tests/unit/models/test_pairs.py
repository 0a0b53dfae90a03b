"""Texts and images in one sequence: who sees whom, one pass against cached generation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cola.models.kv_cache import KVCache
from cola.models.pairs.image_vae import LEVELS, as_numbers, level_nll
from cola.models.pairs.joint_pass import CleanPart, NoisyPart, joint_history, noisy_velocities
from cola.models.pairs.pair_model import PairModel
from tests.factories import tiny_model

BLOCK, TEXT, IMAGE, D = 8, 16, 16, 4  # an image is two blocks of two rows, a text is two blocks
ORDERS = pytest.mark.parametrize("image_first", [False, True])


@pytest.fixture(scope="module")
def model() -> PairModel:
    _, found = tiny_model("multimodal", 60_000, 50, 4.0, latent_dim=D, block_size=BLOCK)
    assert isinstance(found, PairModel)
    return found


def sequence(model: PairModel, image_first: bool) -> list[tuple]:
    """Networks with clean latents, noisy ones and times of each part, in order."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    parts = [
        (dit, drawn(2, count, D), drawn(2, count, D), torch.rand(2, 2, generator=generator))
        for dit, count in ((model.dit, TEXT), (model.image_dit, IMAGE))
    ]
    return parts[::-1] if image_first else parts


@torch.no_grad()
def velocities(parts: list[tuple]) -> Tensor:
    history = joint_history([CleanPart(dit, z0) for dit, z0, _, _ in parts])
    noisy = [NoisyPart(dit, zt, t, i * TEXT) for i, (dit, _, zt, t) in enumerate(parts)]
    return torch.cat(noisy_velocities(noisy, history), dim=1)


@torch.no_grad()
def cached(model: PairModel, parts: list[tuple], guided: bool = False) -> Tensor:
    cache: KVCache = model.dit.new_cache(2, TEXT + IMAGE, parts[0][1])
    found = []
    for dit, z0, zt, t in parts:
        for block in range(z0.shape[1] // BLOCK):
            span = slice(block * BLOCK, (block + 1) * BLOCK)
            rotary = dit.block_rotary(cache)
            times = dit.timesteps(t[:, block : block + 1])
            both = dit.denoise(zt[:, span], times, rotary, cache=cache, guided=guided)
            found.append(both[guided])
            dit.commit(z0[:, span], cache, [BLOCK] * 2)
    return torch.cat(found, dim=1)


@ORDERS
def test_one_pass_equals_cached_generation(model: PairModel, image_first: bool) -> None:
    parts = sequence(model, image_first)
    together = velocities(parts)
    torch.testing.assert_close(cached(model, parts), together, atol=1e-5, rtol=1e-5)
    assert together.std() > 0.05


@ORDERS
def test_nothing_sees_a_later_block(model: PairModel, image_first: bool) -> None:
    """A change of clean or noisy latents of a block moves what its own and later blocks see."""
    before = velocities(sequence(model, image_first)).unflatten(1, (4, BLOCK))
    for changed in range(4):
        for kind in (1, 2):  # clean, noisy
            parts = sequence(model, image_first)
            block = changed % 2
            parts[changed // 2][kind][:, block * BLOCK : (block + 1) * BLOCK] += 1
            after = velocities(parts).unflatten(1, (4, BLOCK))
            moved = (after != before).flatten(2).any(2).any(0).tolist()
            seen = [b > changed if kind == 1 else b == changed for b in range(4)]
            assert moved == seen, (changed, kind)


def test_a_text_alone_is_seen_as_by_its_own_network(model: PairModel) -> None:
    dit, z0, zt, t = sequence(model, False)[0]
    with torch.no_grad():
        torch.testing.assert_close(
            velocities([(dit, z0, zt, t)]), dit(z0, zt, t), atol=1e-5, rtol=1e-5
        )


def test_without_a_prefix_a_block_is_an_images_first_block(model: PairModel) -> None:
    """The pass of guidance that sees nothing, wherever the block stands."""
    behind = cached(model, sequence(model, False), guided=True)[:, TEXT : TEXT + BLOCK]
    dit, z0, zt, t = sequence(model, False)[1]
    with torch.no_grad():
        first = velocities([(dit, z0[:, :BLOCK], zt[:, :BLOCK], t[:, :1])])
    torch.testing.assert_close(behind, first, atol=1e-5, rtol=1e-5)


def test_positions_of_an_image_are_rows_and_columns(model: PairModel) -> None:
    """Distances down and across are told apart, and do not depend on what stands before."""
    dit = model.image_dit
    places = dit.rotary(torch.arange(2 * IMAGE))

    def relative(a: int, b: int) -> Tensor:
        """The rotation between two places, by channel pair."""
        x, y = (torch.view_as_complex(places[0, i, 0].contiguous()) for i in (a, b))
        return torch.view_as_real(y * x.conj())

    same = [(0, 4), (1, 5), (9, 13), (16, 20)]  # a row down
    for a, b in same:
        torch.testing.assert_close(relative(a, b), relative(0, 4))
    torch.testing.assert_close(relative(17, 18), relative(0, 1))
    assert (relative(0, 1) - relative(0, 4)).abs().max() > 0.1
    # The corner of an image is where a text at its place would be.
    torch.testing.assert_close(places[:, 16], model.dit.rotary(torch.arange(17))[:, 16])


def test_probabilities_of_levels_add_up_to_one() -> None:
    levels = as_numbers(torch.arange(LEVELS, dtype=torch.uint8))
    for mean, log_scale in ((0.1, -3.0), (-1.2, -1.0), (0.9, -6.0)):
        nll = level_nll(torch.tensor(mean), torch.tensor(log_scale), levels.double())
        assert float((-nll).exp().sum()) == pytest.approx(1.0, abs=0.02)
