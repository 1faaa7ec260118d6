"""Row groups of local shards read without a copy in between, where their columns are plain pages.

A column of a row group that was written uncompressed, in one page and without nulls, ends in its values as they are in
memory. They are read from the file straight into a buffer that is used again and again and so stays in the processor's
cache: with Arrow, which maps the file and copies each page into fresh memory, reading and gathering take two and a half
times as long (``docs/scale.md``). Whatever is not exactly such a column is left to Arrow.

Format: https://github.com/apache/parquet-format, ``parquet.thrift`` and ``README.md``; Thrift's compact protocol:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sscm.archive.order import Piece
from sscm.sensors import BandGroup

FOOTERS = 256
"""Footers kept in a process."""
_HEAD_BYTES = 256
"""Most that lies before the values of a page: its header, some thirty bytes, and the levels of 2^31 values."""
_DATA_PAGE, _PLAIN = 0, 0


class NotPlainError(Exception):
    """A row group has to be read by Arrow."""


class _Footer:
    """What a shard says of itself."""

    def __init__(self, metadata: pq.FileMetaData) -> None:
        self.metadata = metadata
        self.columns = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}


_footers: OrderedDict[str, tuple[tuple[int, int, int], _Footer]] = OrderedDict()
_lock = threading.Lock()
_scratch = threading.local()


class PlainRowGroup:
    """One open row group; a context manager.

    Args:
        path: the shard.
        piece: the row group; every pair of it complete.

    Raises:
        NotPlainError: here, or from a method: Arrow has to read it.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str, piece: Piece) -> None:
        if piece.complete != piece.rows:
            raise NotPlainError("a pair lacks a modality")
        self._rows = piece.rows
        self._file = os.open(path, os.O_RDONLY)
        try:
            self._footer = _footer(path, self._file)
            if piece.row_group >= self._footer.metadata.num_row_groups:
                raise NotPlainError("no such row group")
            self._row_group = self._footer.metadata.row_group(piece.row_group)
            if self._row_group.num_rows != piece.rows:
                raise NotPlainError("other rows than the manifest says")
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> PlainRowGroup:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def ids(self) -> list[str]:
        """``pair_id`` of all rows."""
        chunk, levels = self._chunk("pair_id", "BYTE_ARRAY", 0)
        data = os.pread(self._file, chunk.total_compressed_size, chunk.data_page_offset)
        at = _values_at(data, chunk.total_compressed_size, self._rows, levels)
        found = []
        for _ in range(self._rows):
            if at + 4 > len(data):
                raise NotPlainError("values end early")
            (size,) = struct.unpack_from("<I", data, at)
            try:
                found.append(data[at + 4 : at + 4 + size].decode())
            except UnicodeDecodeError as error:
                raise NotPlainError("no text") from error
            at += 4 + size
        if at != len(data):
            raise NotPlainError("values do not end with the column")
        return found

    def images(self, group: BandGroup) -> npt.NDArray[Any]:
        """Pixels [rows, bands, height, width] of one band group, in the group's dtype; until the next call only."""
        chunk, levels = self._chunk(group.name, "FIXED_LEN_BYTE_ARRAY", group.nbytes)
        size = self._rows * group.nbytes
        before = chunk.total_compressed_size - size
        if not 0 < before <= _HEAD_BYTES:
            raise NotPlainError("nulls, or several pages")
        head, values = bytearray(before), _buffer(size)
        if os.preadv(self._file, [head, values.data], chunk.data_page_offset) != before + size:
            raise NotPlainError("the file is cut short")
        if _values_at(head, chunk.total_compressed_size, self._rows, levels) != before:
            raise NotPlainError("nulls, or several pages")
        pixels: npt.NDArray[Any] = values.view(group.numpy_dtype).reshape(self._rows, *group.shape)
        return pixels

    def _chunk(self, name: str, physical_type: str, value_bytes: int) -> tuple[Any, bool]:
        """Metadata of one column of so many bytes a value, 0 where they differ, and whether its pages have levels."""
        index = self._footer.columns.get(name)
        if index is None:
            raise NotPlainError("no such column")
        chunk, column = self._row_group.column(index), self._footer.metadata.schema.column(index)
        if (
            chunk.compression != "UNCOMPRESSED"
            or chunk.has_dictionary_page
            or (chunk.physical_type, column.length) != (physical_type, value_bytes)
            or column.max_repetition_level
            or column.max_definition_level > 1
        ):
            raise NotPlainError("not a plain column")
        return chunk, column.max_definition_level == 1


def _footer(path: str, file: int) -> _Footer:
    """The footer of an open file, read once for each content of its name."""
    about = os.fstat(file)
    key = (about.st_ino, about.st_size, about.st_mtime_ns)
    with _lock:
        known = _footers.get(path)
        if known is not None and known[0] == key:
            _footers.move_to_end(path)
            return known[1]
    try:
        with os.fdopen(os.dup(file), "rb") as opened:
            footer = _Footer(pq.read_metadata(opened))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise NotPlainError("not a whole Parquet file") from error
    with _lock:
        _footers[path] = key, footer
        _footers.move_to_end(path)
        while len(_footers) > FOOTERS:
            _footers.popitem(last=False)
    return footer


def _buffer(size: int) -> npt.NDArray[np.uint8]:
    """Bytes of this thread that are used again."""
    buffer: npt.NDArray[np.uint8] | None = getattr(_scratch, "buffer", None)
    if buffer is None or len(buffer) < size:
        buffer = _scratch.buffer = np.empty(size, np.uint8)
    return buffer[:size]


def _values_at(data: bytes | bytearray, chunk_bytes: int, rows: int, levels: bool) -> int:
    """Where the values of a column begin that is one plain data page without nulls.

    Args:
        data: the column's first bytes, at least all before its values.
        chunk_bytes: bytes of the column.
        rows: rows of the row group.
        levels: whether definition levels lie before the values.
    """
    try:
        header, at = _thrift_struct(data, 0)
        about = header[5]
        whole = (
            header[1] == _DATA_PAGE
            and header[2] == header[3] == chunk_bytes - at
            and about[1] == rows
            and about[2] == _PLAIN
        )
        if levels:
            at += 4 + int(struct.unpack_from("<I", data, at)[0])
    except (IndexError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise NotPlainError("not one data page") from error
    if not whole:
        raise NotPlainError("not one plain page")
    return at


def _thrift_struct(data: bytes | bytearray, at: int) -> tuple[dict[int, Any], int]:
    """Field number → value of a Thrift struct in compact protocol, of integers, truths and structs; and its end."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        if kind in (1, 2):
            fields[number] = kind == 1
        elif kind in (4, 5, 6):
            fields[number], at = _integer(data, at)
        elif kind == 12:
            fields[number], at = _thrift_struct(data, at)
        else:
            raise KeyError(f"type {kind}")
    return fields, at + 1


def _integer(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """A zigzag variable-length integer, and its end."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
