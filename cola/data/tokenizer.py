"""Text to token ids and back, and how many UTF-8 bytes each token covers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cola.data.hub import local_folder
from cola.errors import SpecError, one_line
from cola.hidden_topics.source import ALPHABET, END
from cola.spec import DataSpec
from cola.spec.data import GeneratedText, HubTokenizer, SymbolTokens, TokenizerFile

if TYPE_CHECKING:
    import tokenizers

EOS_TOKEN = "<|endoftext|>"  # noqa: S105
START_TOKEN = "<|startoftext|>"  # noqa: S105
TOKENIZER_FILE = "tokenizer.json"


class TextTokenizer:
    """A `tokenizers.Tokenizer` with an end-of-text token.

    Text that spells a special token is encoded as ordinary text, so only the packing writes EOS.
    """

    def __init__(self, backend: tokenizers.Tokenizer, eos_token: str) -> None:
        """Take over `backend` (it is changed: no padding, no truncation, no special tokens).

        Raises:
            SpecError: when `eos_token` is not an entry of the tokenizer.
        """
        eos_token_id = backend.token_to_id(eos_token)
        if eos_token_id is None:
            raise SpecError(
                f"data.tokenizer.eos_token={eos_token}: the tokenizer has no such entry; name one "
                f"of its special tokens{_special_tokens(backend)}"
            )
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self.backend = backend
        self.eos_token = eos_token
        self.eos_token_id: int = eos_token_id
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values()) + 1

    @classmethod
    def open(cls, folder: Path, eos_token: str) -> TextTokenizer:
        """Load what `save` wrote.

        Raises:
            SpecError: when the file is missing or is not a tokenizer.
        """
        return cls(load_backend(folder / TOKENIZER_FILE), eos_token)

    def save(self, folder: Path, start_token_id: int | None = None) -> None:
        """Write `tokenizer.json`, and a configuration with which `AutoTokenizer` opens `folder`.

        There, too, text that spells a special token is ordinary text. `start_token_id` is of the
        token that a model reads before every text, the first id behind the vocabulary: who opens
        the folder with `AutoTokenizer` then gets it before every text. The vocabulary stays as it
        is, and so does what `open` reads.
        """
        backend = self.backend
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.eos_token,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
        }
        if start_token_id is not None:
            name = _unused_entry(backend, START_TOKEN)
            backend = _starting_with(backend, name, start_token_id)
            # `AutoTokenizer` numbers a token that it must add by counting the entries.
            if backend.get_vocab_size(with_added_tokens=True) == start_token_id:
                config["bos_token"] = name
        backend.save(str(folder / TOKENIZER_FILE))
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without any special token."""
        text = without_surrogates(text)
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`. Incomplete UTF-8 becomes U+FFFD; ids outside the tokenizer give nothing.

        EOS and other special tokens give nothing unless `skip_special_tokens` is False.
        """
        known = [int(token) for token in ids if 0 <= int(token) < self.vocab_size]
        return self.backend.decode(known, skip_special_tokens=skip_special_tokens)

    @property
    def description(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""
        content: dict[str, Any] = json.loads(self.backend.to_str())
        return content

    @property
    def unknown_token_id(self) -> int | None:
        """Id of the token for text outside the vocabulary, if there is one."""
        model = self.description["model"]
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        token = model.get("unk_token")
        return None if token is None else self.backend.token_to_id(token)

    def __reduce__(self) -> tuple[object, ...]:
        # Pickling the backend alone would lose `encode_special_tokens`.
        return (_from_json, (self.backend.to_str(), self.eos_token))


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for lone surrogates: JSON's escapes can have them, UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def train_bpe(texts: Iterable[str], vocab_size: int) -> TextTokenizer:
    """Byte-level BPE with exactly `vocab_size` entries: EOS, 256 bytes, merges.

    Raises:
        SpecError: when `texts` do not hold enough different pairs.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    tokenizer = TextTokenizer(backend, EOS_TOKEN)
    if tokenizer.vocab_size != vocab_size:
        raise SpecError(
            f"data.tokenizer.vocab_size={vocab_size}: corpus too small to train that many entries; "
            f"try at most {tokenizer.vocab_size}"
        )
    return tokenizer


def symbol_tokenizer(symbols: int) -> TextTokenizer:
    """One entry for each of a generated corpus' symbols, behind that of a document's end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    entries = {EOS_TOKEN: END} | {letter: i + 1 for i, letter in enumerate(ALPHABET[:symbols])}
    backend = Tokenizer(models.BPE(entries, []))
    # The characters are ASCII, which stand for themselves among bytes.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([EOS_TOKEN])
    return TextTokenizer(backend, EOS_TOKEN)


def load_tokenizer(spec: TokenizerFile | HubTokenizer) -> TextTokenizer:
    """The tokenizer that the specification names.

    Raises:
        SpecError: when it cannot be loaded, has no end-of-text token, or is not of the declared
            size.
    """
    if isinstance(spec, TokenizerFile):
        return TextTokenizer(load_backend(Path(spec.path).expanduser()), spec.eos_token)
    from transformers import AutoTokenizer  # heavy: only for this kind of tokenizer

    where = f"data.tokenizer.name={spec.name}"
    try:
        loaded = AutoTokenizer.from_pretrained(
            str(local_folder(spec) or spec.name), revision=spec.revision
        )
    except (OSError, ValueError, ImportError) as error:
        reason = one_line(error)
        raise SpecError(
            f"{where}: cannot be loaded ({reason}); check the name and the network, or use "
            "data.tokenizer.kind=file"
        ) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise SpecError(f"{where}: has no tokenizer.json form; convert it and use kind=file")
    if loaded.eos_token is None:
        raise SpecError(
            f"{where}: has no eos_token; save its tokenizer.json and use kind=file with eos_token"
        )
    tokenizer = TextTokenizer(backend, loaded.eos_token)
    if tokenizer.vocab_size != spec.vocab_size:
        raise SpecError(
            f"data.tokenizer.vocab_size={spec.vocab_size}: tokenizer and corpus do not fit the "
            f"plan, {spec.name} has {tokenizer.vocab_size} entries; declare that number"
        )
    return tokenizer


def load_backend(path: Path) -> tokenizers.Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        SpecError: when the file is missing or is not a tokenizer.
    """
    import tokenizers

    where = f"data.tokenizer.path={path}"
    if not path.is_file():
        raise SpecError(f"{where}: no such file; give a tokenizer.json")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises plain Exception
        reason = one_line(error)
        raise SpecError(f"{where}: is not a tokenizer.json ({reason}); give another") from error


def vocab_size_of(spec: DataSpec) -> int:
    """Entries of the tokenizer, EOS included, without network or training.

    For a file: its largest id plus one. For the others: as declared (`prepare` checks it).

    Raises:
        SpecError: when the tokenizer's file is missing, is no tokenizer or lacks its EOS.
    """
    if isinstance(spec.tokenizer, TokenizerFile):
        return load_tokenizer(spec.tokenizer).vocab_size
    if isinstance(spec.tokenizer, SymbolTokens):
        assert isinstance(spec.corpus, GeneratedText)
        return spec.corpus.symbols + 1
    return spec.tokenizer.vocab_size


class Encoder:
    """Encodes texts in parallel and counts exactly the bytes that each token covers.

    Every UTF-8 byte of a text is attributed to exactly one of its tokens. For byte-level
    vocabularies this is the length of the token's byte string. Where these lengths do not add up
    to the text (normalisers, added prefix spaces, other kinds of tokenizer), token i gets the
    bytes from the furthest end of its predecessors to its own end in the text, and the last one
    the rest: a character split into several tokens counts with the first.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer
        self.tokens = 0
        self.unknown_tokens = 0
        self.characters = 0
        self.lost_characters = 0
        self._unknown = tokenizer.unknown_token_id
        self._bytes_by_token = _byte_lengths(tokenizer)

    def encode(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each text its token ids (T,) int64 and the bytes of each token (T,) int64.

        Raises:
            SpecError: when the tokenizer cannot encode the text at all.
        """
        backend = self.tokenizer.backend
        by_table = self._bytes_by_token is not None
        # The fast variant leaves out the offsets.
        encode_batch = backend.encode_batch_fast if by_table else backend.encode_batch
        try:
            encodings = encode_batch(texts, add_special_tokens=False)
        except Exception as error:  # `tokenizers` raises plain Exception
            reason = one_line(error)
            raise SpecError(
                f"data.tokenizer: tokenizer and corpus do not fit ({reason}); use another tokenizer"
            ) from error
        return [self._count(text, enc) for text, enc in zip(texts, encodings, strict=True)]

    def _count(self, text: str, encoding: Any) -> tuple[np.ndarray, np.ndarray]:
        ids = np.asarray(encoding.ids, dtype=np.int64)
        self.tokens += len(ids)
        self.characters += len(text)
        if self._unknown is not None:
            self.unknown_tokens += int((ids == self._unknown).sum())
        size = len(text) if text.isascii() else len(text.encode("utf-8"))
        if self._bytes_by_token is not None:
            lengths = self._bytes_by_token[ids]
            if int(lengths.sum()) == size:
                return ids, lengths
            encoding = self.tokenizer.backend.encode(text, add_special_tokens=False)
        lengths, lost = _bytes_from_offsets(text, encoding.offsets)
        self.lost_characters += lost
        return ids, lengths

    def check_fit(self) -> None:
        """Whether the tokenizer covers the text encoded so far.

        Raises:
            SpecError: when over 5% of the tokens are unknown, or of the characters are dropped.
        """
        unknown = self.unknown_tokens / max(1, self.tokens)
        lost = self.lost_characters / max(1, self.characters)
        if unknown > 0.05 or lost > 0.05:
            raise SpecError(
                f"data.tokenizer: tokenizer and corpus do not fit: {unknown:.0%} of the tokens are "
                f"unknown and {lost:.0%} of the characters dropped; train one (kind=bpe) or use "
                "another tokenizer"
            )


def _from_json(content: str, eos_token: str) -> TextTokenizer:
    from tokenizers import Tokenizer

    return TextTokenizer(Tokenizer.from_str(content), eos_token)


def _unused_entry(backend: tokenizers.Tokenizer, name: str) -> str:
    """The name, bracketed until it is no entry of the vocabulary."""
    while backend.token_to_id(name) is not None:
        name = f"<{name}>"
    return name


def _starting_with(backend: tokenizers.Tokenizer, name: str, index: int) -> tokenizers.Tokenizer:
    """A copy that puts a token, which need not be an entry, before every text."""
    from tokenizers import Tokenizer, processors

    copied = Tokenizer.from_str(backend.to_str())
    copied.post_processor = processors.TemplateProcessing(
        single=f"{name}:0 $A:0",
        pair=f"{name}:0 $A:0 {name}:1 $B:1",
        special_tokens=[(name, index)],
    )
    return copied


def _special_tokens(backend: tokenizers.Tokenizer) -> str:
    tokens = [t.content for t in backend.get_added_tokens_decoder().values() if t.special][:8]
    return f" ({', '.join(tokens)})" if tokens else ""


def _byte_lengths(tokenizer: TextTokenizer) -> np.ndarray | None:
    """(V,) bytes of each token of a byte-level vocabulary; None for other kinds."""
    from tokenizers import pre_tokenizers

    description = tokenizer.description
    if '"ByteLevel"' not in json.dumps([description["pre_tokenizer"], description["normalizer"]]):
        return None
    lengths = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())  # one character stands for one byte
    for token, index in tokenizer.backend.get_vocab(with_added_tokens=False).items():
        if alphabet.issuperset(token):
            lengths[index] = len(token)
    for index, added in tokenizer.backend.get_added_tokens_decoder().items():
        lengths[index] = 0 if added.special else len(added.content.encode("utf-8"))
    return lengths


def _bytes_from_offsets(text: str, offsets: list[tuple[int, int]]) -> tuple[np.ndarray, int]:
    """(T,) bytes of each token, and how many visible characters no token covers (at least)."""
    if not offsets:
        return np.zeros(0, dtype=np.int64), 0
    spans = np.asarray(offsets, dtype=np.int64)
    ends = np.maximum.accumulate(spans[:, 1])
    starts = np.concatenate([[0], ends[:-1]])
    covered = np.maximum(ends - np.maximum(starts, spans[:, 0]), 0).sum()
    blank = sum(map(str.isspace, text))
    lost = max(0, len(text) - int(covered) - blank)
    ends[-1] = len(text)
    # bytes_before[i]: UTF-8 bytes of the first i characters.
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    bytes_before = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return bytes_before[ends] - bytes_before[starts], lost
