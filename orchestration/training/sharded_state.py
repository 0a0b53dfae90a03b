"""A training state as fragments of named parameters: any sharding can read what any other wrote.

Each worker writes the consecutive elements of each flattened parameter that it holds, under the
parameter's name and the index of the first. A reader puts together what it needs, so neither the
number of workers nor the ZeRO stage has to be the same, and nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

WEIGHT = "weight"  # what fragments hold; AdamW's moments go by the names that torch gives them
MOMENTS = ("exp_avg", "exp_avg_sq")
BUFFER = "buffer"


@dataclass(frozen=True)
class Fragment:
    """Elements `start`, `start + 1`, ... of a flattened tensor of the module: values (n,)."""

    kind: str
    name: str
    start: int
    values: Tensor


def fragments_file(folder: Path, rank: int) -> Path:
    """Where a worker's fragments are."""
    return folder / f"fragments-{rank:05d}.safetensors"


def write_fragments(
    folder: Path, rank: int, workers: int, steps: int, fragments: Iterable[Fragment]
) -> None:
    """Write a worker's part; together, the `workers` parts hold every element of every tensor.

    Raises:
        OSError: where it cannot be written.
    """
    tensors = {
        f"{part.kind}/{part.name}@{part.start}": part.values.detach().cpu().clone()
        for part in fragments
    }
    header = {"steps": str(steps), "workers": str(workers)}
    write_tensors(fragments_file(folder, rank), tensors, header)


def write_tensors(
    path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None
) -> None:
    """A safetensors file.

    Raises:
        OSError: where it cannot be written, which safetensors does not tell from other faults.
    """
    try:
        save_file(tensors, path, header)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error


class FragmentReader:
    """Reads ranges of the tensors that several workers wrote; use it as a context.

    `steps` is what `write_fragments` was given.
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
            kind, rest = key.split("/", 1)
            name, start = rest.rsplit("@", 1)
            (numel,) = file.get_slice(key).get_shape()
            self._parts.setdefault((kind, name), []).append((int(start), numel, file, key))
        return dict(file.metadata())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()

    def has(self, kind: str, name: str) -> bool:
        """Whether anything of this tensor was written."""
        return (kind, name) in self._parts

    def read(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """Elements [start, start + numel) of the flattened tensor, on the CPU: (numel,).

        Raises:
            ValueError: when the workers' parts do not hold all of them.
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
