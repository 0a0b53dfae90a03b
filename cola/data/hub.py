"""Data sets that the library `datasets` finds: of the Hugging Face hub, and in local folders."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from cola.data.corpus_files import CorpusFile, Listing, SkippedFile, check_share, rule_of, walk
from cola.data.documents import ReadCounts, file_rows, row_text
from cola.data.formats import Format, format_of
from cola.errors import SpecError, one_line
from cola.spec import DataSpec
from cola.spec.data import HubTokenizer, HuggingFaceDataset

log = logging.getLogger(__name__)

KEY = "data.corpus.name"
NOT_CHOSEN = "`datasets` does not choose it; data.corpus.source=files reads files of several kinds"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ANSWER_SECONDS = 10.0  # chosen: for the hub to name a commit
# Loaders of `datasets` for files that are read here, by the same rules as a corpus of files.
_OWN: dict[str, frozenset[Format | None]] = {
    "json": frozenset({"json", "json-lines"}),
    "csv": frozenset({"csv", "tsv"}),
    "parquet": frozenset({"parquet"}),
    "text": frozenset({"text"}),
}
_PARTS: tuple[tuple[str, Literal["dataset", "model"]], ...] = (
    ("corpus", "dataset"),
    ("tokenizer", "model"),
)
_NO_SETTINGS = frozenset({"name", "version", "data_dir", "data_files", "description"})


def local_folder(corpus: object) -> Path | None:
    """The folder that a data set or tokenizer is read from; None where it is of the hub."""
    if not isinstance(corpus, HuggingFaceDataset | HubTokenizer):
        return None
    folder = Path(corpus.name).expanduser()
    return folder if folder.is_dir() else None


def with_absolute_folders(spec: DataSpec) -> DataSpec:
    """The specification with absolute paths of the folders that its names stand for."""
    changes: dict[str, Any] = {}
    for part, _ in _PARTS:
        value = getattr(spec, part)
        folder = local_folder(value)
        if folder is not None:
            changes[part] = value.model_copy(update={"name": str(folder.absolute())})
    return spec.model_copy(update=changes) if changes else spec


def dataset_documents(corpus: HuggingFaceDataset, counts: ReadCounts) -> Iterator[Iterable[str]]:
    """Every document of a data set.

    Raises:
        SpecError: it cannot be read, or a row has no text.
    """
    listing = dataset_listing(corpus)
    counts.skipped = listing.skipped if listing is not None else ()
    if listing is not None and listing.readable_here:
        rows = _listed_rows(listing, corpus)
    else:
        rows = ((f"{KEY}={corpus.name}", row) for row in _library_rows(corpus))
    for where, row in itertools.islice(rows, corpus.max_documents):
        yield from row_text(row, corpus.text_field, where, counts=counts)


@dataclass(frozen=True)
class DatasetListing(Listing):
    """The files of a split in a folder; `readable_here`: they need no library."""

    readable_here: bool = False


def dataset_listing(corpus: HuggingFaceDataset) -> DatasetListing | None:
    """The files of a split in a local folder, which `datasets` chooses, and those left out.

    None for data sets of the hub, and where `datasets` names no files of the split.

    Raises:
        SpecError: it is no data set, has no such split, or too large a share of the folder would
            be left out.
    """
    folder = local_folder(corpus)
    if folder is None:
        return None
    splits, readable = _splits_of(folder, corpus.config, _state(folder))
    split = corpus.split.partition("[")[0]  # of a slice such as train[:10%]
    if split not in splits:
        if not splits or "+" in split:
            return None
        raise SpecError(
            f"{KEY}={corpus.name}: cannot be read (data.corpus.split={corpus.split}: no such "
            f"split; one of: {', '.join(splits)})"
        )
    chosen = splits[split]
    others = {path for paths in splits.values() for path in paths} - set(chosen)
    files: dict[Path, CorpusFile] = {}
    skipped: list[SkippedFile] = []
    for path, name in walk(folder):
        target = path.resolve()
        size = path.stat().st_size if path.is_file() else 0
        if target in chosen:
            files[target] = CorpusFile(path, name, named=False, format=format_of(path.name))
        elif target in others:
            skipped.append(SkippedFile(name, size, "other split"))
        else:
            rule = rule_of(path, KEY) or "unknown format"
            detail = NOT_CHOSEN if rule == "unknown format" else ""
            skipped.append(SkippedFile(name, size, rule, detail))
    ordered = tuple(files[path] for path in chosen if path in files)
    listing = DatasetListing(ordered, tuple(skipped), readable and split == corpus.split)
    check_share(listing, f"{KEY}={corpus.name}")
    return listing


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a folder's files: what a choice of files depends on."""
    stats = [(name, path.stat()) for path, name in walk(folder) if path.is_file()]
    return tuple((name, s.st_size, s.st_mtime_ns) for name, s in stats)


