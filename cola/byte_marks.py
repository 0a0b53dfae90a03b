"""What the first bytes of a file tell: its compression, and the encoding of its text."""

from __future__ import annotations

import codecs
import re

# What `git clone` leaves in place of a large file where Git LFS is not installed.
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
HEAD_BYTES = len(_LFS_POINTER)  # enough for all of it

_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
# Text may begin with the letters BZh: what follows them is looked at, too (a level, then a mark).
_BZIP2 = re.compile(rb"BZh[1-9](1A|\x17r)")
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
    if _BZIP2.match(head):
        return "bzip2"
    return next((name for mark, name in _COMPRESSIONS.items() if head.startswith(mark)), None)


def encoding_of(head: bytes) -> str:
    """The encoding that a byte order mark names; UTF-8 without one."""
    return next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "utf-8")


def is_lfs_pointer(head: bytes) -> bool:
    """Whether Git LFS' note stands in place of a file."""
    return head.startswith(_LFS_POINTER)
