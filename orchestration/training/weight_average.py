"""Moving average of the trained weights, which is evaluated and exported where a run has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

FILE = "weight_average.safetensors"


class WeightAverage:
    """theta_ema <- d theta_ema + (1 - d) theta after step k, d = min(decay, 1 - 1 / k).

    This is the mean of all steps at first, and an exponential average later. Every worker holds the
    whole average, so weights must not be sharded (ZeRO 3).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay, self._steps = decay, 0
        self._weights = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after a step."""
        self._steps += 1
        decay = min(self._decay, 1 - 1 / self._steps)
        for name, weight in self._weights.items():
            self._average[name].lerp_(weight, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the model has the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, weight in self._weights.items():
            held = weight.detach().clone()
            weight.copy_(self._average[name])
            self._average[name] = held

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint's folder.

        Raises:
            OSError: the folder cannot be written.
        """
        state: dict[str, Tensor] = {n: t.contiguous() for n, t in self._average.items()}
        (folder / FILE).write_bytes(save(state))  # unlike `save_file`, an OSError on a full disk

    def load(self, folder: Path, steps: int) -> None:
        """Read what `save` wrote after `steps` steps."""
        stored = load_file(folder / FILE)
        self._average = {n: stored[n].to(w.device) for n, w in self._weights.items()}
        self._steps = steps
