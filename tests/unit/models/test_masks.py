"""The visible set (model.md, Eqs. 7 and 8) written out, against every back end's mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask

from cola.models.flex import block_causal_layout, noisy_layout
from cola.models.kv_cache import KVCache
from cola.models.masks import block_causal_mask, noisy_chunks, noisy_query_mask, visible

CPU = torch.device("cpu")
SIZES = [(4, 4), (12, 4), (160, 16), (6, 1), (9, 3)]


def sees(query: tuple[str, int], key: tuple[str, int], block_size: int) -> bool:
    """model.md, Eq. 8, for two latents given as (copy, position)."""
    (query_copy, i), (key_copy, j) = query, key
    if query_copy == "clean":
        return key_copy == "clean" and j // block_size <= i // block_size
    if key_copy == "clean":
        return j // block_size < i // block_size
    return j // block_size == i // block_size


def layout(clean: int, noisy: int) -> list[tuple[str, int]]:
    return [*(("clean", i) for i in range(clean)), *(("noisy", i) for i in range(noisy))]


def dense(block_mask: BlockMask) -> Tensor:
    queries, keys = block_mask.seq_lengths
    return create_mask(block_mask.mask_mod, 1, 1, queries, keys, device="cpu")[0, 0]


@pytest.mark.parametrize(("length", "block_size"), SIZES)
def test_visible_is_the_written_out_set(length: int, block_size: int) -> None:
    latents = layout(length, length)
    index = torch.arange(2 * length)
    expected = [[sees(query, key, block_size) for key in latents] for query in latents]
    assert visible(index[:, None], index, block_size, clean=length).tolist() == expected


@pytest.mark.parametrize(("length", "block_size"), SIZES)
def test_dense_masks_and_flex_layouts_are_the_same_set(length: int, block_size: int) -> None:
    history = length - block_size
    keys = layout(history, length)
    expected = [[sees(("noisy", i), key, block_size) for key in keys] for i in range(length)]
    assert noisy_query_mask(length, block_size, CPU).tolist() == expected
    assert dense(noisy_layout(length, block_size, CPU)).tolist() == expected
    plain = block_causal_mask(length, block_size, CPU)
    assert torch.equal(dense(block_causal_layout(length, block_size, CPU)), plain)
    assert plain.tolist() == [
        [sees(("clean", i), ("clean", j), block_size) for j in range(length)] for i in range(length)
    ]


@pytest.mark.parametrize(("length", "block_size"), SIZES)
def test_chunks_leave_out_hidden_keys_only(length: int, block_size: int) -> None:
    whole, start = noisy_query_mask(length, block_size, CPU), 0
    for chunk in noisy_chunks(length, block_size, CPU):
        rows = whole[start : start + chunk.count]
        assert chunk.mask.sum() == rows.sum()
        assert torch.equal(chunk.mask.sum(1), rows.sum(1))
        start += chunk.count
    assert start == length


@pytest.mark.parametrize("step", [None, 16])
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_cache_shows_each_row_its_own_prefix(blocks: int, step: int | None) -> None:
    block_size, lengths = 4, [8, 0, 4]
    count = blocks * block_size
    cache = KVCache(1, 3, 1, capacity=32, head_dim=2, device=CPU, dtype=torch.float32, step=step)
    cache.advance(lengths)
    view = cache.view(count, block_size)
    assert view.mask is not None
    assert view.columns == (8 + count if step is None else 16)
    for length, found in zip(lengths, view.mask[:, 0].expand(-1, count, -1), strict=True):
        for i in range(count):
            expected = [
                sees(("clean", length + i), ("clean", column), block_size)
                for column in range(view.columns)
            ]
            assert found[i].tolist() == expected


def test_a_block_behind_equal_prefixes_needs_no_mask() -> None:
    cache = KVCache(1, 2, 1, capacity=32, head_dim=2, device=CPU, dtype=torch.float32)
    cache.advance([8, 8])
    assert cache.view(4, 4).mask is None
    assert cache.view(8, 4).mask is not None
