"""What text a study trains on and how it becomes token sequences."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cola.spec.base import Spec
from cola.spec.locations import LocalPath, NameOrFolder

PATH_STARTS = ("/", ".", "~")  # of the name of a data set or tokenizer that is a local folder


class PythonStdlib(Spec):
    """The running interpreter's own library sources: a corpus that is on every machine."""

    source: Literal["python-stdlib"] = Field(
        default="python-stdlib", description="The sources of the Python that runs the study."
    )
    include_tests: bool = Field(
        default=False,
        description="Also read the library's own tests, which more than doubles the corpus.",
    )


class LocalFiles(Spec):
    """Files of text, JSON, CSV or Parquet, each also compressed (gzip, bzip2, xz or zstd)."""

    source: Literal["files"] = Field(default="files", description="Files on this machine.")
    paths: list[LocalPath] = Field(
        min_length=1,
        description="Files and folders; a folder stands for all files below it. Rows of `.jsonl`, "
        "`.ndjson`, `.json`, `.csv`, `.tsv` and `.parquet` files are documents; a file of text "
        "(`.txt`, `.md`, source code) is one. Each may be compressed: `.gz`, `.bz2`, `.xz`, "
        "`.zst`. What a folder holds besides is left out and shown; more than a tenth of the bytes "
        "is refused.",
    )
    text_field: str = Field(
        default="text",
        description="Field of a JSON object, or column of a table, with the document's text.",
    )


class HuggingFaceDataset(Spec):
    """A data set of the Hugging Face hub, read by the `datasets` library."""

    source: Literal["huggingface"] = Field(
        default="huggingface", description="A data set of the Hugging Face hub."
    )
    name: NameOrFolder = Field(
        description="Name of the data set on the hub, or a local folder that `datasets` can load."
    )
    config: str | None = Field(
        default=None, description="Configuration of the data set; null: its default one."
    )
    split: str = Field(default="train", description="Split of the data set that is read.")
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit of the data set; null: the newest on its main branch.",
    )
    text_field: str = Field(
        default="text", description="Column of the data set that holds a document's text."
    )
    streaming: bool = Field(
        default=True,
        description="Read rows over the network as they are needed; false downloads the whole "
        "split first.",
    )
    tokens: PositiveInt | None = Field(
        default=None,
        description="Declared size in tokens, with which `cola plan` counts epochs before the "
        "corpus is prepared; afterwards the counted size is used.",
    )
    max_documents: PositiveInt | None = Field(
        default=None, description="Read only this many rows, the first ones; null: all."
    )


class GeneratedText(Spec):
    """Text of hidden topics, whose entropy is known: each topic is a Markov chain over symbols.

    Documents are drawn one by one, each from its number and the seed: more of them begin with
    those that fewer have. `topics: 1` is text without topics, and with `order: 0` its symbols are
    independent of each other: the controls of what a model may learn from topics.
    """

    source: Literal["generated"] = Field(
        default="generated",
        description="Text drawn from a source of hidden topics, whose entropy is known.",
    )
    documents: PositiveInt = Field(
        default=20_000, description="How many documents there are; any number is possible."
    )
    document_tokens: int = Field(
        default=512,
        ge=2,
        le=1024,
        description="Mean length of a document in symbols; lengths are geometric, so that how much "
        "is left of a document does not depend on how much of it was read.",
    )
    symbols: int = Field(
        default=64,
        ge=2,
        le=94,
        description="Different symbols, each one character: letters, digits and signs of ASCII.",
    )
    topics: int = Field(default=8, ge=1, le=64, description="Hidden topics, all equally frequent.")
    topic_tokens: float = Field(
        default=64.0,
        ge=1,
        description="For how many symbols a topic stays, in the mean; another one follows it, each "
        "as likely. Without effect on one topic.",
    )
    order: Literal[0, 1] = Field(
        default=1,
        description="1: a symbol depends on its topic and the symbol before it; 0: on its topic "
        "alone.",
    )
    concentration: PositiveFloat = Field(
        default=0.1,
        description="Of the Dirichlet distribution that each topic's probabilities of the next "
        "symbol are drawn from: the smaller, the less entropy.",
    )
    seed: NonNegativeInt = Field(
        default=1905, description="Seed of the topics' chains and of the documents."
    )


class GeneratedPairs(Spec):
    """Images of coloured shapes and digits with captions that say what they show.

    Pairs are drawn one by one, each from its number and the seed: more of them begin with those
    that fewer have. A training sequence is one pair: its caption, filled up with ends of text, and
    its image. Families of text read the captions alone.
    """

    source: Literal["generated-pairs"] = Field(
        default="generated-pairs",
        description="Drawn images with captions whose truth is known, a pair a sequence.",
    )
    documents: PositiveInt = Field(
        default=20_000, description="How many pairs there are; any number is possible."
    )
    image_size: int = Field(
        default=16, ge=16, le=128, multiple_of=8, description="Pixels of an image's side."
    )
    things: int = Field(
        default=2, ge=1, le=4, description="Most shapes and digits in an image, each in a quarter."
    )
    seed: NonNegativeInt = Field(default=1905, description="Seed of the pairs.")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return 3, self.image_size, self.image_size


