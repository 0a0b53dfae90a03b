"""A sharded training state as fragments of named tensors, readable at any other sharding.

Each worker writes the consecutive elements that it holds of each flattened tensor, under the
tensor's name and the index of the first element. A reader assembles the range that it needs, so
the number of workers and the ZeRO stage may change, and nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from orchestration.training.distributed import WorkerRank

# Kinds of fragments; AdamW's moments have the names that torch gives them.
WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
BUFFER = "buffer"


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + n) of a flattened tensor of the module: values (n,)."""

    kind: str
    name: str
    start: int
    values: Tensor


def fragments_file(folder: Path, rank: int) -> Path:
    """The file of a worker's fragments."""
    return folder / f"fragments-{rank:05d}.safetensors"


def write_fragments(
    folder: Path, fragments: Iterable[Fragment], *, worker: WorkerRank, steps: int
) -> None:
    """Write this worker's file; those of all workers hold every element of every tensor.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {
        f"{part.kind}/{part.name}@{part.start}": part.values.detach().cpu().clone()
        for part in fragments
    }
    header = {"steps": str(steps), "workers": str(worker.world_size)}
    write_tensors(fragments_file(folder, worker.rank), tensors, header)


def write_tensors(
    path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the file cannot be written; safetensors has one error for this and other faults.
    """
    try:
        save_file(tensors, path, header)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error


class FragmentReader(AbstractContextManager["FragmentReader"]):
    """Reads ranges of the tensors that several workers wrote; a context manager.

    `steps` is the step count that `write_fragments` recorded.
    """

    def __init__(self, folder: Path) -> None:
        self._files = ExitStack()
        self._folder = folder
        self._parts: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        header = self._open(0)
        self.steps = int(header["steps"])
        for rank in range(1, int(header["workers"])):
            self._open(rank)

    def _open(self, rank: int) -> dict[str, str]:
        path = fragments_file(self._folder, rank)
        file = self._files.enter_context(safe_open(path, framework="pt"))
        for key in file.keys():  # noqa: SIM118 (a file is no mapping)
            kind, named = key.split("/", 1)
            name, start = named.rsplit("@", 1)
            (numel,) = file.get_slice(key).get_shape()
            self._parts.setdefault((kind, name), []).append((int(start), numel, file, key))
        return dict(file.metadata())

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def has(self, kind: str, name: str) -> bool:
        """Whether any fragment of this tensor was written."""
        return (kind, name) in self._parts

    def read(self, kind: str, name: str, start: int, *, numel: int) -> Tensor:
        """Elements [start, start + numel) of the flattened tensor, on the CPU: (numel,).

        Raises:
            ValueError: the workers' files do not hold all of them.
        """
        pieces, reached = [], start
        for begin, size, file, key in sorted(self._parts.get((kind, name), []), key=lambda p: p[0]):
            stop = min(begin + size, start + numel)
            if begin <= reached < stop:
                pieces.append(file.get_slice(key)[reached - begin : stop - begin])
                reached = stop
        if reached != start + numel:
            raise ValueError(
                f"{self._folder}: {kind} of {name} lacks element {reached} of {start + numel}"
            )
        return torch.cat(pieces) if pieces else torch.empty(0)
