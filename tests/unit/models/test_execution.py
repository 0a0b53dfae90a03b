"""Compiled blocks and activation checkpointing: the same numbers, and where they apply."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cola.models.adaln import TimestepEmbeddings
from cola.models.dit_config import DiTConfig
from cola.models.dit_layers import DiTBlock
from cola.models.execution import (
    BlockExecution,
    compiled,
    executing,
    run_block,
    why_not_compiled,
)
from cola.models.layers import LayerNorm, normalized, rotate_pairs, rotations
from cola.models.text_vae import TextVAEConfig, VAEBlock


def test_compiled_rotations_are_the_complex_products() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs, upstream = torch.randn(2, 3, 50, 7, 12, 2, generator=generator)
    angle = 1000 * torch.rand(50, 1, 12, generator=generator)
    turns = rotations((angle.cos(), angle.sin()), 24)
    results = []
    for rotate in (rotate_pairs, torch.compile(rotate_pairs, backend="eager", fullgraph=True)):
        x = pairs.clone().requires_grad_()
        rotated = rotate(x, turns)
        rotated.backward(upstream)
        assert x.grad is not None
        results.append((rotated.detach(), x.grad))
    torch.testing.assert_close(results[1], results[0], atol=3e-7, rtol=0)
    expected = torch.view_as_complex(pairs.double()) * torch.polar(
        torch.ones_like(angle).double(), angle.double()
    )
    torch.testing.assert_close(
        results[1][0].double(), torch.view_as_real(expected), atol=1e-6, rtol=0
    )


def vae_block() -> tuple[VAEBlock, Tensor, Tensor]:
    torch.manual_seed(0)
    block = VAEBlock(TextVAEConfig(vocab_size=8, dim=16, ffn_dim=32, num_heads=2))
    angle = torch.arange(4.0)[:, None, None] * torch.ones(4)
    return block, torch.randn(3, 4, 16), rotations((angle.cos(), angle.sin()), 8)[None]


def test_a_compiled_block_has_no_complex_numbers() -> None:
    block, x, rotary = vae_block()
    types: list[torch.dtype] = []

    def look(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        values = [node.meta.get("example_value") for node in graph.graph.nodes]
        types.extend(value.dtype for value in values if isinstance(value, Tensor))
        return graph

    torch.compile(VAEBlock.forward, backend=look, fullgraph=True)(block, x, rotary, None)
    assert len(types) > 20
    assert set(types) == {torch.float32}


def test_blocks_run_plainly_outside_of_a_training_pass() -> None:
    block, x, rotary = vae_block()
    seen = []

    def forward(module: VAEBlock, *given: Tensor) -> Tensor:
        seen.append(torch.compiler.is_compiling())
        return module(*given, None)

    with executing(BlockExecution(checkpoints=True)):
        run_block(forward, block, x, rotary).sum().backward()
    assert seen == [False, False]  # computed again in the backward pass
    with executing(BlockExecution(checkpoints=True)), torch.no_grad():
        run_block(forward, block, x, rotary)
    assert len(seen) == 3
    run_block(forward, block, x, rotary).sum().backward()
    assert len(seen) == 4


def test_what_cannot_be_one_graph_is_refused() -> None:
    def broken(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x + 1

    with pytest.raises(RuntimeError, match="graph_break"), executing(BlockExecution("eager")):
        run_block(broken, torch.ones(3))


def test_a_function_is_compiled_once() -> None:
    assert compiled(VAEBlock.forward, "eager") is compiled(VAEBlock.forward, "eager")


def test_the_compiler_is_looked_for_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    cpu = torch.device("cpu")
    assert why_not_compiled(cpu) == "a C++ compiler"
    (tmp_path / "my-c++").write_text("#!/bin/sh\n")
    (tmp_path / "my-c++").chmod(0o755)
    monkeypatch.setenv("CXX", "my-c++")
    assert why_not_compiled(cpu) is None
    monkeypatch.setattr("cola.models.execution.find_spec", lambda name: None)
    assert why_not_compiled(torch.device("cuda")) == "the package triton"


@pytest.fixture
def cuda_autocast():
    """Shapes and types of a CUDA device under bfloat16 autocast, without one: nothing is computed.

    Gradients would ask for the device.
    """
    with FakeTensorMode(), torch.no_grad():
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            yield torch.device("cuda")
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()


def without_gradients(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            del part._parameters[name]
            setattr(part, name, torch.empty(parameter.shape, device=device))
        for name, buffer in list(part.named_buffers(recurse=False)):
            part._buffers[name] = torch.empty(buffer.shape, device=device)
    return module


def test_norms_give_the_type_of_their_input_under_cuda_autocast(
    cuda_autocast: torch.device,
) -> None:
    norm = without_gradients(LayerNorm(16), cuda_autocast)
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.empty(2, 3, 16, dtype=dtype, device=cuda_autocast)
        assert torch.nn.functional.layer_norm(x, (16,)).dtype == torch.float32  # autocast's own
        assert norm(x).dtype == normalized(x, 1e-5).dtype == dtype


def test_norms_keep_their_sums_in_float32() -> None:
    """Summed in bfloat16, 4096 squares near 1 end at 256; the norm is right to its last bit."""
    x = (torch.randn(4, 4096, generator=torch.Generator().manual_seed(0)) + 3).bfloat16()
    exact = torch.nn.functional.layer_norm(x.double(), (4096,))
    for found in (normalized(x, 1e-5), LayerNorm(4096).bfloat16()(x)):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), exact, atol=0.01, rtol=2**-8)


def test_blocks_read_and_write_bfloat16_on_cuda(
    cuda_autocast: torch.device,
) -> None:
    config = TextVAEConfig(vocab_size=8, dim=16, ffn_dim=32, num_heads=2)
    x = torch.empty(3, 8, 16, dtype=torch.bfloat16, device=cuda_autocast)
    rotary = torch.empty(1, 8, 1, 4, 2, device=cuda_autocast)
    vae = without_gradients(VAEBlock(config), cuda_autocast)
    assert vae.norm_attn(x).dtype == torch.bfloat16
    assert vae.feed_forward(vae.norm_ffn(x)).dtype == torch.bfloat16
    sizes = DiTConfig(txt_dim=16, emb_dim=16, heads=2, head_dim=8, rope_dim=4, num_layers=1)
    dit = without_gradients(DiTBlock(sizes), cuda_autocast)
    emb = torch.empty(3, 1, 16, dtype=torch.bfloat16, device=cuda_autocast)
    clean_Bn = torch.zeros(3, 8, dtype=torch.bool, device=cuda_autocast)
    zero = torch.empty(1, 1, 16, dtype=torch.bfloat16, device=cuda_autocast)
    for timesteps in (TimestepEmbeddings(emb), TimestepEmbeddings(emb, zero, clean_Bn)):
        q, k, v = dit.qkv(x, timesteps, rotary)
        out = dit.finish(x, v, timesteps)
        assert {part.dtype for part in (q, k, v, out)} == {torch.bfloat16}
