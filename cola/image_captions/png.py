"""Images as PNG, for pages."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np


def data_uri(image: np.ndarray) -> str:
    """An image (3, height, width) uint8 as a PNG in a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def png(image: np.ndarray) -> bytes:
    """An image (3, height, width) uint8 as a PNG file: rows without a filter, compressed."""
    height, width = image.shape[1:]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits of red, green, blue
    rows = np.ascontiguousarray(image.transpose(1, 2, 0)).reshape(height, -1)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check