@lru_cache(maxsize=64)
def _splits_of(
    folder: Path, config: str | None, state: tuple[tuple[str, int, int], ...]
) -> tuple[dict[str, list[Path]], bool]:
    """Files of every split, and whether they are plain files of rows; `state` is for the cache.

    Raises:
        SpecError: `datasets` finds no data set in the folder.
    """
    import datasets  # heavy: only for this kind of corpus

    try:
        builder = datasets.load_dataset_builder(str(folder), config)
    except Exception as error:  # `datasets` raises whatever its parts raise
        raise _cannot_be_read(str(folder), error) from error
    files: Mapping[Any, Iterable[str]] = builder.config.data_files or {}
    splits = {str(name): [Path(path).resolve() for path in paths] for name, paths in files.items()}
    formats = {format_of(path.name) for paths in splits.values() for path in paths}
    wanted = _OWN.get(builder.name)
    plain = wanted is not None and formats <= wanted and not _changed(builder.config, formats)
    return splits, plain


def _changed(settings: Any, formats: set[Format | None]) -> bool:
    """Whether a loader's settings say more about the files than their names do."""
    plain = type(settings)()
    changed = {
        item.name: getattr(settings, item.name)
        for item in fields(settings)
        if item.name not in _NO_SETTINGS
        and getattr(settings, item.name) != getattr(plain, item.name)
    }
    if formats == {"tsv"} and changed.get("sep") == "\t":
        del changed["sep"]
    return bool(changed)


def _listed_rows(
    listing: Listing, corpus: HuggingFaceDataset
) -> Iterator[tuple[str, Mapping[str, object]]]:
    for file in listing.files:
        where = f"{KEY}={file.path}"
        for place, row in file_rows(file, corpus.text_field, where):
            yield f"{where}: {place}", row


def _library_rows(corpus: HuggingFaceDataset) -> Iterator[Mapping[str, object]]:
    import datasets  # heavy: only for this kind of corpus

    try:
        yield from datasets.load_dataset(
            str(local_folder(corpus) or corpus.name),
            corpus.config,
            split=corpus.split,
            revision=corpus.revision,
            streaming=corpus.streaming,
        )
    except Exception as error:  # `datasets` raises whatever its parts raise
        raise _cannot_be_read(corpus.name, error) from error


def _cannot_be_read(name: str, error: Exception) -> SpecError:
    cause = error.__cause__ or error  # `datasets` hides what is wrong with a file behind its own
    return SpecError(
        f"{KEY}={name}: cannot be read ({type(cause).__name__}: {one_line(cause)}); "
        "check name, config, split and revision, the network, or use data.corpus.source=files"
    )


def pinned(spec: DataSpec) -> tuple[DataSpec, dict[str, str | None]]:
    """The specification with the commits that its revisions stand for at this moment.

    Also those commits, of `corpus` and `tokenizer`, where they are of the hub; None where neither
    the hub nor its local cache names one.
    """
    commits: dict[str, str | None] = {}
    changes: dict[str, Any] = {}
    for part, kind in _PARTS:
        value = getattr(spec, part)
        if not isinstance(value, HuggingFaceDataset | HubTokenizer) or local_folder(value):
            continue
        commit = _commit_of(value.name, value.revision, kind)
        commits[part] = commit
        if commit is not None:
            changes[part] = value.model_copy(update={"revision": commit})
    return spec.model_copy(update=changes), commits


def unpinned_notes(spec: DataSpec) -> list[str]:
    """A sentence on each part of the hub that is named without a commit."""
    notes = []
    for part in (spec.corpus, spec.tokenizer):
        if not isinstance(part, HuggingFaceDataset | HubTokenizer) or local_folder(part):
            continue
        key = "data.corpus" if isinstance(part, HuggingFaceDataset) else "data.tokenizer"
        if part.revision is None or not _COMMIT.fullmatch(part.revision):
            found = "no revision" if part.revision is None else f"revision={part.revision}"
            notes.append(
                f"{key}.name={part.name} has {found}: what the hub holds may change and other runs "
                f"then train on other data; set {key}.revision to a commit"
            )
    return notes


def _commit_of(name: str, revision: str | None, kind: Literal["dataset", "model"]) -> str | None:
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    try:
        info = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_ANSWER_SECONDS)
        return str(info.sha) if info.sha else None
    except Exception as error:  # no network, no such name: reading it says so
        log.debug("%s: the hub names no commit (%s)", name, one_line(error))
    folder = repo_folder_name(repo_id=name, repo_type=kind)
    reference = Path(constants.HF_HUB_CACHE, folder, "refs", revision or "main")
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None
