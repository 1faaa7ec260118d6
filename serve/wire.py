"""Frames: msgpack values, each behind its length in four bytes.

msgpack holds nothing but numbers, text, bytes, lists and mappings, so that reading a frame runs no code; arrays travel
as their bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgpack

from sscm.errors import ServiceError

MOST_BYTES = 64 * 2**20
"""Largest frame: some tens of queries, or the answers to them."""

_LENGTH = struct.Struct(">I")


def pack(value: Any) -> bytes:
    """A value as a frame.

    Raises:
        ServiceError: it is larger than :data:`MOST_BYTES`.
    """
    body: bytes = msgpack.packb(value, use_bin_type=True)
    if len(body) > MOST_BYTES:
        raise ServiceError(f"a message of {len(body)} bytes; expected at most {MOST_BYTES}: ask for fewer answers")
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Takes bytes as they come and gives the values that are whole.

    Args:
        most: largest frame that is taken, bytes.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Values that are whole now; each is read when it is its turn, so that :attr:`most` may change between two.

        Raises:
            ServiceError: a frame is too large, or is not msgpack.
        """
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, start)
                if length > self.most:
                    raise ServiceError(f"a message of {length} bytes; expected at most {self.most}")
                end = start + _LENGTH.size + length
                if len(self._buffer) < end:
                    break
                try:
                    with memoryview(self._buffer) as whole, whole[start + _LENGTH.size : end] as body:
                        value = msgpack.unpackb(body, raw=False)
                except (ValueError, msgpack.UnpackException) as error:
                    raise ServiceError(f"a message that is not msgpack: {error}") from error
                start = end
                yield value
        finally:
            if start:
                del self._buffer[:start]
