"""What a source of runs is read into: cells of text by column, a row a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A run. `where`: its place in the source (line 4); `name`: what its tracker calls it."""

    where: str
    name: str
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """Runs as they were recorded. `kind`: of the source, for people. `left_out`: runs that count
    nothing, as reason -> places."""

    kind: str
    place: str
    rows: tuple[Row, ...]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in the order of their first use."""
        return list(dict.fromkeys(name for row in self.rows for name in row.cells))


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as cells named by their path: `config.lr`."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{name}.")
        else:
            yield name, cell(value)


def cell(value: Any) -> str:
    """A value as a table would have it: empty where there is none, numbers in full."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).strip()
    return repr(value)
