"""The storage of a training's checkpoints: the workspace's own, with its patience.

Ray Train writes checkpoints and its record of them through an Arrow file system. Arrow's adapter of fsspec ends at the
first fault; here every operation is done again while faults pass (:mod:`sscm.retries`), and a file is sent when it is
closed, as a whole.
"""

from __future__ import annotations

import io
import tempfile
from typing import Any

import pyarrow as pa
import pyarrow.fs

from sscm.retries import retrying
from sscm.workspace import RUNS, Workspace

_IN_MEMORY = 8_000_000
"""Bytes of a file that are kept in memory until it is closed; more go to a file of this machine."""


def run_storage(workspace: Workspace) -> dict[str, Any]:
    """``storage_path`` and ``storage_filesystem`` of a Ray Train run."""
    if workspace.is_local:
        return {"storage_path": workspace.path_of(RUNS)}
    handler = PatientHandler(workspace.fs)
    return {"storage_path": workspace.path_of(RUNS), "storage_filesystem": pyarrow.fs.PyFileSystem(handler)}


class PatientHandler(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]
    """Arrow's adapter of an fsspec file system, each of whose operations bears faults that pass."""

    def get_file_info(self, paths: list[str]) -> Any:
        """What is at some paths."""
        return retrying(lambda: pyarrow.fs.FSSpecHandler.get_file_info(self, paths))

    def get_file_info_selector(self, selector: Any) -> Any:
        """What is in a folder."""

        def listed() -> Any:
            self.fs.invalidate_cache()
            return pyarrow.fs.FSSpecHandler.get_file_info_selector(self, selector)

        return retrying(listed)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Object stores have no folders: nothing to do, and nothing that can fail."""

    def delete_dir(self, path: str) -> None:
        """Delete a folder and all that is in it."""
        retrying(lambda: self._delete(path))

    def delete_file(self, path: str) -> None:
        """Delete a file."""
        retrying(lambda: self._delete(path))

    def open_input_stream(self, path: str) -> Any:
        """A file from its start; read as a whole when it is opened."""
        return pa.PythonFile(io.BytesIO(self._read(path)), mode="r")

    def open_input_file(self, path: str) -> Any:
        """A file to be read anywhere; read as a whole when it is opened."""
        return pa.PythonFile(io.BytesIO(self._read(path)), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """A file to be written; sent when it is closed."""
        return pa.PythonFile(_Upload(self.fs, path), mode="w")

    def _read(self, path: str) -> bytes:
        return bytes(retrying(lambda: self.fs.cat_file(path)))

    def _delete(self, path: str) -> None:
        try:
            self.fs.rm(path, recursive=True)
        except FileNotFoundError:
            return  # by an attempt whose answer was lost


class _Upload(io.RawIOBase):
    """What is written, kept until it is closed."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs = fs
        self._path = path
        self._kept = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._kept.write(bytes(data))

    def close(self) -> None:
        if self.closed:
            return
        try:
            with self._kept:
                if self._kept.tell() <= _IN_MEMORY:
                    self._kept.seek(0)
                    content = self._kept.read()
                    retrying(lambda: self._fs.pipe_file(self._path, content))
                else:
                    self._send_file()
        finally:
            super().close()

    def _send_file(self) -> None:
        with tempfile.NamedTemporaryFile(prefix="sscm-") as local:
            self._kept.seek(0)
            while chunk := self._kept.read(2**22):
                local.write(chunk)
            local.flush()
            retrying(lambda: self._fs.put_file(local.name, self._path))