class ImagePairs(Spec):
    """Image files with their captions, a pair a training sequence as in generated ones."""

    source: Literal["image-pairs"] = Field(
        default="image-pairs", description="Image files on this machine, with captions."
    )
    paths: list[LocalPath] = Field(
        min_length=1,
        description="Tables of pairs (`.jsonl`, `.json`, `.csv`, `.tsv`, each also compressed): a "
        "row has an image's path, from the table's folder on, and its caption.",
    )
    image_field: str = Field(default="image", description="Field of a row with the image's path.")
    text_field: str = Field(default="text", description="Field of a row with the caption.")
    image_size: PositiveInt = Field(
        description="Pixels of an image's side; images of another size, or without red, green and "
        "blue, are refused."
    )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return 3, self.image_size, self.image_size


Drawn = GeneratedText | GeneratedPairs  # corpora that are drawn, `documents` of them
Pairs = GeneratedPairs | ImagePairs  # corpora whose sequences have images
Corpus = Annotated[
    PythonStdlib | LocalFiles | HuggingFaceDataset | Drawn | ImagePairs,
    Field(discriminator="source"),
]


class PerturbedText(Spec):
    """The study's own test text with seeded typing errors, sequence by sequence."""

    source: Literal["perturbed"] = Field(
        default="perturbed", description="The study's own test text with seeded typing errors."
    )
    rate: float = Field(
        default=0.03,
        gt=0,
        le=0.5,
        description="Share of letters and digits that are mistyped: another one in its place, "
        "swapped with the next, another one before it, or left out, which only makes up for one "
        "that was put in.",
    )
    seed: NonNegativeInt = Field(default=0, description="Seed of the errors.")


# Text that finished models are measured on beside the study's own test split.
HeldOutText = Annotated[
    PythonStdlib | LocalFiles | HuggingFaceDataset | GeneratedText | PerturbedText,
    Field(discriminator="source"),
]


class TrainedBPE(Spec):
    """Byte-level BPE trained on the corpus' training documents."""

    kind: Literal["bpe"] = Field(
        default="bpe", description="Train a byte-level BPE tokenizer on the training documents."
    )
    vocab_size: int = Field(
        default=4096,
        ge=258,
        le=1_000_000,
        description="Entries of the vocabulary: end of text, 256 bytes, and merges.",
    )


class TokenizerFile(Spec):
    """A `tokenizer.json` of the `tokenizers` library."""

    kind: Literal["file"] = Field(default="file", description="Read a tokenizer from a file.")
    path: LocalPath = Field(description="Path of a `tokenizer.json` of the `tokenizers` library.")
    eos_token: str = Field(
        default="<|endoftext|>",
        description="Entry of the tokenizer that is put between documents.",
    )


class HubTokenizer(Spec):
    """A tokenizer of the hub, through `AutoTokenizer`."""

    kind: Literal["hub"] = Field(
        default="hub", description="Load a tokenizer of the Hugging Face hub."
    )
    name: NameOrFolder = Field(
        description="Name on the hub, or a local folder, as `AutoTokenizer` takes."
    )
    vocab_size: PositiveInt = Field(
        description="Entries of the tokenizer, declared so that a plan needs no network; a wrong "
        "number is refused when the tokenizer is loaded."
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit; null: the newest on the main branch."
    )


class SymbolTokens(Spec):
    """One token a symbol of a generated corpus, and one for the end of a document."""

    kind: Literal["symbols"] = Field(
        default="symbols", description="One token for each symbol of a generated corpus."
    )


Tokenizer = Annotated[
    TrainedBPE | TokenizerFile | HubTokenizer | SymbolTokens, Field(discriminator="kind")
]


class DataSpec(Spec):
    """Corpus, tokenizer and packing."""

    corpus: Corpus = Field(default=PythonStdlib(), description="The text.")
    tokenizer: Tokenizer = Field(default=TrainedBPE(), description="What turns text into tokens.")
    sequence_length: int = Field(
        default=256,
        ge=8,
        le=1_048_576,
        description="Tokens of a training sequence: documents are packed one after the other and "
        "cut at this length.",
    )
    validation_fraction: float = Field(
        default=0.02,
        gt=0,
        lt=0.5,
        description="Share of the text that is held out, chosen by a hash of it; at least one "
        "piece of text is. Half of its documents are the validation split, which sweeps select by; "
        "on the other half, the test split, finished models are scored.",
    )
    seed: NonNegativeInt = Field(
        default=6198,
        description="Seed of the order of the training sequences, which all families and all "
        "seeds of a study share.",
    )

    @model_validator(mode="after")
    def _symbols_are_tokens(self) -> DataSpec:
        generated = isinstance(self.corpus, GeneratedText)
        if generated != isinstance(self.tokenizer, SymbolTokens):
            raise ValueError(
                f"corpus.source={self.corpus.source} and tokenizer.kind={self.tokenizer.kind} do "
                "not fit: the entropy of a generated corpus is that of its symbols, and no other "
                "text has them; give both `corpus: {source: generated}` and "
                "`tokenizer: {kind: symbols}`, or neither"
            )
        return self

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of the image of each sequence; None: there are none."""
        return self.corpus.image_shape if isinstance(self.corpus, Pairs) else None

    def identity(self) -> dict[str, Any]:
        """The specification as plain values, without where files lie.

        A fingerprint of the files' content stands for them. Names that are paths (absolute, or
        beginning with `.` or `~`) are of local folders; any other is a name on the hub.
        """
        values = self.model_dump(mode="json")
        for part in (values["corpus"], values["tokenizer"]):
            drop_places(part)
        return values


def drop_places(values: dict[str, Any]) -> None:
    """Take out of a corpus' or tokenizer's plain values where its files lie."""
    for key in ("paths", "path"):
        values.pop(key, None)
    if str(values.get("name", "")).startswith(PATH_STARTS):
        del values["name"]
        values.pop("streaming", None)
