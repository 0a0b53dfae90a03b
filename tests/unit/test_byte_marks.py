"""First bytes of files that Python's own writers make."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.byte_marks import HEAD_BYTES, compression_of, encoding_of


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gzip", gzip.compress(b"text", mtime=0)),
        ("bzip2", bz2.compress(b"text")),
        ("xz", lzma.compress(b"text")),
        ("zstd", pa.compress(b"text", codec="zstd", asbytes=True)),
        ("zstd", b"\x5f\x2a\x4d\x18\x00\x00\x00\x00"),  # a skippable frame, RFC 8878
        (None, b"text"),
        (None, b""),
    ],
)
def test_a_compression_is_known_by_its_first_bytes(name: str | None, content: bytes) -> None:
    assert compression_of(content[:HEAD_BYTES]) == name


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    st.sampled_from(["utf-8-sig", "utf-16", "utf-32"]),
)
def test_text_with_a_mark_is_decoded_as_it_was_encoded(text: str, encoding: str) -> None:
    content = text.encode(encoding)
    assert encoding_of(content[:HEAD_BYTES]) == encoding


def test_text_without_a_mark_is_utf_8() -> None:
    assert encoding_of(b"text") == encoding_of(b"") == "utf-8"
