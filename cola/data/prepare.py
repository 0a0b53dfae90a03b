"""From documents to packed token sequences on disk, built once per content."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cola.data.checksum_files import check_checksums
from cola.data.fingerprint import FORMAT_VERSION, source_fingerprint
from cola.data.held_out import HELD_OUT, HeldOutText
from cola.data.hub import pinned
from cola.data.packed import PackedTokens, PackedWriter
from cola.data.pairs import as_row, images_of, row_length
from cola.data.sides import SplitPiece, split_pieces, split_threshold
from cola.data.sources import ReadCounts
from cola.data.summary import corpus_listing, summary_of
from cola.data.tokenizer import (
    Encoder,
    TextTokenizer,
    load_tokenizer,
    symbol_tokenizer,
    train_bpe,
    vocab_size_of,
)
from cola.errors import SpecError, StorageError
from cola.files import file_lock
from cola.hidden_topics.truth import entropy_rate
from cola.spec import DataSpec
from cola.spec.data import (
    GeneratedPairs,
    GeneratedText,
    Pairs,
    PythonStdlib,
    SymbolTokens,
    TrainedBPE,
)

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# Training text of the BPE: more changes the vocabulary little and costs memory.
BPE_TRAINING_BYTES = 512 * 10**6
_ENCODE_CHARACTERS = 4_000_000
_EARLY_FIT_CHECK_TOKENS = 2_000_000


@dataclass(frozen=True)
class PreparedData:
    """Packed tokens of the splits with their tokenizer; `test` is empty where there is none.

    The sequences of `validation` and `test` are in an order whose beginning is spread over their
    documents (see `cola.data.held_out`).

    meta: `fingerprint`, `skipped_files`, `skipped_documents`, `corpus_documents`, `corpus` (see
    `cola.data.summary.CorpusSummary`), `sequence_length`, `vocab_size`, `eos_token`,
    `build_seconds`, and under `train`, `validation` and `test` each: `documents` (pieces, see
    `cola.data.sources`), `sequences`, `tokens` (packed, EOS included), `dropped_tokens` (the last
    part of a sequence), `bytes` (UTF-8 bytes of the packed text), `bytes_per_token` and, but for
    `train`, `clusters` (documents, or what stands for them); under `held_out` its `documents` and
    the `rule` that divides them between `validation` and `test`. Of a generated corpus also its
    specification, `source`, and its `entropy_rate` (see `cola.hidden_topics.truth`), and of pairs
    of text and image the images' shape, `image_shape`, and of generated ones the specification,
    `pairs`.
    """

    folder: Path
    train: PackedTokens
    validation: PackedTokens
    test: PackedTokens
    tokenizer: TextTokenizer
    meta: dict[str, Any]

    def split(self, name: Split) -> PackedTokens:
        """The sequences of a split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @property
    def source(self) -> GeneratedText | None:
        """What a generated corpus was drawn from; of other text None."""
        values = self.meta.get("source")
        return None if values is None else GeneratedText.model_validate(values)

    @property
    def pairs(self) -> GeneratedPairs | None:
        """What generated pairs of text and image were drawn from; of other data None."""
        values = self.meta.get("pairs")
        return None if values is None else GeneratedPairs.model_validate(values)

    @property
    def final(self) -> Split:
        """The split on which finished models are measured: `test` where there is one."""
        return "test" if len(self.test) else "validation"


def prepare(spec: DataSpec, cache: Path, progress: Progress | None = None) -> PreparedData:
    """The packed data of `spec`, built in `cache` unless it is there.

    Of processes that start at once one builds and the others wait. `progress` is called with a
    message and the fraction done, during the build only.

    Raises:
        SpecError: when corpus or tokenizer cannot be used, or a split holds no sequence.
        StorageError: when `cache` cannot be written or locked.
    """
    key = source_fingerprint(spec)
    folder = _folder(cache, key)
    found = _open_if_whole(folder)
    if found is not None:
        log.debug("%s: prepared data found", folder)
        return found
    with _exclusive(folder.with_suffix(".lock")):
        found = _open_if_whole(folder)
        if found is None:
            _build(spec, key, folder, progress=progress or (lambda message, fraction: None))
            found = open_prepared(folder)
    return found


def find_prepared(spec: DataSpec, cache: Path) -> PreparedData | None:
    """The packed data of `spec` where `prepare` has built them; None where it would build them.

    Raises:
        SpecError: when corpus or tokenizer cannot be used.
    """
    return _open_if_whole(_folder(cache, source_fingerprint(spec)))


