"""Which files a corpus consists of, and which ones of its folders are left out, by which rule."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from cola.data.formats import KNOWN, Format, NotTextError, format_of, text_blocks, unpacked_name
from cola.errors import SpecError, first_of, one_line
from cola.spec.data import LocalFiles, PythonStdlib

Rule = Literal[
    "hidden", "side file", "empty", "found twice", "other split", "unknown format", "not text"
]
PATHS = "data.corpus.paths"  # the key that names a corpus of files
# What is left out by these rules is text that somebody may have meant to train on.
LOSSES: tuple[Rule, ...] = ("unknown format", "not text")
# Chosen: a stray file or two stay below a tenth of the bytes; with more left out, what is trained
# on is no longer the corpus that was named.
MOST_LOST = 0.1
SURVEYED_BYTES = 1 << 20  # of each file, where a look at the beginning has to do
BLOCK_CHARACTERS = 1 << 18  # chosen: sixteen pieces of text (see `cola.data.sources`)

_SIDE_FILES = re.compile(
    r"(readme|licen[cs]e|copying|notice|authors|contributing|changelog|citation)"
    r"(\.(md|txt|rst|html|cff|bib))?"
    r"|(md5|sha1|sha256|sha512)sums?(\.txt)?|checksums?(\.(txt|md5|sha256))?"
    r"|.*\.(md5|sha1|sha256|sha512|crc|asc|sig|lock|ds_store)"
    r"|_(success|started|committed.*|metadata|common_metadata)"
    r"|__pycache__|.*\.py[co]"
    r"|(dataset_infos?|dataset_dict|manifest|metadata)\.json|(thumbs\.db|desktop\.ini)",
    re.IGNORECASE,
)
COMPILED = "__pycache__"  # what Python makes of the files beside it
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_FOREIGN_FOLDERS = frozenset({"site-packages", "dist-packages", COMPILED})


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus. `named`: given by its own path, not found in a folder."""

    path: Path
    name: str
    named: bool
    format: Format | None = "text"


@dataclass(frozen=True)
class SkippedFile:
    """A file that is left out by `rule`; `detail` says more, where there is more to say.

    A hidden folder counts as one file, and its content is not measured.
    """

    name: str
    bytes: int
    rule: Rule
    detail: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of a corpus in the order in which they are read, and those that are left out."""

    files: tuple[CorpusFile, ...]
    skipped: tuple[SkippedFile, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of the files that are read, on disk."""
        return sum(file.path.stat().st_size for file in self.files)

    @property
    def lost(self) -> list[SkippedFile]:
        """Files left out that may hold text."""
        return [file for file in self.skipped if file.rule in LOSSES]


def list_files(corpus: PythonStdlib | LocalFiles) -> Listing:
    """The corpus' files, judged by their names alone.

    Raises:
        SpecError: when a path is missing, a file given by its name is of no known format, no file
            is found, or too large a share of the bytes would be left out.
    """
    if isinstance(corpus, PythonStdlib):
        return Listing(tuple(_stdlib_files(corpus.include_tests)))
    return listing_of(corpus.paths, PATHS)


def readable_files(corpus: PythonStdlib | LocalFiles, *, whole: bool = True) -> Listing:
    """`list_files` without the files of folders that are not text (of formats that are text).

    Each such file is decoded once a process; `whole=False` decodes the first megabyte only.

    Raises:
        SpecError: as `list_files`, or when a file cannot be read.
    """
    key = PATHS if isinstance(corpus, LocalFiles) else None
    return without_binaries(list_files(corpus), key, whole=whole)


def listing_of(paths: Iterable[str], key: str) -> Listing:
    """The files at these paths, each once, at its first place.

    Raises:
        SpecError: beginning with `key`, as `list_files`.
    """
    found: list[CorpusFile] = []
    skipped: list[SkippedFile] = []
    for given in paths:
        files, left_out = _files_at(given, key)
        found += files
        skipped += left_out
    files, again = _without_repetitions(found)
    listing = Listing(tuple(files), (*skipped, *again))
    check_share(listing, key)
    return listing


