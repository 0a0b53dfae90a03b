"""Checksums that lie beside a corpus' files: checked before anything is made of the files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cola.data.corpus_files import CorpusFile
from cola.errors import SpecError

_KINDS = ("sha256", "sha512", "sha1", "md5")
_LINE = re.compile(r"([0-9a-fA-F]{32,128})(?: [ *](.+))?")  # as `sha256sum` writes it


def check_checksums(files: Iterable[CorpusFile]) -> int:
    """Compare files with `NAME.sha256` beside them, or with their line in `SHA256SUMS`.

    The same for sha512, sha1 and md5. Returns how many files were compared.

    Raises:
        SpecError: naming a file that is not the one of its checksum.
    """
    compared = 0
    for file in files:
        for kind, expected, source in _given(file.path):
            compared += 1
            with file.path.open("rb") as content:
                found = hashlib.file_digest(content, kind).hexdigest()
            if found != expected.lower():
                raise SpecError(
                    f"{file.path}: is not the file that {source.name} describes ({kind} "
                    f"{found[:12]}..., expected {expected[:12].lower()}...); copy it again, or "
                    "remove the checksum if the file was meant to change"
                )
    return compared


def _given(path: Path) -> Iterator[tuple[str, str, Path]]:
    """Checksums of a file, each with its kind and where it is written."""
    for kind in _KINDS:
        size = 2 * hashlib.new(kind, usedforsecurity=False).digest_size
        own = path.with_name(f"{path.name}.{kind}")
        common = path.with_name(f"{kind.upper()}SUMS")
        for source in (own, common):
            for digest, name in _lines(source):
                named = name is not None and Path(name).name == path.name
                if len(digest) == size and (named or (source is own and name is None)):
                    yield kind, digest, source


def _lines(path: Path) -> Iterator[tuple[str, str | None]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.fullmatch(line.strip())
        if match:
            yield match[1], match[2]
