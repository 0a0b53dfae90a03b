"""The held-out text of a corpus: dealt out to validation and test, its sequences spread.

A document (see `cola.data.sources`) is in one of the two splits. The sequences of each are kept in
an order whose beginning comes from as many documents as possible, so that the first N sequences
stand for all of the split: every run of every family measures the first ones.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np

from cola.data.order import permute
from cola.data.packed import PackedTokens, PackedWriter, document_file

Rule = Literal["documents", "pieces", "sequences", "none"]
HELD_OUT: tuple[Literal["validation"], Literal["test"]] = ("validation", "test")

# Chosen: of less than a quarter of the held-out text, a split would be known too badly.
LEAST_SHARE = 0.25
_SEED = 0  # of the order of sequences: not the study's, so that all studies measure the same
_ROWS_AT_ONCE = 4096
_STREAM = np.dtype("<i4")  # of a temporary file: vocabularies have at most a million entries

# Where the splits are not of different documents, what a reader of their scores must know.
NOTES: dict[Rule, str] = {
    "pieces": "too few documents are held out to divide them between validation and test, or one "
    "has nearly all of the text: the two splits and standard errors are by pieces of documents",
    "sequences": "the held-out text is too little for several pieces each of validation and test: "
    "they are different sequences of the same text, and standard errors are by sequence",
    "none": "the held-out text has one sequence only, which validates: there is no test split",
}


class HeldOutText:
    """Held-out tokens in the corpus' order, in temporary files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"held-out.{name}" for name in ("stream", "lengths")]
        self._files: list[BinaryIO] = []
        self._starts, self._documents, self._ends = array("q"), array("q"), array("b")
        self.tokens = 0

    def __enter__(self) -> Self:
        self._files = [path.open("wb") for path in self._paths]
        return self

    def __exit__(self, *_: object) -> None:
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            path.unlink(missing_ok=True)

    def append(self, ids: np.ndarray, lengths: np.ndarray, document: int, *, ends: bool) -> None:
        """Take a piece's tokens (T,) and the bytes of text of each (T,).

        `ends`: the last token is an end of text, as the next piece is not its continuation.
        """
        if not len(ids):
            return
        self._starts.append(self.tokens)
        self._documents.append(document)
        self._ends.append(ends)
        self.tokens += len(ids)
        for file, values in zip(self._files, (ids, lengths), strict=True):
            file.write(values.astype(_STREAM).tobytes())

    def deal_out(
        self,
        folder: Path,
        sequence_length: int,
        dtype: str,
        *,
        eos_token_id: int,
        divided_at: int | None = None,
    ) -> tuple[dict[str, PackedWriter], dict[str, Any]]:
        """Write both splits into `folder`: their writers, and how they were divided.

        The latter has `rule` (see `NOTES`), `documents` of the held-out text, and for each split
        `pieces` that begin in it and `clusters`: documents, or what stands for them by that rule.
        `divided_at`: the text is divided as for sequences of so many tokens (None: of these).
        """
        for file in self._files:
            file.flush()
        segments = self._segments(divided_at or sequence_length)
        ids_T, lengths_T = (
            np.memmap(path, dtype=_STREAM, mode="r") if self.tokens else np.zeros(0, _STREAM)
            for path in self._paths
        )
        begun_in = np.searchsorted(segments.starts_S, np.asarray(self._starts), side="right") - 1
        pieces = np.bincount(segments.sides_S[begun_in], minlength=2).tolist()
        writers: dict[str, PackedWriter] = {}
        about: dict[str, Any] = {
            "rule": segments.rule,
            "documents": len(np.unique(np.asarray(self._documents))),
        }
        for side, split in enumerate(HELD_OUT):
            mine = segments.of_side(side)
            dealt = PackedWriter(folder, f"dealt-{split}", sequence_length, dtype)
            with dealt:
                starts_S = _write_segments(
                    mine, dealt, ids_T, lengths_T=lengths_T, eos_token_id=eos_token_id
                )
            owners_N, order_N = spread_order(
                starts_S, mine.units_S, dealt.sequences, length=sequence_length
            )
            packed = PackedTokens(folder, dealt.split, sequence_length, dtype, dealt.shards)
            writers[split] = _write_rows(packed, split, order_N)
            writers[split].dropped_tokens = dealt.dropped_tokens
            _write_documents(document_file(folder, split), owners_N[order_N])
            about[split] = {"pieces": pieces[side], "clusters": len(np.unique(owners_N))}
            for path in folder.glob(f"{dealt.split}-*"):
                path.unlink()
        return writers, about

    def _segments(self, length: int) -> _Segments:
        starts_P = np.asarray(self._starts)
        bounds_P1 = np.append(starts_P, self.tokens)
        documents_P = np.asarray(self._documents)
        rule, units_P, sides_P = divide(np.diff(bounds_P1), documents_P, length)
        ends_P = np.asarray(self._ends).astype(bool)
        if rule in ("documents", "pieces"):
            return _Segments(rule, bounds_P1[:-1], bounds_P1[1:], units_P, sides_P, ends_P)
        rows = self.tokens // length
        bounds = np.unique(np.append(np.arange(rows + 1) * length, self.tokens))
        units = np.arange(len(bounds) - 1)
        # What does not fill a sequence is dropped, on the side that comes last.
        sides = (units >= -(-rows // 2)) & (rows > 1)
        whole = np.ones(len(units), dtype=bool)
        return _Segments(rule, bounds[:-1], bounds[1:], units, sides.astype(np.int64), whole)


@dataclass(frozen=True)
class _Segments:
    """Parts of the stream [start, stop), the unit that each is of, its side, and whether it ends
    (what follows it in the stream does not continue it, or need not be marked off)."""

    rule: Rule
    starts_S: np.ndarray
    stops_S: np.ndarray
    units_S: np.ndarray
    sides_S: np.ndarray
    ends_S: np.ndarray

    def of_side(self, side: int) -> _Segments:
        """The segments of one side, in the stream's order."""
        chosen = self.sides_S == side
        columns = (self.starts_S, self.stops_S, self.units_S, self.sides_S, self.ends_S)
        return _Segments(self.rule, *(column[chosen] for column in columns))


def divide(
    sizes_P: np.ndarray, documents_P: np.ndarray, length: int
) -> tuple[Rule, np.ndarray, np.ndarray]:
    """How pieces of these sizes (tokens) are divided: rule, unit and side (0, 1) of each.

    By documents where each side gets two of them and a quarter of the text; else by pieces, where
    that holds of them; else not by either (units and sides are then empty).
    """
    total = int(sizes_P.sum())
    _, documents_P = np.unique(documents_P, return_inverse=True)
    candidates: tuple[tuple[Rule, np.ndarray], ...] = (
        ("documents", documents_P),
        ("pieces", np.arange(len(sizes_P))),
    )
    for rule, units_P in candidates:
        if not len(units_P):
            continue
        sizes_U = np.bincount(units_P, weights=sizes_P).astype(np.int64)
        sides_U = balanced_sides(sizes_U)
        tokens = np.bincount(sides_U, weights=sizes_U, minlength=2)
        units = np.bincount(sides_U, minlength=2)
        if units.min() >= 2 and tokens.min() >= max(length, LEAST_SHARE * total):
            return rule, units_P, sides_U[units_P]
    empty = np.zeros(0, dtype=np.int64)
    return ("sequences" if total // length > 1 else "none"), empty, empty


def balanced_sides(sizes_U: np.ndarray) -> np.ndarray:
    """The side (0, 1) of each unit: the largest first, each to the side that has less so far.

    Units of equal size alternate; both sides get large and small ones.
    """
    sides_U = np.zeros(len(sizes_U), dtype=np.int64)
    totals = [0, 0]
    for unit in np.argsort(-sizes_U, kind="stable"):
        side = int(totals[1] < totals[0])
        sides_U[unit] = side
        totals[side] += int(sizes_U[unit])
    return sides_U


def spread_order(
    starts_S: np.ndarray, units_S: np.ndarray, rows: int, *, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The unit that each of `rows` packed sequences is of, and the order to keep them in.

    `starts_S` has where each segment starts among the packed tokens, and behind them where the
    last one stops. A sequence is of the unit that most of its tokens are of. Units take turns, in
    a seeded order, each with one of its sequences: the first N are of min(N, units) units. A unit
    that is shorter than its sequences takes its first turn with the one that contains its start.
    """
    if not rows:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    _, units_S = np.unique(units_S, return_inverse=True)
    begins = np.flatnonzero(np.append(True, units_S[1:] != units_S[:-1]))  # of each unit
    starts_U, units_U = starts_S[:-1][begins], units_S[begins]
    stops_U = np.append(starts_U[1:], starts_S[-1])
    owners_N = owners_of(starts_U, stops_U, units_U, rows=rows, length=length)
    turn_U = permute(np.arange(len(units_U)), len(units_U), _SEED, epoch=0)
    priority_N = permute(np.arange(rows), rows, _SEED, epoch=1)
    by_owner = np.lexsort((priority_N, owners_N))
    first = np.searchsorted(owners_N[by_owner], owners_N[by_owner], side="left")
    rank = np.arange(rows) - first
    without = np.setdiff1d(units_U, owners_N)
    start_of = dict(zip(units_U.tolist(), starts_U.tolist(), strict=True))
    guests = np.array([start_of[unit] // length for unit in without.tolist()], dtype=np.int64)
    without, guests = without[guests < rows], guests[guests < rows]
    claimed = np.concatenate([by_owner, guests])
    ranks = np.concatenate([rank, np.zeros(len(guests), dtype=np.int64)])
    turns = np.concatenate([turn_U[owners_N[by_owner]], turn_U[without]])
    claims = claimed[np.lexsort((turns, ranks))]
    _, earliest = np.unique(claims, return_index=True)
    return owners_N, claims[np.sort(earliest)]


def owners_of(
    starts_U: np.ndarray, stops_U: np.ndarray, units_U: np.ndarray, *, rows: int, length: int
) -> np.ndarray:
    """The unit with most tokens of each sequence, the first of equals: (rows,)."""
    first, last = starts_U // length, (stops_U - 1) // length
    spans = last - first + 1
    index = np.repeat(np.arange(len(units_U)), spans)
    row = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans - first, spans)
    overlap = np.minimum(stops_U[index], (row + 1) * length) - np.maximum(
        starts_U[index], row * length
    )
    order = np.lexsort((index, -overlap, row))
    found, where = np.unique(row[order], return_index=True)
    owners = units_U[index[order][where]]
    return np.asarray(owners[found < rows])


def _write_segments(
    segments: _Segments,
    writer: PackedWriter,
    ids_T: np.ndarray,
    *,
    lengths_T: np.ndarray,
    eos_token_id: int,
) -> np.ndarray:
    """Pack the segments one after the other; where each starts, and where the last one stops."""
    end = (np.array([eos_token_id], dtype=_STREAM), np.zeros(1, dtype=_STREAM))
    starts: list[int] = []
    position = 0
    for start, stop, continued in _continuations(segments):
        starts.append(position)
        writer.append(np.asarray(ids_T[start:stop]), np.asarray(lengths_T[start:stop]))
        position += stop - start
        if not continued:
            writer.append(*end)
            position += 1
    writer.flush()
    return np.array([*starts, position], dtype=np.int64)


def _continuations(segments: _Segments) -> Iterator[tuple[int, int, bool]]:
    """(start, stop, whether nothing has to mark its end) of each segment."""
    stops = segments.stops_S.tolist()
    following = [*segments.starts_S.tolist(), -1][1:]
    rows = zip(segments.starts_S.tolist(), stops, following, segments.ends_S.tolist(), strict=True)
    for start, stop, after, ends in rows:
        yield start, stop, ends or after == stop


def _write_documents(path: Path, documents_N: np.ndarray) -> None:
    with path.open("wb") as file:
        file.write(documents_N.astype("<i8").tobytes())
        file.flush()
        os.fsync(file.fileno())  # the folder is published by a rename: data goes first


def _write_rows(packed: PackedTokens, split: str, order_N: np.ndarray) -> PackedWriter:
    """Write a split's sequences in this order."""
    writer = PackedWriter(packed.folder, split, packed.sequence_length, packed.dtype.name)
    with writer:
        for start in range(0, len(order_N), _ROWS_AT_ONCE):
            ids = order_N[start : start + _ROWS_AT_ONCE]
            writer.write_rows(packed.rows(ids), packed.bytes_of(ids))
    return writer
