"""Faults at chosen file operations: of this machine's file system, and of an object store's client."""

import contextlib
import errno
import os
import sys
from pathlib import Path

import s3fs

PUTS = ("put_object", "delete_object", "delete_objects", "copy_object", "create_multipart_upload", "upload_part")


class KilledError(Exception):
    """This process is dead: nothing that it does reaches the storage any more."""


class Faults:
    """Counts the operations that change something, and lets one go wrong.

    Args:
        at: which one goes wrong, from 1; 0 for none. Its name is ``operation`` then.
        kind: ``killed``: neither it nor any later one happens. ``refused``: it fails, as on a full disk or without
            rights; later ones work. ``unanswered``: it happens, and the connection breaks before that is known.
    """

    def __init__(self, at=0, kind="killed"):
        self.at, self.kind, self.count = at, kind, 0
        self.operation = ""

    def before(self, operation):
        """Called before each operation, with its name."""
        self.count += 1
        if self.count == self.at:
            self.operation = operation
        if self.at and self.kind == "killed" and self.count >= self.at:
            raise KilledError
        if self.kind == "refused" and self.count == self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def after(self):
        """Called after each operation."""
        if self.kind == "unanswered" and self.count == self.at:
            raise ConnectionError("connection reset")


_watched = None  # folder and its faults; a hook stays for good


def _hook(event, arguments):
    if _watched is None:
        return
    folder, faults = _watched
    if any(_inside(folder, path) for path in _changed(event, arguments)):
        faults.before(event)


def _changed(event, arguments):
    """Paths that an operation is about to change."""
    if event == "open":
        path, _, flags = arguments
        return [path] if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else []
    if event in ("os.rename", "os.link"):
        return [arguments[1]]
    if event in ("os.remove", "os.rmdir", "os.mkdir"):
        path, descriptor = arguments[0], arguments[-1]
        if descriptor != -1:  # deleting a tree: names are relative to an open folder
            return [os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), os.fspath(path))]
        # Neither changes anything: making what is there, and removing what is not.
        return [path] if os.path.lexists(path) != (event == "os.mkdir") else []
    return []


def _inside(folder, path):
    return not isinstance(path, int) and os.path.abspath(os.fspath(path)).startswith(folder)


@contextlib.contextmanager
def local_faults(folder: Path, faults: Faults):
    """Faults of every operation of this process that changes something under a folder."""
    global _watched
    if not getattr(sys, "_sscm_tests_watch", False):
        sys.addaudithook(_hook)
        sys._sscm_tests_watch = True
    _watched = (os.path.abspath(folder), faults)
    try:
        yield
    finally:
        _watched = None


@contextlib.contextmanager
def store_faults(monkeypatch, faults: Faults):
    """Faults of every request of this process that changes something in an object store."""
    call = s3fs.S3FileSystem._call_s3

    async def faulty(self, method, *args, **kwargs):
        if method not in PUTS:
            return await call(self, method, *args, **kwargs)
        faults.before(method)
        answer = await call(self, method, *args, **kwargs)
        faults.after()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_call_s3", faulty)
        yield