def without_binaries(listing: Listing, key: str | None, *, whole: bool = True) -> Listing:
    """A listing without the files of folders that should be text but are not.

    Raises:
        SpecError: beginning with `key` (None: never), when too much is left out.
    """
    files: list[CorpusFile] = []
    problems: list[SkippedFile] = []
    for file in listing.files:
        problem = "" if file.named or file.format != "text" else _problem(file.path, whole)
        if problem:
            size = file.path.stat().st_size
            problems.append(SkippedFile(file.name, size, "not text", problem))
        else:
            files.append(file)
    checked = Listing(tuple(files), (*listing.skipped, *problems))
    if key is not None:
        check_share(checked, key)
    return checked


def check_share(listing: Listing, key: str) -> None:
    """Refuse a corpus of which more than `MOST_LOST` of the bytes would be left out.

    Raises:
        SpecError: naming the files, and why each is left out.
    """
    lost = listing.lost
    size = sum(file.bytes for file in lost)
    if not lost or size <= MOST_LOST * (size + listing.bytes):
        return
    of = len(lost) + len(listing.files)
    raise SpecError(
        f"{key}: {len(lost)} of {of} files ({size / (size + listing.bytes):.0%} of the bytes) "
        f"would be left out: {shown(lost)}; convert them, or give the files to read by their names"
    )


def shown(files: Iterable[SkippedFile], most: int = 3) -> str:
    """Files left out as one clause: the first few with their reasons, and how many more."""
    return first_of([f"{file.name} ({file.detail or file.rule})" for file in files], most)


def walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Files below `root` with their relative names, sorted; hidden ones too.

    A hidden folder, or one of compiled Python, is given in place of what is in it. Links to folders
    are followed, each folder once.

    Raises:
        SpecError: when a folder cannot be listed.
    """
    found: list[tuple[Path, str]] = []
    seen = {root.resolve()}

    def refuse(error: OSError) -> None:
        raise SpecError(f"{error.filename}: cannot be listed ({error.strerror}); check its mode")

    for folder, names, files in os.walk(root, followlinks=True, onerror=refuse):
        here = Path(folder)
        entered: list[str] = []
        for name in sorted(names):
            path = here / name
            if name.startswith(".") or name == COMPILED:
                found.append((path, f"{path.relative_to(root).as_posix()}/"))
            elif path.resolve() not in seen:
                seen.add(path.resolve())
                entered.append(name)
        names[:] = entered
        found += [(here / name, (here / name).relative_to(root).as_posix()) for name in files]
    yield from sorted(found, key=lambda item: item[1])


def folder_files(root: Path, key: str) -> tuple[list[CorpusFile], list[SkippedFile]]:
    """Files below a folder by name: those of known formats, and those left out.

    Raises:
        SpecError: beginning with `key`, when a folder cannot be listed or a link leads nowhere.
    """
    files: list[CorpusFile] = []
    skipped: list[SkippedFile] = []
    for path, name in walk(root):
        rule = rule_of(path, key)
        if rule is None:
            files.append(CorpusFile(path, name, named=False, format=format_of(path.name)))
        else:
            size = path.stat().st_size if path.is_file() else 0
            skipped.append(SkippedFile(name, size, rule))
    return files, skipped


def rule_of(path: Path, key: str) -> Rule | None:
    """The rule by which a file found in a folder is left out; None: it is read.

    Raises:
        SpecError: beginning with `key`, for a link that leads nowhere.
    """
    if path.name.startswith("."):
        return "hidden"
    if _SIDE_FILES.fullmatch(path.name):
        return "side file"
    if path.is_symlink() and not path.exists():
        raise SpecError(
            f"{key}={path}: is a link to a file that is not there; restore it or remove the link"
        )
    if not path.is_file() or format_of(path.name) is None:
        return "unknown format"
    return None if path.stat().st_size else "empty"


def _files_at(given: str, key: str) -> tuple[list[CorpusFile], list[SkippedFile]]:
    path = Path(given).expanduser()
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise SpecError(
            f"{key}={given}: cannot be read ({one_line(error)}); check its mode"
        ) from None
    if is_file:
        return [_named_file(path, f"{key}={given}")], []
    if not given.strip():
        raise SpecError(f"{key}: an empty path; name a file or folder (. is the working directory)")
    if not is_folder and path.exists():
        raise SpecError(
            f"{key}={given}: is neither a file nor a folder, but a pipe or device, which can be "
            "read once only; write its content to a file"
        )
    if not is_folder:
        raise SpecError(
            f"{key}={given}: no such file or folder; give files ({KNOWN}) or folders of "
            "them, without wildcards"
        )
    files, skipped = folder_files(path, key)
    if not files:
        why = f" that can be read: {shown(skipped)}" if skipped else ""
        raise SpecError(
            f"{key}={given}: the folder holds no files{why}; give another, with {KNOWN}"
        )
    return files, skipped


def _named_file(path: Path, where: str) -> CorpusFile:
    """A file given by its name.

    Raises:
        SpecError: it is empty, or its format is not known.
    """
    kind = format_of(path.name)
    if kind is None:
        ends = unpacked_name(path.name) == path.name and path.suffix
        problem = f"{path.suffix} is no known format" if ends else "its name gives no known format"
        raise SpecError(
            f"{where}: {problem}; known: {KNOWN}. Convert it, or rename plain text to .txt"
        )
    if not path.stat().st_size:
        raise SpecError(f"{where}: is empty; give another file or leave it out")
    return CorpusFile(path, path.name, named=True, format=kind)


def _without_repetitions(
    files: Iterable[CorpusFile],
) -> tuple[list[CorpusFile], list[SkippedFile]]:
    """Each file at its first place, however often and under however many links it was given."""
    kept: dict[Path, CorpusFile] = {}
    again: list[SkippedFile] = []
    for file in files:
        first = kept.setdefault(file.path.resolve(), file)
        if first is not file:
            size = file.path.stat().st_size
            again.append(SkippedFile(file.name, size, "found twice", f"is {first.path}"))
    return list(kept.values()), again


def _problem(path: Path, whole: bool) -> str:
    """Why a file is not text; empty where it is."""
    status = path.stat()
    return _text_problem(path, whole, size=status.st_size, mtime_ns=status.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _text_problem(path: Path, whole: bool, *, size: int, mtime_ns: int) -> str:
    where = str(path)
    try:
        for count, _ in enumerate(text_blocks(path, where, BLOCK_CHARACTERS), start=1):
            if not whole and count * BLOCK_CHARACTERS >= SURVEYED_BYTES:
                break
    except NotTextError as error:
        return str(error).removeprefix(f"{where}: ")
    return ""


def _stdlib_files(include_tests: bool) -> list[CorpusFile]:
    root = Path(sysconfig.get_paths()["stdlib"])
    excluded = _FOREIGN_FOLDERS if include_tests else _FOREIGN_FOLDERS | _TEST_FOLDERS
    files: list[CorpusFile] = []
    for folder, subfolders, names in os.walk(root):
        # What the build of this interpreter generated (paths, compiler flags) is not the library.
        subfolders[:] = [n for n in subfolders if n not in excluded and not n.startswith("config-")]
        for name in names:
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                path = Path(folder, name)
                files.append(CorpusFile(path, path.relative_to(root).as_posix(), named=False))
    if not files:
        raise SpecError(
            f"data.corpus.source=python-stdlib: no library sources in {root}; "
            "use data.corpus.source=files with data.corpus.paths"
        )
    return sorted(files, key=lambda file: file.name)
