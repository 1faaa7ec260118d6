"""Workspaces: one URI under which everything durable lies, and the file operations that keep it whole.

A workspace may be a folder, ``file://``, ``s3://`` or whatever else fsspec opens (:mod:`sscm.storage`). Every file is
written so that a reader sees the old bytes, the new bytes or none, never a part: a local file is written beside its
name, flushed to disk and renamed; an object store commits an object as a whole. What fails for a moment is tried again
(:mod:`sscm.retries`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import xxhash

from sscm import storage
from sscm.errors import IntegrityError
from sscm.remote_parquet import open_parquet
from sscm.retries import TruncatedError, retrying
from sscm.storage_errors import storage_errors

ARCHIVE = "archive"
RUNS = "runs"
MODELS = "models"
INDEX = "index"

SLOWEST_UPLOAD = 250_000
"""Bytes a second below which an upload counts as stalled: a quarter of a slow home connection."""
UPLOAD_SECONDS = 30.0
"""What an upload may take beside its bytes: a request that is not answered (20 s), and one that is."""


@dataclass(frozen=True)
class Stored:
    """What was written.

    Args:
        bytes: size of the file.
        sha256: hexadecimal SHA-256 of its content.
        xxh3: hexadecimal 128-bit XXH3 of its content, which tells an altered file from a whole one at the speed of
            memory; None where it was not computed.
    """

    bytes: int
    sha256: str
    xxh3: str | None = None


@dataclass(frozen=True)
class Workspace:
    """A folder on any file system; cheap to pickle, so that workers open it themselves.

    Args:
        uri: absolute URI, e.g. ``file:///data/w`` or ``s3://bucket/w``; :func:`open_workspace` makes one from a path.
        storage_options: arguments of the fsspec file system (endpoint, region, ``anon``, …). They may be secrets: they
            are pickled to workers, never shown and never written to a file.
    """

    uri: str
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Workspace(uri={self.uri!r}, storage_options={storage.masked(self.storage_options)!r})"

    @property
    def fs(self) -> Any:
        """The fsspec file system (fsspec caches instances)."""
        return storage.filesystem(self._scheme, self.storage_options)

    @property
    def _scheme(self) -> str:
        return urlsplit(self.uri).scheme

    @property
    def is_local(self) -> bool:
        """Whether the files lie on this machine's own file system."""
        return self.uri.startswith("file://")

    def uri_of(self, *parts: str) -> str:
        """URI of a file or folder inside."""
        return "/".join((self.uri.rstrip("/"), *parts))

    def path_of(self, *parts: str) -> str:
        """Path of a file or folder inside, as the file system names it (no scheme)."""
        return str(self.fs._strip_protocol(self.uri_of(*parts)))

    def child(self, *parts: str) -> Workspace:
        """The same file system, rooted at a folder inside."""
        return Workspace(self.uri_of(*parts), self.storage_options)

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        with storage_errors("look at", self.uri_of(*parts)):
            try:
                # Not fs.exists: many file systems take any failure for an absent file.
                retrying(lambda: self.fs.info(self.path_of(*parts)))
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def size(self, *parts: str) -> int:
        """Size of a file in bytes."""
        with storage_errors("look at", self.uri_of(*parts)):
            return int(retrying(lambda: self.fs.size(self.path_of(*parts))))

    def names(self, *parts: str) -> list[str]:
        """Sorted names of the files and folders in a folder; empty where there is no such folder."""
        with storage_errors("list", self.uri_of(*parts)):
            self.fs.invalidate_cache()
            try:
                found = retrying(lambda: self.fs.ls(self.path_of(*parts), detail=False))
            except FileNotFoundError:
                return []
        here = self.path_of(*parts)
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found if not storage.is_marker(path, here))

    def read_bytes(self, *parts: str) -> bytes:
        """The whole content of a file.

        Raises:
            WorkspaceError: the file is not there or cannot be read.
        """
        with storage_errors("read", self.uri_of(*parts)):
            options = storage.read_options(self._scheme)
            return bytes(retrying(lambda: self.fs.cat_file(self.path_of(*parts), **options)))

    def read_json(self, *parts: str) -> Any:
        """The content of a JSON file.

        Raises:
            WorkspaceError: the file is not there or cannot be read.
            IntegrityError: it is not JSON.
        """
        data = self.read_bytes(*parts)
        try:
            return json.loads(data)
        except ValueError as error:
            raise IntegrityError(
                f"{self.uri_of(*parts)} is not JSON ({error}); it was altered or cut short: restore it or build it anew"
            ) from error

    def write_bytes(self, data: bytes, *parts: str) -> Stored:
        """Write a file whole or not at all.

        Raises:
            WorkspaceError: disk full, not writable, unreachable; nothing is left half-written.
        """
        with storage_errors("write", self.uri_of(*parts)):
            if self.is_local:
                target = Path(self.path_of(*parts))
                target.parent.mkdir(parents=True, exist_ok=True)
                with _replacing(target) as temporary:
                    temporary.write_bytes(data)
            else:
                deadline = self._deadline(len(data))
                retrying(lambda: self.fs.pipe_file(self.path_of(*parts), data, **deadline))
        return Stored(len(data), hashlib.sha256(data).hexdigest())

    def write_json(self, value: Any, *parts: str) -> Stored:
        """Write a JSON file whole or not at all; see :meth:`write_bytes`."""
        return self.write_bytes((json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), *parts)

    def write_file(self, produce: Callable[[Path], None], *parts: str) -> Stored:
        """Write a file that something else produces at a local path, whole or not at all.

        Args:
            produce: called once with a local path that it must create.
            parts: where the file goes.

        Raises:
            WorkspaceError: disk full, not writable, unreachable; nothing is left half-written.
        """
        with storage_errors("write", self.uri_of(*parts)):
            if self.is_local:
                target = Path(self.path_of(*parts))
                target.parent.mkdir(parents=True, exist_ok=True)
                with _replacing(target) as temporary:
                    produce(temporary)
                    stored = _stored(temporary)
            else:
                with tempfile.TemporaryDirectory(prefix="sscm-") as folder:
                    local = Path(folder) / parts[-1]
                    produce(local)
                    stored = _stored(local)
                    retrying(lambda: self._upload(local, stored.bytes, self.path_of(*parts)))
        return stored

    def delete(self, *parts: str) -> None:
        """Delete a file or a folder with all that is in it; nothing happens where there is none."""
        with storage_errors("delete", self.uri_of(*parts)), contextlib.suppress(FileNotFoundError):
            retrying(lambda: storage.remove(self.fs, self.path_of(*parts)))

    def local_copy(self, folder: Path, *parts: str) -> Path:
        """A local path with the content of a file: the file itself where it is local, else a download into folder."""
        if self.is_local:
            return Path(self.path_of(*parts))
        target = folder / parts[-1]
        with storage_errors("read", self.uri_of(*parts)):
            retrying(lambda: self.fs.get_file(self.path_of(*parts), str(target)))
        return target

    def parquet(self, *parts: str) -> pq.ParquetFile:
        """Open a Parquet file: memory-mapped where local, read by ranges elsewhere.

        Raises:
            WorkspaceError: the file is not there or cannot be read.
            IntegrityError: it is not a Parquet file, or is cut short.
        """
        with storage_errors("read", self.uri_of(*parts)):
            try:
                if self.is_local:
                    return pq.ParquetFile(self.path_of(*parts), memory_map=True)
                return open_parquet(self.fs, self.path_of(*parts), self.uri_of(*parts))
            except (ValueError, OSError) as error:
                if isinstance(error, OSError) and error.errno:
                    raise
                raise IntegrityError(
                    f"{self.uri_of(*parts)} is not a whole Parquet file ({error}); write it again from its source"
                ) from error

    def require_writable(self) -> None:
        """Check by writing and deleting a small file that the workspace can be written.

        Raises:
            WorkspaceError: it cannot; the message says why.
        """
        name = f".probe-{os.getpid()}-{time.time_ns()}"
        self.write_bytes(b"sscm", name)
        self.delete(name)

    def _upload(self, local: Path, size: int, path: str) -> None:
        """Send a local file, and see that all of it is kept."""
        self.fs.put_file(str(local), path, **storage.upload_options(self._scheme), **self._deadline(size))
        kept = int(self.fs.info(path)["size"])
        if kept != size:
            raise TruncatedError(f"{kept} bytes are kept of {size} sent")

    def _deadline(self, size: int) -> dict[str, float]:
        """Seconds that an upload may take: a client waits for ever for a store that stops taking bytes."""
        return {"timeout": UPLOAD_SECONDS + size / SLOWEST_UPLOAD} if self.fs.async_impl else {}


def open_workspace(uri: str, storage_options: Mapping[str, Any] | None = None) -> Workspace:
    """Make a workspace of a URI or a local path.

    Args:
        uri: ``s3://bucket/prefix``, ``file:///path`` or a path, relative ones from the working directory.
        storage_options: arguments of the fsspec file system, over those of the environment (:mod:`sscm.storage`).

    Raises:
        ConfigError: the environment's storage options cannot be used.
        WorkspaceError: the URI's scheme is unknown.
    """
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme in ("", "file"):
        path = uri.removeprefix("file://")
        return Workspace("file://" + os.path.abspath(os.path.expanduser(path)), dict(storage_options or {}))
    return Workspace(uri.rstrip("/"), storage.options_for(uri.rstrip("/"), storage_options))


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A path beside target; flushed to disk and renamed to it when the block ends well, removed when it does not."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{time.time_ns()}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def file_xxh3(path: Path) -> str:
    """Hexadecimal 128-bit XXH3 of a local file."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def _stored(path: Path) -> Stored:
    return Stored(path.stat().st_size, file_sha256(path), file_xxh3(path))