def open_prepared(folder: Path) -> PreparedData:
    """Open what `prepare` built.

    Raises:
        StorageError: when there is nothing or something damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT_VERSION:
            raise ValueError(f"format {meta['format']}, expected {FORMAT_VERSION}")
        # Data of earlier releases have no test split.
        shards = {name: meta.get(name, {"shards": []})["shards"] for name in SPLITS}
        train, validation, test = (
            PackedTokens(
                folder,
                name,
                meta["sequence_length"],
                meta["dtype"],
                shards[name],
                image_shape=meta.get("image_shape"),
            )
            for name in SPLITS
        )
        known = all(packed.knows_documents or not len(packed) for packed in (validation, test))
        if "held_out" in meta and not known:
            raise ValueError("the documents of its held-out sequences are missing")
        tokenizer = TextTokenizer.open(folder, meta["eos_token"])
    except (OSError, ValueError, KeyError, TypeError, SpecError) as error:
        raise StorageError(
            f"{folder}: is not a folder of prepared data ({error}); delete it and prepare again"
        ) from error
    return PreparedData(folder, train, validation, test, tokenizer, meta)


def _folder(cache: Path, fingerprint: str) -> Path:
    return cache.absolute() / fingerprint[:24]


def _open_if_whole(folder: Path) -> PreparedData | None:
    if not folder.is_dir():
        return None
    try:
        return open_prepared(folder)
    except StorageError as error:
        log.warning("%s (`cola run` does so)", error)
        return None


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that the operating system frees when its holder dies.

    The file stays: removing it would let a third process lock a new file of the same name.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path))
        except OSError as error:
            raise StorageError(
                f"{path.parent}: cannot keep prepared data ({error.strerror}); give a folder that "
                "can be written and locked"
            ) from error
        yield


def _build(spec: DataSpec, key: str, folder: Path, *, progress: Progress) -> None:
    started = time.monotonic()
    log.info("%s: preparing data", folder)
    prefix = f".building-{folder.name}-"
    # Only the holder of the lock gets here: what is left over is of builders that died.
    for stale in folder.parent.glob(prefix + "*"):
        log.warning("%s: left by an interrupted build, removed", stale)
        shutil.rmtree(stale)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        meta = _write(spec, temporary, progress)
        meta |= {"fingerprint": key, "build_seconds": round(time.monotonic() - started, 3)}
        with (temporary / "meta.json").open("w", encoding="utf-8") as file:
            json.dump(meta, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    log.info("%s: data prepared in %.1f s", folder, time.monotonic() - started)
    progress("data ready", 1.0)


def _write(given: DataSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    spec, commits = pinned(given)  # so that every pass reads the same
    listing = corpus_listing(given)
    if listing is not None and not isinstance(given.corpus, PythonStdlib):
        check_checksums(listing.files)
    threshold = split_threshold(spec)
    total = None if listing is None else listing.bytes  # for progress alone
    tokenizer = _tokenizer(spec, threshold, total, progress=progress)
    tokenizer.save(folder)
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    counts = ReadCounts()
    batches = _batches(split_pieces(spec, threshold, counts))

    def encoded() -> None:
        progress("encoding", 0.4 + 0.59 * _fraction(counts.bytes, total))

    splits = _pack(spec, folder, batches, tokenizer=tokenizer, dtype=dtype, encoded=encoded)
    return splits | {
        "format": FORMAT_VERSION,
        "dtype": dtype,
        "sequence_length": spec.sequence_length,
        "vocab_size": tokenizer.vocab_size,
        "eos_token": tokenizer.eos_token,
        "corpus_documents": counts.documents,
        "skipped_files": counts.skipped_files,
        "skipped_documents": counts.skipped_documents,
        "corpus": summary_of(given, listing, counts, commits=commits).as_json(),
        **({} if spec.image_shape is None else {"image_shape": spec.image_shape}),
        **_known_truth(spec),
    }


def _known_truth(spec: DataSpec) -> dict[str, Any]:
    """Of a generated corpus its source, and of text its entropy."""
    if isinstance(spec.corpus, GeneratedPairs):
        return {"pairs": spec.corpus.model_dump(mode="json")}
    if not isinstance(spec.corpus, GeneratedText):
        return {}
    return {
        "source": spec.corpus.model_dump(mode="json"),
        "entropy_rate": asdict(entropy_rate(spec.corpus)),
    }


def _tokenizer(
    spec: DataSpec, threshold: int, total: int | None, *, progress: Progress
) -> TextTokenizer:
    """The tokenizer that is named, or one trained on texts whose hash is above `threshold`."""
    if isinstance(spec.tokenizer, TrainedBPE):
        texts = _training_texts(spec, threshold, total, progress=progress)
        return train_bpe(texts, spec.tokenizer.vocab_size)
    if isinstance(spec.tokenizer, SymbolTokens):
        return symbol_tokenizer(vocab_size_of(spec) - 1)
    return load_tokenizer(spec.tokenizer)


def _pack(
    spec: DataSpec,
    folder: Path,
    batches: Iterable[list[SplitPiece]],
    *,
    tokenizer: TextTokenizer,
    dtype: str,
    encoded: Callable[[], None],
) -> dict[str, Any]:
    """Write the packed tokens of all splits; what each holds. `encoded` is called by batch.

    Raises:
        SpecError: when the tokenizer does not fit the text, or a split holds no sequence.
    """
    encoder, eos, row = Encoder(tokenizer), tokenizer.eos_token_id, row_length(spec)
    train, pieces = PackedWriter(folder, "train", row, dtype), 0
    image = images_of(spec.corpus) if isinstance(spec.corpus, Pairs) else None
    with train, HeldOutText(folder) as held_out:
        for batch in batches:
            for piece, (ids, lengths) in zip(
                batch, encoder.encode([piece.text for piece in batch]), strict=True
            ):
                if piece.ends:
                    ids, lengths = np.append(ids, eos), np.append(lengths, 0)
                if image is not None:
                    drawn = image(piece.document)
                    ids, lengths = as_row(spec, piece.document, ids, lengths, image=drawn, eos=eos)
                if piece.held_out:
                    held_out.append(ids, lengths, piece.document, ends=piece.ends)
                else:
                    train.append(ids, lengths)
                    pieces += 1
            if encoder.tokens > _EARLY_FIT_CHECK_TOKENS:
                encoder.check_fit()
            encoded()
        train.flush()
        encoder.check_fit()
        writers, about = held_out.deal_out(folder, row, dtype, eos_token_id=eos)
    _check_not_empty(spec, "train", train)
    _check_not_empty(spec, "validation", writers["validation"])
    length = spec.sequence_length
    found: dict[str, Any] = {"train": _describe(train, pieces, length)}
    for split in HELD_OUT:
        counts = about.pop(split)
        clusters = {"clusters": counts["clusters"]}
        found[split] = _describe(writers[split], counts["pieces"], length) | clusters
    return found | {"held_out": about}


def _describe(writer: PackedWriter, documents: int, length: int) -> dict[str, Any]:
    tokens = writer.sequences * length
    return {
        "documents": documents,
        "sequences": writer.sequences,
        "tokens": tokens,
        "dropped_tokens": writer.dropped_tokens,
        "bytes": writer.bytes,
        "bytes_per_token": writer.bytes / tokens if tokens else 0.0,
        "shards": writer.shards,
    }


def _check_not_empty(spec: DataSpec, split: Split, writer: PackedWriter) -> None:
    if writer.sequences:
        return
    tokens = writer.dropped_tokens
    where = f"data.sequence_length={spec.sequence_length}: the {split} split has {tokens} tokens, "
    if split == "train":
        remedy = "give more text or a shorter sequence_length"
    else:
        fraction = spec.validation_fraction
        remedy = f"use a data.validation_fraction above {fraction} or a shorter sequence_length"
    raise SpecError(f"{where}not one whole sequence; {remedy}")


def _training_texts(
    spec: DataSpec, threshold: int, total: int | None, *, progress: Progress
) -> Iterator[str]:
    counts = ReadCounts()
    wanted = BPE_TRAINING_BYTES if total is None else min(total, BPE_TRAINING_BYTES)
    reported = -1.0
    for piece in split_pieces(spec, threshold, counts):
        if not piece.held_out:
            yield piece.text
        fraction = _fraction(counts.bytes, wanted)
        if fraction >= reported + 0.01:
            progress("training the tokenizer", 0.4 * fraction)
            reported = fraction
        if counts.bytes >= BPE_TRAINING_BYTES:
            return


def _fraction(done: int, total: int | None) -> float:
    """Share done; of an unknown total an estimate that grows towards one."""
    if total is None:
        return done / (done + BPE_TRAINING_BYTES)
    return min(1.0, done / max(1, total))


def _batches(pieces: Iterator[SplitPiece]) -> Iterator[list[SplitPiece]]:
    batch: list[SplitPiece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece.text)
        if characters >= _ENCODE_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
