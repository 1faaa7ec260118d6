"""Files and folders that a source reads: local ones at full speed, others through any file system fsspec knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from sscm.errors import WorkspaceError
from sscm.retries import retrying
from sscm.storage import is_marker
from sscm.storage_errors import storage_errors
from sscm.workspace import open_workspace


class Entry(NamedTuple):
    """One name in a folder."""

    name: str
    is_folder: bool


def local_path(path: str) -> str | None:
    """The path of a local file or folder as the operating system names it; None for one that lies elsewhere."""
    if path.startswith("file://"):
        return path.removeprefix("file://")
    return None if "://" in path else os.path.expanduser(path)


def absolute(path: str) -> str:
    """A path that means the same on every worker: local ones absolute, URIs as they are."""
    local = local_path(path)
    return path.rstrip("/") if local is None else os.path.abspath(local)


def join(folder: str, *names: str) -> str:
    """A path inside a folder; an absolute path or URI as the last name stands for itself."""
    if names and ("://" in names[-1] or os.path.isabs(names[-1])):
        return names[-1]
    inside = "/".join(name for name in names if name)
    return f"{folder.rstrip('/')}/{inside}" if folder else inside


def entries(folder: str) -> list[Entry]:
    """What a folder holds, sorted by name; one listing, no look at each file.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        WorkspaceError: it cannot be reached or read.
    """
    local = local_path(folder)
    if local is not None:
        with os.scandir(local) as found:
            return sorted(Entry(entry.name, entry.is_dir()) for entry in found)
    with storage_errors("list", folder):
        opened = open_workspace(folder)
        listed = retrying(lambda: opened.fs.ls(opened.path_of(), detail=True))
    return sorted(
        Entry(item["name"].rstrip("/").rsplit("/", 1)[-1], item["type"] == "directory")
        for item in listed
        if not is_marker(item["name"], opened.path_of())
    )


def read_bytes(path: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is no such file.
        WorkspaceError: the storage cannot be reached or read.
    """
    local = local_path(path)
    if local is not None:
        return Path(local).read_bytes()
    try:
        return open_workspace(path).read_bytes()
    except WorkspaceError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise
