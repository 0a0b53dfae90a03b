"""Recompute a folder of the public release's reference tensors, and report the differences.

A folder holds `cola_dit/`, `cola_vae/`, `meta.json` and `expected.safetensors` with VAE outputs
(`vae.*`), one flow-matching pass (`fm.*`) and generations (`gen.*`).

Two traits of the release's code affect its generations and are reproduced in this module alone: its
DiT caches rotary angles by length, so that after a [clean | noisy] pass over n latents it gives
positions n .. 2n - 1 the angles of 0 .. n - 1; and it decodes latents without undoing their
normalisation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from cola.errors import SpecError
from cola.families.interface.pretrained import load_pretrained
from cola.models.cola_dlm import ColaDLM
from cola.models.dit import ColaDiT
from cola.models.dit_layers import RotaryFrequencies
from cola.models.layers import rotary_angles
from cola.models.text_vae import TextVAE
from cola.sampling.block_decode import blocks
from cola.sampling.first_block import encode_prompts
from cola.spec import GenerationSpec

TOLERANCE = 1e-4  # float32 rounding is a quarter of it on the tensors of tests/parity


@dataclass(frozen=True)
class Comparison:
    """One expected tensor: largest absolute error, or number of ids that differ."""

    name: str
    error: float
    is_ids: bool

    @property
    def passes(self) -> bool:
        """Whether the error is within the tolerance (ids: 0)."""
        return self.error == 0 if self.is_ids else self.error <= TOLERANCE


class ReleaseColaDLM(ColaDLM):
    """Decodes normalised latents as they are."""

    def from_dit(self, z_dit: Tensor) -> Tensor:
        """`z_dit` unchanged; see the module's docstring."""
        return z_dit


class LengthCachedAngles(RotaryFrequencies):
    """Rotary angles from a cache that a training pass over `length` latents has filled."""

    def __init__(self, frequencies: Tensor, length: int) -> None:
        super().__init__(2 * len(frequencies))
        self.freqs, self._length = frequencies, length

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Positions below 2 `length` wrap at `length`; the angles of later ones are correct."""
        wrapped = torch.where(position < 2 * self._length, position % self._length, position)
        return rotary_angles(wrapped, self.freqs)


@torch.no_grad()
def check_release(folder: Path) -> list[Comparison]:
    """Comparisons of every expected tensor of the folder, in float32 on the CPU.

    Raises:
        SpecError: if a file is missing.
    """
    for name in (
        "cola_dit/config.json",
        "cola_vae/config.json",
        "meta.json",
        "expected.safetensors",
    ):
        if not (folder / name).is_file():
            raise SpecError(f"{folder}: holds no {name}; give a folder of reference tensors")
    expected = load_file(folder / "expected.safetensors")
    meta = json.loads((folder / "meta.json").read_text())
    vae = load_pretrained(TextVAE, folder / "cola_vae", dtype=torch.float32).eval()
    dit = load_pretrained(ColaDiT, folder / "cola_dit", dtype=torch.float32).eval()
    comparisons = [*vae_comparisons(vae, expected), *fm_comparisons(dit, expected, meta)]
    if "fm.z0" in expected:
        cache_angles_by_length(dit, expected["fm.z0"].shape[1])
    return [*comparisons, *generation_comparisons(ReleaseColaDLM(vae, dit), expected, meta)]


def vae_comparisons(vae: TextVAE, expected: dict[str, Tensor]) -> Iterator[Comparison]:
    """Means, log-variances and the logits decoded from the means."""
    for index in _indices(expected, "vae.ids"):
        outputs = vae(expected[f"vae.ids.{index}"][None])
        for name, output in zip(("mean", "logvar", "logits"), outputs, strict=True):
            key = f"vae.{name}.{index}"
            yield Comparison(key, _largest(output[0], expected[key]), False)


def fm_comparisons(
    dit: ColaDiT, expected: dict[str, Tensor], meta: dict[str, float]
) -> Iterator[Comparison]:
    """The velocity of one [clean | noisy] pass, and its loss (model.md, Eq. 9)."""
    if "fm.z0" not in expected:
        return
    z0, z1, t_B1 = expected["fm.z0"], expected["fm.z1"], expected["fm.t"][:, None]
    t_B11 = t_B1[..., None]
    target_velocity = z1 - z0
    velocity = dit(z0, (1 - t_B11) * z0 + t_B11 * z1, t_B1)
    yield Comparison("fm.velocity", _largest(velocity, expected["fm.velocity"]), False)
    loss = float((velocity - target_velocity).square().mean())
    yield Comparison("fm.loss", abs(loss - meta["fm.loss"]), False)


def generation_comparisons(
    model: ColaDLM, expected: dict[str, Tensor], meta: dict[str, float]
) -> Iterator[Comparison]:
    """Latents of every generated block and the greedy token ids."""
    settings = GenerationSpec(
        steps=int(meta["steps"]), guidance_scale=meta["cfg_scale"], first_block="clean_repaint"
    )
    for index in _indices(expected, "gen.prompt"):
        noise_bsd = expected[f"gen.noise.{index}"]
        prompt = expected[f"gen.prompt.{index}"].tolist()
        prompts = encode_prompts(model, [prompt], int(meta["prompt_pad_id"]))

        def noise(number: int, noise_bsd: Tensor = noise_bsd) -> Tensor:
            return noise_bsd[number][None]

        count = len(noise_bsd)
        generated = list(blocks(model, prompts, settings, count=count, noise=noise, uniform=None))
        latents = torch.cat([block.latents for block in generated])
        key = f"gen.latents.{index}"
        yield Comparison(key, _largest(latents, expected[key]), False)
        ids = torch.cat([block.tokens[0] for block in generated])[prompts.tail[0] :]
        yield Comparison(f"gen.ids.{index}", _differing(ids, expected[f"gen.ids.{index}"]), True)


def cache_angles_by_length(dit: ColaDiT, length: int) -> None:
    """Give every layer the rotary angles of a cache that a pass over `length` latents filled."""
    for block in dit.layers:
        rotary = block.msa.rope
        rotary.rope = LengthCachedAngles(rotary.rope.freqs, length)


def _indices(expected: dict[str, Tensor], prefix: str) -> list[int]:
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)$")
    return sorted(int(match[1]) for key in expected if (match := pattern.match(key)))


def _largest(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max()) if bool(torch.isfinite(ours).all()) else float("inf")


def _differing(ours: Tensor, theirs: Tensor) -> float:
    common = min(len(ours), len(theirs))
    different = int((ours[:common] != theirs[:common]).sum())
    return float(different + abs(len(ours) - len(theirs)))
