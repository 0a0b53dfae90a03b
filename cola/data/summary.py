"""What a corpus holds and what was left out of it, as sentences and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cola.data.corpus_files import (
    LOSSES,
    CorpusFile,
    Listing,
    SkippedFile,
    list_files,
    readable_files,
    shown,
)
from cola.data.documents import ReadCounts
from cola.data.fingerprint import MAX_HASHED_BYTES, digest_of
from cola.data.formats import unpacked_name
from cola.data.held_out import NOTES
from cola.data.hub import dataset_listing, unpinned_notes
from cola.data.sources import read_pieces
from cola.errors import SpecError, one_line
from cola.hidden_topics.truth import entropy_rate
from cola.spec import DataSpec
from cola.spec.data import Drawn, GeneratedText, HuggingFaceDataset, ImagePairs, PythonStdlib

# Chosen: what is read and parsed in a few seconds; larger corpora are counted when prepared.
COUNTED_BYTES = 32 * 10**6
# Chosen: of larger ones a plan decodes the beginning of each file only.
DECODED_BYTES = 10**9
FILES = ("file", "files")
NULL_ROWS = ("row whose text is null", "rows whose text is null")
BLANK = ("document without a visible character", "documents without a visible character")
MOST_NAMES = 100  # of files left out that are kept by name for each rule


@dataclass(frozen=True)
class SkippedGroup:
    """Files left out by one rule; `names` are the first ones, `detail` is of the first."""

    rule: str
    files: int
    bytes: int
    names: tuple[str, ...]
    detail: str = ""

    def __str__(self) -> str:
        what = {"not text": "that is not text", "unknown format": "of unknown format"}
        detail = f", {self.detail}" if self.detail else ""
        return (
            f"{_many(self.files, FILES)} {what.get(self.rule, self.rule)}, {self.bytes:,} bytes: "
            f"{self.shown}{detail}"
        )

    @property
    def shown(self) -> str:
        """The first names."""
        return ", ".join(self.names[:3]) + (" ..." if self.files > 3 else "")


@dataclass(frozen=True)
class CorpusSummary:
    """What a corpus holds; None where that is not counted yet.

    `text_bytes` are UTF-8 bytes of the documents' text, `file_bytes` the size of files on disk.
    `commits` are of the hub, by part of the specification; `entropy` is that of generated text.
    """

    files: int | None = None
    file_bytes: int | None = None
    documents: int | None = None
    text_bytes: int | None = None
    null_documents: int = 0
    blank_documents: int = 0
    files_without_text: tuple[str, ...] = ()
    skipped: tuple[SkippedGroup, ...] = ()
    commits: Mapping[str, str | None] = field(default_factory=dict)
    entropy: str = ""
    notes: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """What is there, what is left out, and what may surprise."""
        return [*self.facts(), *(f"Warning: {caution}" for caution in self.cautions())]

    def facts(self) -> list[str]:
        """What is there, and what is left out without loss."""
        not_read = self.harmless()
        return [
            line
            for line in (
                self._holds(),
                f"True entropy: {self.entropy}, ends of documents included." * bool(self.entropy),
                f"Not read: {not_read}." * bool(not_read),
            )
            if line
        ]

    def cautions(self, text: str = "the corpus") -> list[str]:
        """What of `text` is left out, and names that may stand for other data tomorrow."""
        lines = [f"left out of {text}: {g}" for g in self.skipped if g.rule in LOSSES]
        if self.null_documents:
            lines.append(f"left out of {text}: {_many(self.null_documents, NULL_ROWS)}")
        if self.files_without_text:
            names = ", ".join(self.files_without_text[:3])
            files = _many(len(self.files_without_text), FILES)
            lines.append(f"no text in {files} of {text}: {names}")
        return [*lines, *self.notes]

    def as_json(self) -> dict[str, Any]:
        """The summary as plain values."""
        return asdict(self)

    def _holds(self) -> str:
        commits = [f"{part} of commit {commit}" for part, commit in self.commits.items() if commit]
        found = f"; {', '.join(commits)}" if commits else ""
        files = "" if self.files is None else _many(self.files, FILES)
        if self.file_bytes is not None:
            files += f" ({self.file_bytes:,} bytes on disk)"
        if self.documents is None:
            counted = "; documents are counted when it is prepared"
            return f"Corpus: {files}{counted}{found}." if files else ""
        size = "" if self.text_bytes is None else f" of {self.text_bytes:,} bytes"
        of = f" in {files}" if files else ""
        return f"Corpus: {self.documents:,} documents{size}{of}{found}."

    def harmless(self) -> str:
        """What is left out by rules that lose nothing, as a clause; empty where there is none."""
        groups = [group for group in self.skipped if group.rule not in LOSSES]
        parts = [f"{group.files:,} {group.rule} ({group.shown})" for group in groups]
        if self.blank_documents:
            parts.append(_many(self.blank_documents, BLANK))
        return ", ".join(parts)


def summarise(spec: DataSpec) -> CorpusSummary:
    """What the corpus holds, before it is prepared; small corpora of files are read and counted.

    Raises:
        SpecError: it cannot be read, or too much of it would be left out.
    """
    listing = _listing(spec)
    counts: ReadCounts | None = None
    counted = listing is not None and listing.bytes <= COUNTED_BYTES
    if counted and not isinstance(spec.corpus, PythonStdlib):
        counts = ReadCounts()
        for _ in read_pieces(spec, counts):
            pass
        check_has_text(spec, counts)
    return summary_of(spec, listing, counts)


def summary_of(
    spec: DataSpec,
    listing: Listing | None,
    counts: ReadCounts | None,
    *,
    commits: Mapping[str, str | None] | None = None,
) -> CorpusSummary:
    """A summary of what is listed and counted; `commits` are of what is read from the hub."""
    skipped = counts.skipped if counts is not None else listing.skipped if listing else ()
    notes = unpinned_notes(spec)
    if listing is not None and not isinstance(spec.corpus, PythonStdlib):
        notes += twin_notes(listing)
    summary = CorpusSummary(
        files=None if listing is None else len(listing.files),
        file_bytes=None if listing is None else listing.bytes,
        skipped=tuple(_groups(skipped)),
        commits=dict(commits or {}),
        notes=tuple(notes),
        entropy=str(entropy_rate(spec.corpus)) if isinstance(spec.corpus, GeneratedText) else "",
    )
    if counts is None:
        known = spec.corpus.documents if isinstance(spec.corpus, Drawn) else None
        return replace(summary, documents=known)
    return replace(
        summary,
        documents=counts.documents,
        text_bytes=counts.bytes,
        null_documents=counts.skipped_documents,
        blank_documents=counts.blank_documents,
        files_without_text=tuple(counts.files_without_text[:MOST_NAMES]),
    )


def left_out_of(text: str, counts: ReadCounts) -> list[str]:
    """A sentence on each thing that is left out of a `text` that was read with these counts."""
    summary = CorpusSummary(
        null_documents=counts.skipped_documents,
        blank_documents=counts.blank_documents,
        files_without_text=tuple(counts.files_without_text[:MOST_NAMES]),
        skipped=tuple(_groups(counts.skipped)),
    )
    not_read = summary.harmless()
    return summary.cautions(text) + ([f"not read of {text}: {not_read}"] if not_read else [])


def summary_in(meta: Mapping[str, Any]) -> CorpusSummary:
    """The summary that is kept with prepared data."""
    values = meta.get("corpus")
    if values is None:  # prepared by a version that kept counts alone
        return CorpusSummary(documents=meta["corpus_documents"])
    groups = (g | {"names": tuple(g["names"])} for g in values["skipped"])
    tuples = {key: tuple(values[key]) for key in ("files_without_text", "notes")}
    note = NOTES.get(meta.get("held_out", {}).get("rule"))
    tuples["notes"] += (note,) if note else ()
    return CorpusSummary(**values | tuples | {"skipped": tuple(SkippedGroup(**g) for g in groups)})


def corpus_listing(spec: DataSpec) -> Listing | None:
    """The files that a corpus is read from; None where it has none, or they are the business of
    `datasets`.

    Raises:
        SpecError: as `summarise`.
    """
    if isinstance(spec.corpus, HuggingFaceDataset):
        return dataset_listing(spec.corpus)
    if isinstance(spec.corpus, Drawn | ImagePairs):
        return None
    return readable_files(spec.corpus)


def check_has_text(spec: DataSpec, counts: ReadCounts) -> None:
    """Whether a corpus that was read to its end holds a document.

    Raises:
        SpecError: with what it has in place of one.
    """
    if counts.documents:
        return
    parts = [_many(n, what) for n, what in _without_text(counts) if n]
    if counts.files_without_text:
        parts.append(f"no text in {one_line(', '.join(counts.files_without_text[:3]))}")
    if counts.skipped:
        parts.append(f"files left out: {shown(counts.skipped)}")
    found = f" ({'; '.join(parts)})" if parts else ""
    raise SpecError(
        f"data.corpus.source={spec.corpus.source}: holds no text{found}; give another corpus"
    )


def _without_text(counts: ReadCounts) -> list[tuple[int, tuple[str, str]]]:
    return [(counts.skipped_documents, NULL_ROWS), (counts.blank_documents, BLANK)]


def _many(count: int, names: tuple[str, str]) -> str:
    """A count with the name of one or of several."""
    return f"{count:,} {names[count != 1]}"


def twin_notes(listing: Listing) -> list[str]:
    """A note on files of equal content, or that differ in nothing but their compression."""
    twins: dict[str, None] = {}
    sizes = Counter(file.path.stat().st_size for file in listing.files)
    hashed = listing.bytes <= MAX_HASHED_BYTES
    alike = [f for f in listing.files if hashed and sizes[f.path.stat().st_size] > 1]
    for files, key in ((alike, _content), (listing.files, _unpacked)):
        first: dict[object, CorpusFile] = {}
        for file in files:
            other = first.setdefault(key(file), file)
            if other is not file:
                twins[f"{other.name} and {file.name}"] = None
    if not twins:
        return []
    more = f" and {len(twins) - 1} more pairs" if len(twins) > 1 else ""
    return [
        f"{next(iter(twins))}{more} look like the same text twice; both are read: remove one if so"
    ]


def _content(file: CorpusFile) -> object:
    return digest_of(file.path)


def _unpacked(file: CorpusFile) -> object:
    return file.path.with_name(unpacked_name(file.path.name))


def _listing(spec: DataSpec) -> Listing | None:
    """`corpus_listing`, of large corpora by the beginning of each file."""
    if isinstance(spec.corpus, HuggingFaceDataset):
        return dataset_listing(spec.corpus)
    if isinstance(spec.corpus, Drawn | ImagePairs):
        return None
    listing = list_files(spec.corpus)
    if isinstance(spec.corpus, PythonStdlib):
        return listing
    return readable_files(spec.corpus, whole=listing.bytes <= DECODED_BYTES)


def _groups(skipped: Iterable[SkippedFile]) -> Iterator[SkippedGroup]:
    by_rule: dict[str, list[SkippedFile]] = {}
    for file in skipped:
        by_rule.setdefault(file.rule, []).append(file)
    for rule, files in by_rule.items():
        names = tuple(file.name for file in files[:MOST_NAMES])
        yield SkippedGroup(rule, len(files), sum(f.bytes for f in files), names, files[0].detail)
