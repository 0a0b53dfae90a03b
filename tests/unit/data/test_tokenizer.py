"""Tokenizers: exact sizes, loss-free text, and every byte counted once."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from cola.data.tokenizer import (
    EOS_TOKEN,
    Encoder,
    TextTokenizer,
    load_tokenizer,
    train_bpe,
    vocab_size_of,
)
from cola.errors import SpecError
from cola.spec import DataSpec
from cola.spec.data import HubTokenizer, TokenizerFile

TEXTS = [
    f"def function_{i}(x):\n    return x * {i}  # é, ü, 漢字 and 😀 in line {i}\n"
    for i in range(300)
]


def with_eos(tokenizer: Tokenizer) -> TextTokenizer:
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return TextTokenizer(tokenizer, "</s>")


def trained(tokenizer: Tokenizer, trainer: object) -> TextTokenizer:
    tokenizer.train_from_iterator(TEXTS, trainer=trainer)
    return with_eos(tokenizer)


def byte_level(normalizer: object | None = None, add_prefix_space: bool = False) -> TextTokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=["<pad>"]
    )
    return trained(tokenizer, trainer)


def word_level(unknown: str | None = "[UNK]") -> TextTokenizer:
    words = ["[UNK]", "return", "def", "x", ":", "(", ")"]
    vocabulary = {word: i for i, word in enumerate(words)}
    model = models.WordLevel(vocabulary, unk_token=unknown) if unknown else models.WordLevel({})
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return with_eos(tokenizer)


def word_piece() -> TextTokenizer:
    tokenizer = Tokenizer(models.WordPiece({}, unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]"], show_progress=False
    )
    return trained(tokenizer, trainer)


def unigram() -> TextTokenizer:
    letters = [(chr(code), -5.0) for code in range(97, 123)]
    fallback = [(f"<0x{byte:02X}>", -10.0) for byte in range(256)]
    model = models.Unigram(
        [("<unk>", 0.0), ("▁", -2.0), *letters, ("▁return", -3.0), *fallback], 0, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return with_eos(tokenizer)


BPE = train_bpe(TEXTS, 400)
KINDS = {
    "bpe": BPE,
    "byte_level_nfkc": byte_level(normalizers.NFKC()),
    "byte_level_lowercase": byte_level(normalizers.Lowercase()),
    "byte_level_prefix_space": byte_level(add_prefix_space=True),
    "word_level": word_level(),
    "word_piece": word_piece(),
    "unigram_byte_fallback": unigram(),
}
texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="return def(x):\n é漢😀ﬁİß", max_size=60),
)


@pytest.mark.parametrize("size", [258, 300, 400])
def test_trained_vocabulary_has_exactly_the_declared_size(size: int) -> None:
    tokenizer = train_bpe(iter(TEXTS), size)
    assert tokenizer.vocab_size == len(tokenizer.backend.get_vocab()) == size
    assert tokenizer.backend.id_to_token(tokenizer.eos_token_id) == EOS_TOKEN
    assert max(tokenizer.encode("".join(TEXTS))) < size


def test_training_is_deterministic() -> None:
    assert train_bpe(TEXTS, 400).backend.to_str() == BPE.backend.to_str()


def test_too_small_a_corpus_says_what_is_possible() -> None:
    with pytest.raises(SpecError, match="vocab_size=4096: corpus too small") as caught:
        train_bpe(["only a few words"], 4096)
    possible = int(str(caught.value).rsplit(" ", 1)[1])
    assert train_bpe(["only a few words"], possible).vocab_size == possible


@given(text=texts)
def test_text_survives(text: str) -> None:
    assert BPE.decode(BPE.encode(text)) == text


@given(ids=st.lists(st.integers(-5, 500)))
def test_ids_outside_the_tokenizer_give_no_text(ids: list[int]) -> None:
    known = [token for token in ids if 0 <= token < BPE.vocab_size]
    assert BPE.decode(np.asarray(ids, dtype=np.int64)) == BPE.decode(known)


def test_incomplete_utf8_and_special_tokens() -> None:
    face = BPE.encode("\U0001f9ff")
    assert len(face) > 1
    assert "\ufffd" in BPE.decode(face[:-1])
    ids = [*BPE.encode("a"), BPE.eos_token_id, *BPE.encode("b")]
    assert BPE.decode(ids) == "ab"
    assert BPE.decode(ids, skip_special_tokens=False) == f"a{EOS_TOKEN}b"


def test_text_that_spells_eos_is_text() -> None:
    ids = BPE.encode(f"x {EOS_TOKEN} y")
    assert BPE.eos_token_id not in ids
    assert BPE.decode(ids) == f"x {EOS_TOKEN} y"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(batch=st.lists(texts, min_size=1, max_size=4))
def test_every_byte_is_counted_once(kind: str, batch: list[str]) -> None:
    tokenizer = KINDS[kind]
    for text, (ids, lengths) in zip(batch, Encoder(tokenizer).encode(batch), strict=True):
        assert ids.tolist() == tokenizer.encode(text)
        assert len(lengths) == len(ids)
        assert (lengths >= 0).all()
        if len(ids):
            assert lengths.sum() == len(text.encode())


@given(text=texts)
def test_bytes_of_each_byte_level_token(text: str) -> None:
    """Independent reference: the byte alphabet, inverted."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    to_byte = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    assert sorted(to_byte) == alphabet
    ((ids, lengths),) = Encoder(BPE).encode([text])
    raw = [bytes(to_byte[c] for c in BPE.backend.id_to_token(int(i))) for i in ids]
    assert b"".join(raw) == text.encode()
    assert lengths.tolist() == [len(part) for part in raw]


