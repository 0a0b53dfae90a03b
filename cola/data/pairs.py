"""Pairs of text and image as sequences: the text's tokens, filled up with ends of text, and behind
them the image's bytes. Whoever reads tokens alone reads the same texts in the same order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cola.data.corpus_files import PATHS, CorpusFile, listing_of
from cola.data.documents import file_rows
from cola.errors import SpecError, one_line
from cola.image_captions.drawing import pair_of
from cola.image_captions.scenes import caption_of, scene_of
from cola.spec import DataSpec
from cola.spec.data import GeneratedPairs, ImagePairs, Pairs

TABLES = ("json-lines", "json", "csv", "tsv")


@dataclass(frozen=True)
class PairFile:
    """An image's file and its caption; `where` names the row that says so."""

    image: Path
    text: str
    where: str


def row_length(spec: DataSpec) -> int:
    """Numbers of a packed sequence: its tokens and, of pairs, its image's bytes."""
    return spec.sequence_length + math.prod(spec.image_shape or (0,))


def captions(corpus: Pairs) -> Iterator[str]:
    """The captions in the corpus' order.

    Raises:
        SpecError: a table cannot be read, or a row lacks caption or image.
    """
    if isinstance(corpus, GeneratedPairs):
        yield from (caption_of(scene_of(corpus, number)) for number in range(corpus.documents))
    else:
        yield from (pair.text for pair in pair_files(corpus))


def images_of(corpus: Pairs) -> Callable[[int], np.ndarray]:
    """A function that gives the image of the pair of a number, (channels, height, width) uint8; it
    raises a SpecError where a file is no image, or one of another size or other channels.

    Raises:
        SpecError: see `captions`.
    """
    if isinstance(corpus, GeneratedPairs):
        return lambda number: pair_of(corpus, number)[1]
    pairs, size = pair_files(corpus), corpus.image_size
    return lambda number: read_image(pairs[number], size)


def as_row(
    spec: DataSpec,
    document: int,
    ids: np.ndarray,
    lengths: np.ndarray,
    *,
    image: np.ndarray,
    eos: int,
) -> tuple[np.ndarray, np.ndarray]:
    """A pair's row and the bytes of text of each of its numbers, (`row_length`,) each.

    ids: the caption's tokens, and behind them an end of text.

    Raises:
        SpecError: the caption does not fit a sequence.
    """
    if len(ids) > spec.sequence_length:
        raise SpecError(
            f"data.sequence_length={spec.sequence_length}: caption {document} has {len(ids)} "
            "tokens with its end, and a pair is a sequence; give a longer sequence_length, or a "
            "tokenizer with more entries"
        )
    filler = np.full(spec.sequence_length - len(ids), eos, dtype=ids.dtype)
    row = np.concatenate([ids, filler, image.ravel().astype(ids.dtype)])
    return row, np.pad(lengths, (0, len(row) - len(lengths)))


def tables_of(corpus: ImagePairs) -> list[CorpusFile]:
    """The files that list the pairs.

    Raises:
        SpecError: there are none, or they are of another form.
    """
    files = list(listing_of(corpus.paths, PATHS).files)
    for file in files:
        if file.format not in TABLES:
            raise SpecError(
                f"{PATHS}={file.path}: is no table of pairs; name JSON lines, JSON, CSV or TSV"
            )
    return files


def pair_files(corpus: ImagePairs) -> tuple[PairFile, ...]:
    """All pairs in the tables' order.

    Raises:
        SpecError: see `captions`.
    """
    files = tables_of(corpus)
    stamps = tuple(file.path.stat().st_mtime_ns for file in files)
    return _pair_files(corpus.canonical_json(), stamps)


@lru_cache(maxsize=4)
def _pair_files(corpus: str, stamps: tuple[int, ...]) -> tuple[PairFile, ...]:
    """Read once a process, unless a table changes."""
    pairs = ImagePairs.model_validate_json(corpus)
    return tuple(
        _pair_in(row, pairs, file.path, f"{PATHS}={file.path}: {place}")
        for file in tables_of(pairs)
        for place, row in file_rows(file, pairs.text_field, f"{PATHS}={file.path}")
    )


def _pair_in(row: Mapping[str, object], pairs: ImagePairs, table: Path, where: str) -> PairFile:
    text, image = row.get(pairs.text_field), row.get(pairs.image_field)
    if not isinstance(image, str) or not image:
        raise SpecError(f"{where}: has no image in field {pairs.image_field!r}; give its path")
    if not isinstance(text, str) or not text.strip():
        raise SpecError(
            f"{where}: the image {image} has no caption in field {pairs.text_field!r}; write one, "
            "or remove the row"
        )
    path = table.parent / image
    if not path.is_file():
        raise SpecError(f"{where}: {path}: no such file; mend the path, or remove the row")
    return PairFile(path, text, where)


def read_image(pair: PairFile, size: int) -> np.ndarray:
    """The pair's image, (3, size, size) uint8.

    Raises:
        SpecError: with the row, the file and what it is instead.
    """
    from PIL import Image, UnidentifiedImageError

    where = f"{pair.where}: {pair.image}"
    try:
        with Image.open(pair.image) as image:
            found, mode = image.size, image.mode
            levels = np.asarray(image) if (found, mode) == ((size, size), "RGB") else None
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise SpecError(
            f"{where}: cannot be read as an image ({one_line(error, 80)}); copy it again"
        ) from None
    if found != (size, size):
        raise SpecError(
            f"{where}: has {found[0]} x {found[1]} pixels, not data.corpus.image_size={size} a "
            "side; resize it"
        )
    if levels is None:
        raise SpecError(
            f"{where}: has the channels {mode}, not red, green and blue; convert it to RGB"
        )
    return levels.transpose(2, 0, 1)
