"""Attention, the loss head and generation on a GPU, against plain formulas and the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cola.families.registry import family_of
from cola.models.dit import ColaDiT
from cola.models.dit_config import DiTConfig
from cola.models.head import HeadLayout, OutputHead, Scored, as_output_head, mean_nll
from cola.models.layers import attend
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.gpu.conftest import Setting, needs_gpu, planned
from tests.sizes import FAMILIES

CPU = torch.device("cpu")
BACK_ENDS = [
    SDPBackend.MATH,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
]
NO_KERNEL = ("No available kernel", "No viable backend")


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    hidden = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("back_end", BACK_ENDS, ids=lambda kind: kind.name.lower())
def test_back_ends_of_attention_are_the_formula(setting: Setting, back_end: SDPBackend) -> None:
    """Causal, in bfloat16 on a GPU: outputs and gradients of queries, keys and values."""
    dtype = torch.bfloat16 if setting.on_gpu else torch.float32
    draws = torch.Generator().manual_seed(0)
    qkv = [torch.randn(2, 4, 64, 64, generator=draws).to(setting.device, dtype) for _ in range(3)]
    weights = torch.randn(2, 4, 64, 64, generator=draws).to(setting.device)

    def outcome(attention: Callable[..., Tensor], wide: bool) -> list[Tensor]:
        inputs = [x.detach().to(torch.float64 if wide else dtype).requires_grad_() for x in qkv]
        attended = attention(*inputs)
        (attended * weights).sum().backward()
        return [attended, *(x.grad for x in inputs)]

    try:
        with sdpa_kernel(back_end):
            found = outcome(lambda q, k, v: attend(q, k, v, mask=None, causal=True), wide=False)
    except RuntimeError as error:
        if not any(text in str(error) for text in NO_KERNEL):
            raise
        pytest.skip(f"{setting.device.type} has no such kernel")
    expected = outcome(plain_attention, wide=True)
    tolerance = 3e-2 if setting.on_gpu else 1e-5
    for ours, theirs in zip(found, expected, strict=True):
        difference = (ours.double() - theirs).norm() / theirs.norm()
        assert float(difference.detach()) < tolerance


def test_flex_attention_is_the_masks(rehearsed: Setting) -> None:
    """The velocity, and on a GPU the gradient of every weight (a CPU has no backward pass)."""
    torch.manual_seed(0)
    width = {"txt_dim": 128, "emb_dim": 128, "heads": 2, "head_dim": 64, "rope_dim": 48}
    dit = ColaDiT(DiTConfig(num_layers=2, **width)).to(rehearsed.device)
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    blocks, size = 4, dit.config.block_size
    shape = (2, blocks * size, dit.config.txt_in_channels)
    draws = torch.Generator().manual_seed(1)
    z0, zt = (torch.randn(shape, generator=draws).to(rehearsed.device) for _ in range(2))
    t = torch.rand(2, blocks, generator=draws).to(rehearsed.device)
    velocities, gradients = [], []
    for flex in (False, True):
        dit.use_flex = flex
        dit.zero_grad()
        with torch.set_grad_enabled(rehearsed.on_gpu):
            velocity = dit(z0, zt, t)
        if rehearsed.on_gpu:
            velocity.square().mean().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in dit.parameters()]))
        velocities.append(velocity.detach())
    assert float((velocities[0] - velocities[1]).abs().max()) < 1e-5
    if gradients:
        difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
        assert float(difference) < 1e-4


def test_costs_of_tokens_are_the_plain_formula(setting: Setting) -> None:
    """Nats and gradients of the output head, without whole logits, against log softmax."""
    tokens, width = (4096, 512) if setting.on_gpu else (24, 16)
    vocabulary = 100_279 if setting.on_gpu else 321
    draws = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(width, vocabulary, bias=False)
    torch.nn.init.normal_(head.weight, std=0.1, generator=draws)
    features = torch.randn(tokens, width, generator=draws)
    ids = torch.randint(0, vocabulary, (tokens,), generator=draws).to(setting.device)
    layout = None if setting.on_gpu else HeadLayout(chunk=7, piece=3)
    found, expected = [], []
    for ours in (True, False):
        x = features.to(setting.device).requires_grad_()
        own = torch.nn.Linear(width, vocabulary, bias=False).to(setting.device)
        own.load_state_dict(head.state_dict())
        if ours:
            nll = as_output_head(own)(x, Scored(ids, "mean", layout=layout))[0]
        else:
            logits = own(x)
            nll = -logits.log_softmax(-1).gather(1, ids[:, None]).mean()
        nll.backward()
        (found if ours else expected).extend([nll.detach(), x.grad, own.weight.grad])
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.gpu
@needs_gpu
def test_the_head_needs_two_gigabytes_above_its_inputs() -> None:
    """32,768 tokens x 2,048 x 100,352 in bfloat16, forward and backward."""
    device = torch.device("cuda")
    with device:
        head = OutputHead(2048, 100_352, bias=False)
        x = torch.randn(32_768, 2048, dtype=torch.bfloat16, requires_grad=True)
        ids = torch.randint(0, 100_352, (32_768,))
    inputs_and_gradients = (
        torch.cuda.memory_allocated() + 4 * head.weight.numel() + x.numel() * x.element_size()
    )
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        mean_nll(head, x[None], ids[None]).backward()
    above = torch.cuda.max_memory_allocated() - inputs_and_gradients
    print(f"the head: {above / 1e9:.2f} GB above inputs and gradients")
    assert above < 2e9


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_makes_the_cpus_tokens(setting: Setting, family: str) -> None:
    """In float32, for prompts of different lengths, which rows of one batch share."""
    spec = planned(setting, family).spec
    settings = GenerationSpec(max_new_tokens=16, steps=4)
    draws = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(0, spec.model.vocab_size, (length,), generator=draws).tolist()
        for length in (3, 8, 11)
    ]
    made = []
    for device in (CPU, setting.device):
        torch.manual_seed(0)
        networks = family_of(family)
        model = networks.build(spec.model).to(device).eval()
        stream = Stream(0, 0, range(len(prompts)), device=device)
        with torch.no_grad():
            made.append(
                networks.generate(model, prompts, settings, stream=stream, eos_token_id=None)
            )
    assert made[0] == made[1]
    assert [len(tokens) for tokens in made[0]] == [16] * 3
