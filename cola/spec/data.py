"""What text a study trains on and how it becomes token sequences."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from cola.spec.base import Spec


class PythonStdlib(Spec):
    """The running interpreter's own library sources: a corpus that is on every machine."""

    source: Literal["python-stdlib"] = "python-stdlib"
    include_tests: bool = False


class LocalFiles(Spec):
    """Text or JSON-lines files; a folder stands for all such files below it.

    `.jsonl` (also `.jsonl.gz`) holds one document a line in `text_field`; any other file is one
    document.
    """

    source: Literal["files"] = "files"
    paths: list[str] = Field(min_length=1)
    text_field: str = "text"


class HuggingFaceDataset(Spec):
    """A data set of the Hugging Face hub (or a local data set script folder), by name.

    `tokens` is its declared size, for plans; what was prepared is counted.
    """

    source: Literal["huggingface"] = "huggingface"
    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    text_field: str = "text"
    streaming: bool = True
    tokens: PositiveInt | None = None
    max_documents: PositiveInt | None = None


Corpus = Annotated[PythonStdlib | LocalFiles | HuggingFaceDataset, Field(discriminator="source")]


class TrainedBPE(Spec):
    """Byte-level BPE trained on the corpus' training documents."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: int = Field(default=4096, ge=258, le=1_000_000)


class TokenizerFile(Spec):
    """A `tokenizer.json` of the `tokenizers` library."""

    kind: Literal["file"] = "file"
    path: str
    eos_token: str = "<|endoftext|>"  # noqa: S105


class HubTokenizer(Spec):
    """A tokenizer of the hub, through `AutoTokenizer`.

    `vocab_size` is declared so that a plan needs no network; it is checked when the tokenizer is
    loaded.
    """

    kind: Literal["hub"] = "hub"
    name: str
    vocab_size: PositiveInt
    revision: str | None = None


Tokenizer = Annotated[TrainedBPE | TokenizerFile | HubTokenizer, Field(discriminator="kind")]


class DataSpec(Spec):
    """Corpus, tokenizer and packing. `seed` decides the order of the sequences."""

    corpus: Corpus = PythonStdlib()
    tokenizer: Tokenizer = TrainedBPE()
    sequence_length: int = Field(default=256, ge=8, le=1_048_576)
    validation_fraction: float = Field(default=0.02, gt=0, lt=0.5)
    seed: NonNegativeInt = 6198