def test_bytes_by_offsets_go_to_the_token_that_ends_there() -> None:
    ((ids, lengths),) = Encoder(word_level()).encode(["def é: return \n"])
    assert [word_level().backend.id_to_token(int(i)) for i in ids] == [
        "def",
        "[UNK]",
        ":",
        "return",
    ]
    assert lengths.tolist() == [3, 3, 1, 9]


def test_unknown_words_do_not_fit() -> None:
    encoder = Encoder(word_level())
    encoder.encode(["return x " * 100 + "other"])
    encoder.check_fit()
    encoder.encode(["nothing of this is known"])
    encoder.encode(["nothing of this is known either " * 5])
    with pytest.raises(SpecError, match=r"do not fit: 1[0-9]% of the tokens"):
        encoder.check_fit()


def test_silently_dropped_characters_do_not_fit() -> None:
    letters = {letter: i for i, letter in enumerate("abc")}
    encoder = Encoder(with_eos(Tokenizer(models.BPE(letters, []))))
    encoder.encode(["abc" * 30])
    encoder.check_fit()
    encoder.encode(["abc xyz" * 30])
    with pytest.raises(SpecError, match=r"3[0-9]% of the characters dropped"):
        encoder.check_fit()


def test_a_tokenizer_that_raises_does_not_fit() -> None:
    with pytest.raises(SpecError, match="tokenizer and corpus do not fit"):
        Encoder(word_level(unknown=None)).encode(["word"])


def test_saved_file_is_what_vocab_size_and_transformers_see(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    spec = TokenizerFile(path=str(tmp_path / "tokenizer.json"))
    assert vocab_size_of(DataSpec(tokenizer=spec)) == 400
    for reopened in (TextTokenizer.open(tmp_path, EOS_TOKEN), pickle.loads(pickle.dumps(BPE))):
        assert reopened.encode(TEXTS[7]) == BPE.encode(TEXTS[7])
        assert reopened.encode(EOS_TOKEN) == BPE.encode(EOS_TOKEN)
        assert reopened.eos_token_id == BPE.eos_token_id
    hub = load_tokenizer(HubTokenizer(name=str(tmp_path), vocab_size=400))
    assert hub.encode(TEXTS[7]) == BPE.encode(TEXTS[7])
    assert hub.eos_token_id == BPE.eos_token_id
    with pytest.raises(SpecError, match=r"vocab_size=300: .* has 400 entries; declare"):
        load_tokenizer(HubTokenizer(name=str(tmp_path), vocab_size=300))


def test_vocab_size_is_as_declared() -> None:
    assert vocab_size_of(DataSpec.parse({"tokenizer": {"kind": "bpe", "vocab_size": 777}})) == 777
    hub = {"kind": "hub", "name": "no/such-tokenizer", "vocab_size": 32000}
    assert vocab_size_of(DataSpec.parse({"tokenizer": hub})) == 32000


def test_padding_and_truncation_of_a_file_are_ignored(tmp_path: Path) -> None:
    changed = Tokenizer.from_str(BPE.backend.to_str())
    changed.enable_truncation(5)
    changed.enable_padding(length=64)
    path = tmp_path / "tokenizer.json"
    changed.save(str(path))
    assert json.loads(path.read_text())["truncation"] is not None
    assert load_tokenizer(TokenizerFile(path=str(path))).encode(TEXTS[0]) == BPE.encode(TEXTS[0])


def test_unusable_tokenizers_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(SpecError, match=f"data.tokenizer.path={path}: no such file"):
        vocab_size_of(DataSpec(tokenizer=TokenizerFile(path=str(path))))
    path.write_text("{}")
    with pytest.raises(SpecError, match=r"is not a tokenizer.json \("):
        vocab_size_of(DataSpec(tokenizer=TokenizerFile(path=str(path))))
    BPE.backend.save(str(path))
    with pytest.raises(SpecError, match=r"eos_token=</s>: .*no such entry.*<\|endoftext\|>"):
        vocab_size_of(DataSpec(tokenizer=TokenizerFile(path=str(path), eos_token="</s>")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SpecError, match=r"data.tokenizer.name=/no/such: cannot be loaded"):
        load_tokenizer(HubTokenizer(name="/no/such", vocab_size=5))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    with pytest.raises(SpecError, match="has no eos_token"):
        load_tokenizer(HubTokenizer(name=str(tmp_path), vocab_size=400))


def test_text_that_utf_8_cannot_have_is_encoded_as_in_a_corpus() -> None:
    tokenizer = train_bpe(["the river and the stone"], 260)
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")
    assert tokenizer.encode("\ud83d\ude42") == tokenizer.encode("🙂"), "a pair is a character"
