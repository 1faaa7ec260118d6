"""Parquet files in an object store, read by few and exact ranges.

Opening a file costs one request for its size and tag, and one for its footer the first time that a process sees it.
Reading a row group costs one request for each run of neighbouring columns: Arrow joins them, up to 32 MB a request. A
range is read on the condition that the object is still the one that was opened, and read again where it fails.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import Any

import pyarrow.parquet as pq

from sscm.retries import TruncatedError, retrying
from sscm.storage_errors import storage_errors

FOOTERS = 256
"""Footers kept in a process; one of a shard of 4,096 pairs takes about 0.2 MB."""

_footers: OrderedDict[tuple[str, int, str], pq.FileMetaData] = OrderedDict()
_lock = threading.Lock()


def open_parquet(fs: Any, path: str, uri: str) -> pq.ParquetFile:
    """Open a Parquet file of an object store.

    Args:
        fs: its fsspec file system.
        path: its path there.
        uri: its URI, for messages.

    Raises:
        WorkspaceError: it cannot be opened or, now and later, read, after retries.
        ValueError, OSError: what was read is not a whole Parquet file (Arrow's errors).
    """
    # Without a cache: read-ahead would fetch the 50 MB behind each range as well.
    with storage_errors("read", uri):
        file = RangedFile(retrying(lambda: fs.open(path, "rb", cache_type="none")), uri)
    key = (uri, file.size, file.tag)
    with _lock:
        footer = _footers.get(key) if file.tag else None
        if footer is not None:
            _footers.move_to_end(key)
    opened = pq.ParquetFile(file, metadata=footer, pre_buffer=True)
    if footer is None and file.tag:
        with _lock:
            _footers[key] = opened.metadata
            while len(_footers) > FOOTERS:
                _footers.popitem(last=False)
    return opened


class RangedFile(io.RawIOBase):
    """A remote file whose every read is one request for just these bytes, tried again where it fails.

    Args:
        inner: an open fsspec file that reads without a cache.
        uri: its URI, for messages.
    """

    def __init__(self, inner: Any, uri: str) -> None:
        super().__init__()
        self._inner = inner
        self._uri = uri
        self._at = 0
        details = getattr(inner, "details", None)
        details = details if isinstance(details, dict) else {}
        known = details.get("size")
        self.size = int(inner.seek(0, io.SEEK_END) if known is None else known)
        # What differs between two contents of a name, as S3, Google, Azure and others call it; empty if nothing does.
        self.tag = str(
            next((details[name] for name in ("ETag", "etag", "LastModified", "mtime") if details.get(name)), "")
        )

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move without a request."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Bytes from here on, fewer than ``size`` only at the end.

        Raises:
            WorkspaceError: they cannot be read, after retries.
        """
        start = min(self._at, self.size)
        stop = self.size if size is None or size < 0 else min(start + size, self.size)
        if stop <= start:
            return b""
        with storage_errors("read", self._uri):
            data = retrying(lambda: self._fetch(start, stop))
        self._at = stop
        return data

    def close(self) -> None:
        """Let go of the file."""
        if not self.closed:
            self._inner.close()
        super().close()

    def _fetch(self, start: int, stop: int) -> bytes:
        self._inner.seek(start)
        try:
            data = bytes(self._inner.read(stop - start))
        except (IndexError, TypeError) as error:
            # s3fs looks into the message of what was raised; a timeout, for one, and some of Ceph's answers have none.
            seen = error.__context__
            if isinstance(seen, OSError):
                raise seen from seen.__cause__
            raise
        if len(data) != stop - start:
            raise TruncatedError(f"{len(data)} bytes came of {stop - start}")
        return data
