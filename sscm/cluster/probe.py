"""A node's part in the check of a workspace: it writes a small file, reads its own and another's, and deletes its own.

What it sees is told with the messages that any other command would end with (:mod:`sscm.storage_errors`).
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sscm.workspace import Workspace

ROUNDS = 3
"""Writes and reads that are timed, after one that opens connections; the median counts."""


def try_out(workspace: Workspace, folder: str, name: str, content: bytes, patience: float) -> dict[str, Any]:
    """Write a file and read it again.

    Args:
        workspace: what is checked.
        folder: of the check, inside the workspace.
        name: of this node's file.
        content: of the file.
        patience: seconds for which faults that may pass are sat out.

    Returns:
        ``write_ms``, ``read_ms`` and ``made``, the folders that were made for it; or ``error``.
    """
    import sscm.workspace
    from sscm import retries

    # This process is the check's own. Other commands sit faults out for a minute; here the answer is wanted.
    retries.PATIENCE = sscm.workspace.UPLOAD_SECONDS = patience
    made = _missing(workspace)

    def both() -> dict[str, Any]:
        writes, reads = [], []
        for _ in range(1 + ROUNDS):
            began = time.perf_counter()
            workspace.write_bytes(content, folder, name)
            written = time.perf_counter()
            if workspace.read_bytes(folder, name) != content:
                raise ValueError(f"{workspace.uri_of(folder, name)} does not hold what was just written to it")
            writes.append(written - began)
            reads.append(time.perf_counter() - written)
        return {
            "write_ms": 1000 * statistics.median(writes[1:]),
            "read_ms": 1000 * statistics.median(reads[1:]),
        }

    return {**_told(both), "made": made}


def read_of_another(workspace: Workspace, folder: str, name: str, content: bytes) -> dict[str, Any]:
    """Read a file that another node has written.

    Returns:
        ``same``, whether it holds what was written; ``there``, whether there is one; or ``error``.
    """

    def look() -> dict[str, Any]:
        if not workspace.exists(folder, name):
            return {"there": False, "same": False}
        return {"there": True, "same": workspace.read_bytes(folder, name) == content}

    return _told(look)


def delete(workspace: Workspace, folder: str, name: str) -> dict[str, Any]:
    """Delete this node's file; empty, or with ``error``."""

    def take_away() -> dict[str, Any]:
        workspace.delete(folder, name)
        return {}

    return _told(take_away)


def tidy(workspace: Workspace, folder: str, made: list[str]) -> dict[str, Any]:
    """List what is left, and take the check's folder away, and what was made for it.

    Returns:
        ``left``, names of files that are still listed; or ``error``.
    """

    def look() -> dict[str, Any]:
        left = workspace.names(folder)
        workspace.delete(folder)
        for path in made:  # the deepest first; one that is in use by now stays
            with contextlib.suppress(OSError):
                os.rmdir(path)
        return {"left": left}

    return _told(look)


def _missing(workspace: Workspace) -> list[str]:
    """Folders that a write will make, deepest first."""
    if not workspace.is_local:
        return []
    path = Path(workspace.path_of())
    with contextlib.suppress(OSError):
        return [str(folder) for folder in (path, *path.parents) if not folder.exists()]
    return []


def _told(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from sscm.errors import SscmError

    try:
        return action()
    except SscmError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
