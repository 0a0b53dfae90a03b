"""What the first bytes of a file tell: its compression, and the encoding of its text."""

from __future__ import annotations

import codecs

HEAD_BYTES = 6  # that are enough for both

_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_SKIPPABLE_FRAME = range(0x184D2A50, 0x184D2A60)  # with which zstd streams may begin
# The longer marks first: that of UTF-32 begins with that of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def compression_of(head: bytes) -> str | None:
    """gzip, bzip2, xz or zstd; None for anything else."""
    if len(head) >= 4 and int.from_bytes(head[:4], "little") in _SKIPPABLE_FRAME:
        return "zstd"
    return next((name for mark, name in _COMPRESSIONS.items() if head.startswith(mark)), None)


def encoding_of(head: bytes) -> str:
    """The encoding that a byte order mark names; UTF-8 without one."""
    return next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "utf-8")
