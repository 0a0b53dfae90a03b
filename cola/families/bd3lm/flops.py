"""FLOPs of block diffusion over masks; executed convention (see `cola.compute.flops`)."""

from __future__ import annotations

from cola.compute.flops import Components, trunk_forward
from cola.families.bd3lm.spec import BD3LMModelSpec
from cola.spec import GenerationSpec, LikelihoodSpec


def clean_pass(model: BD3LMModelSpec, tokens: float) -> Components:
    """Forward FLOPs of so many clean tokens in whole blocks, of the last layer keys and values
    alone."""
    width, upper, size = model.hidden_size, model.num_layers - 1, model.block_size
    blocks = tokens / size
    pairs = size * size * blocks * (blocks + 1) / 2
    layer = 8.0 * width * width + 6.0 * width * model.ffn_size
    return {
        "clean_copy": tokens * (upper * layer + 4.0 * width * width),
        "clean_copy_attention_scores": upper * 4.0 * width * pairs,
    }


def noisy_pass(model: BD3LMModelSpec, tokens: float, pairs: float, scored: float) -> Components:
    """Forward FLOPs of so many noisy tokens, each layer attending to `pairs` of keys in all, and of
    the logits of those `scored`."""
    each = trunk_forward(model, pairs / tokens, model.vocab_size)
    return {name: value * (scored if name == "head" else tokens) for name, value in each.items()}


def whole_text(model: BD3LMModelSpec, length: int, *, noisy_passes: int = 1) -> Components:
    """Forward FLOPs per token of a text of `length` tokens: its clean copy, which lacks the last
    block, and passes of the noisy one."""
    size = model.block_size
    blocks = length / size
    pairs = size * size * blocks * (blocks + 1) / 2
    noisy = noisy_pass(model, length, pairs, length)
    parts = {name: noisy_passes * value for name, value in noisy.items()}
    parts |= clean_pass(model, length - size)
    return {name: value / length for name, value in parts.items()}


def continuation(model: BD3LMModelSpec, settings: GenerationSpec, prompt: int) -> Components:
    """Forward FLOPs of one continuation: the prompt's whole blocks, then pass after pass of every
    block, which then joins them."""
    size = model.block_size
    first = prompt // size  # of the blocks that are made
    parts = clean_pass(model, first * size)
    counts = tokens_by_block(size, settings.max_new_tokens, prompt % size)
    for number, count in enumerate(counts):
        passes = settings.passes_of(count)
        pairs = size * size * (first + number + 1)
        _add(parts, noisy_pass(model, size, pairs, size), passes)
    before, after = (clean_pass(model, n * size) for n in (first, first + len(counts) - 1))
    _add(parts, {name: after[name] - before[name] for name in after}, 1)
    return parts


def draws_of_next_tokens(model: BD3LMModelSpec, new: int, prompt: int, *, rows: int) -> float:
    """Forward FLOPs of `rows` that unmask the `new` tokens behind one prompt, which is read once; a
    pass of a block has the logits of one token."""
    size, first = model.block_size, prompt // model.block_size
    counts = tokens_by_block(size, new, prompt % size)
    of_prompt = sum(clean_pass(model, first * size).values())
    total = -of_prompt
    for number, count in enumerate(counts):
        pairs = size * size * (first + number + 1)
        total += count * sum(noisy_pass(model, size, pairs, 1).values())
    total += sum(clean_pass(model, (first + len(counts) - 1) * size).values())
    return of_prompt + rows * total


def likelihood_passes(settings: LikelihoodSpec, block_size: int) -> int:
    """Passes of the noisy copy for one likelihood: of one order, one a token of a block."""
    return block_size if one_order(block_size, settings) else settings.mask_samples


def one_order(block_size: int, settings: LikelihoodSpec) -> bool:
    """Whether the likelihood is that of one order of unmasking, as in blocks of one token."""
    return block_size == 1 or settings.masked == "chain_rule"


def tokens_by_block(size: int, new: int, known: int) -> list[int]:
    """How many of `new` tokens each block of `size` has, the first one `known` others before
    them."""
    ends = [*range(size - known, new, size), new]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _add(parts: Components, more: Components, times: float) -> None:
    for name, value in more.items():
        parts[name] = parts.get(name, 0.0) + times * value
