"""Formats of corpus files: what a name says, and how bytes become text.

The last extensions of a name give the format, in any letter case; whether a file is compressed is
read from its first bytes, so a `.gz` that somebody unpacked is read as well as one that is whole.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, cast

from cola.byte_marks import HEAD_BYTES, compression_of, encoding_of, is_lfs_pointer
from cola.errors import SpecError, one_line

Format = Literal["text", "json-lines", "json", "parquet", "csv", "tsv"]

_PROSE = "txt text md markdown rst tex org"
_CODE = (
    "py pyi ipy c h cc cpp cxx hpp cu java js mjs ts tsx jsx go rs rb php pl lua sh bash r jl sql "
    "swift kt scala cs hs ml el clj f90 m asm s"
)
EXTENSIONS: dict[str, Format] = {
    "jsonl": "json-lines",
    "ndjson": "json-lines",
    "jsonlines": "json-lines",
    "json": "json",
    "parquet": "parquet",
    "csv": "csv",
    "tsv": "tsv",
    **dict.fromkeys([*_PROSE.split(), *_CODE.split()], "text"),
}
COMPRESSED = ("gz", "bz2", "xz", "zst", "zstd")
KNOWN = (
    ".jsonl, .ndjson, .jsonlines, .json, .parquet, .csv, .tsv, .txt, .md or source code, each also "
    "with .gz, .bz2, .xz or .zst"
)

_CONTROL = frozenset(range(32)) - frozenset(b"\a\b\t\n\v\f\r\x1b")  # bytes that text does not have
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)
_BLOCK = 1 << 20  # chosen: bytes that are decoded at once in search of a wrong one


class NotTextError(SpecError):
    """A file whose bytes are not text in UTF-8 (or in UTF-16 or UTF-32 with a byte order mark)."""


def format_of(name: str) -> Format | None:
    """The format that the extensions of a file's name stand for; None where it is none of them."""
    stem, _, extension = name.lower().rpartition(".")
    if extension in COMPRESSED:
        stem, _, extension = stem.rpartition(".")
    return EXTENSIONS.get(extension) if stem else None


def unpacked_name(name: str) -> str:
    """The name without the extension of a compression."""
    stem, _, extension = name.rpartition(".")
    return stem if stem and extension.lower() in COMPRESSED else name


def check_is_fetched(head: bytes, where: str) -> None:
    """Refuse a file of which only a Git LFS pointer is there, by its first bytes.

    Raises:
        SpecError: beginning with `where`.
    """
    if is_lfs_pointer(head):
        raise SpecError(
            f"{where}: is a Git LFS pointer in place of the file; fetch it (git lfs pull), or "
            "leave it out"
        )


@contextmanager
def open_bytes(path: Path, where: str) -> Iterator[BinaryIO]:
    """The content of a file, decompressed while it is read.

    Raises:
        SpecError: beginning with `where`, when the file cannot be read, is cut short or damaged, or
            only a Git LFS pointer.
    """
    compression: str | None = None
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            head = raw.peek(HEAD_BYTES)[:HEAD_BYTES]
            check_is_fetched(head, where)
            compression = compression_of(head)
            stream = _decompressed(raw, compression)
            yield raw if stream is raw else stack.enter_context(stream)
    except _DAMAGE as error:
        if compression is None:
            raise SpecError(
                f"{where}: cannot be read ({one_line(error)}); check that it is there, and its mode"
            ) from error
        raise SpecError(
            f"{where}: cannot be read to its end as {compression}, it is cut short or damaged "
            f"({one_line(error)}); copy it again or leave it out"
        ) from error


def _decompressed(raw: Any, compression: str | None) -> Any:
    if compression == "gzip":
        return gzip.open(raw)
    if compression == "bzip2":
        return bz2.open(raw)
    if compression == "xz":
        return lzma.open(raw)
    if compression == "zstd":
        import pyarrow as pa  # heavy: only for this compression

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"))
    return raw


@contextmanager
def open_text(path: Path, where: str) -> Iterator[TextIO]:
    """The text of a file, decompressed, without a byte order mark, line ends as they are.

    Raises:
        NotTextError: when the bytes are not text, with the line of the first one that is not.
        SpecError: as `open_bytes`.
    """
    try:
        with open_bytes(path, where) as stream:
            head = cast(Any, stream).peek(HEAD_BYTES)[:HEAD_BYTES]
            yield io.TextIOWrapper(stream, encoding=encoding_of(head), newline="")
    except UnicodeDecodeError as error:
        raise NotTextError(f"{where}: {_encoding_problem(path, error.encoding)}") from error


def text_blocks(path: Path, where: str, characters: int) -> Iterator[str]:
    """The text of a file in blocks of at most that many characters.

    Raises:
        NotTextError: as `open_text`, and where the text holds NUL characters.
        SpecError: as `open_bytes`.
    """
    line = 1
    with open_text(path, where) as handle:
        while block := handle.read(characters):
            if "\0" in block:
                line += block[: block.index("\0")].count("\n")
                raise NotTextError(f"{where}: {nul_problem(line, path)}")
            line += block.count("\n")
            yield block


def nul_problem(line: int, path: Path) -> str:
    """A clause about text with a NUL character in that line."""
    return (
        f"line {line} holds a NUL character, so it is a binary file or UTF-16 without a mark; "
        f"convert it (iconv -f UTF-16LE -t UTF-8 {path.name}) or leave it out"
    )


def _encoding_problem(path: Path, encoding: str) -> str:
    """A clause about the first bytes of a file that its encoding cannot have."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    found, is_binary = "", False
    with open_bytes(path, str(path)) as stream:
        while not found:
            block = stream.read(_BLOCK)
            is_binary = is_binary or (
                encoding.startswith("utf-8") and not _CONTROL.isdisjoint(block)
            )
            before = decoder.getstate()[0]
            try:
                line += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                # What the decoder had kept of the last block comes first.
                data = before + block
                line += data[: error.start].decode(encoding, "ignore").count("\n")
                found = f"byte 0x{data[error.start]:02X} in line {line}"
            if not block:
                break
    name = encoding.upper().removesuffix("-SIG").removesuffix("-LE").removesuffix("-BE")
    remedy = f"convert it (such as iconv -f WINDOWS-1252 -t UTF-8 {path.name}) or leave it out"
    if name != "UTF-8":
        remedy = "copy it again or leave it out"
    elif is_binary:
        remedy = "it is a binary file (an archive, say): unpack it or leave it out"
    return f"is not {name} text ({found or 'cut short'}); {remedy}"
