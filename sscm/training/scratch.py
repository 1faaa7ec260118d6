"""Temporary folders that do not outlive their processes for long, even of those that are killed."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import TextIO

_LOCK = ".lock"


def scratch_folder() -> str:
    """A new empty folder of this process; what killed processes of the same user left behind here is deleted.

    Whether a process lives is told by a lock that it holds, so that processes of several containers may share a disk.

    Raises:
        OSError: none can be made, or the disk is full.
    """
    base = Path(tempfile.gettempdir()) / f"sscm-training-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    own = _own(base)[0]
    for lock in base.glob(f"*{_LOCK}"):
        with contextlib.suppress(OSError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()
    return tempfile.mkdtemp(dir=own)


@functools.cache
def _own(base: Path) -> tuple[Path, TextIO]:
    """This process's folder, and the lock that it holds to its end."""
    own = Path(tempfile.mkdtemp(dir=base))
    fresh = own / _LOCK
    file = fresh.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    fresh.rename(own.with_suffix(_LOCK))  # nobody sees it before it is held
    return own, file
