"""Where an export goes: staged under another name, then put in its place, whole or not at all.

A local target is renamed. An object store renames nothing: there the STAC Collection is copied last, and while there is
none, there is no export.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sscm.errors import WorkspaceError
from sscm.retries import retrying
from sscm.storage_errors import storage_errors
from sscm.workspace import Workspace, open_workspace

FILE = ".parquet"
"""How the name of a target ends that is one file."""
COLLECTION = ".collection.json"

_PART = re.compile(r"part-\d{5,}\.parquet")


def part_name(number: int) -> str:
    """Name of a Parquet file in a folder of them, from 0."""
    return f"part-{number:05d}{FILE}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A file or a folder of files, and a STAC Collection beside it.

    Args:
        folder: what they lie in.
        name: of the file or folder.
    """

    folder: Workspace
    name: str

    @classmethod
    def of(cls, target: str) -> Target:
        """Of a path or URI.

        Raises:
            WorkspaceError: an unknown scheme, or no place beside which something could lie.
        """
        opened = open_workspace(target)
        scheme, _, path = opened.uri.partition("://")
        parent, _, name = path.rstrip("/").rpartition("/")
        if opened.is_local:
            parent = parent or "/."  # the root of the file system, which has no name
        if not name or not parent:
            raise WorkspaceError(f"{target}: expected a file or folder inside of it, e.g. {target.rstrip('/')}/export")
        return cls(folder=Workspace(f"{scheme}://{parent}", opened.storage_options), name=name)

    @property
    def is_file(self) -> bool:
        """Whether it is one file."""
        return self.name.endswith(FILE)

    @property
    def collection(self) -> str:
        """Name of the STAC Collection beside it."""
        return self.name.removesuffix(FILE) + COLLECTION

    def inside(self, file: str) -> str:
        """A Parquet file relative to where the Collection lies."""
        return file if self.is_file else f"{self.name}/{file}"

    def require_free(self, overwrite: bool) -> None:
        """Check that nothing is in the way but what may be overwritten, and that the place can be written.

        Raises:
            WorkspaceError: an export is there and may not be overwritten; something else is; or the place is not
                writable.
        """
        where = self.folder.uri_of(self.name)
        present = [name for name in (self.name, self.collection) if self.folder.exists(name)]
        if self.name in present:
            with storage_errors("look at", where):
                is_folder = bool(self.folder.fs.isdir(self.folder.path_of(self.name)))
            if is_folder == self.is_file:
                wanted = f"a file, whose name ends in {FILE}" if self.is_file else "a folder"
                raise WorkspaceError(f"{where} is {'a folder' if is_folder else 'a file'}; expected {wanted}")
            held = self.folder.names(self.name) if is_folder else [self.name]
            others = [name for name in held if is_folder and not _PART.fullmatch(name)]
            if others:
                raise WorkspaceError(
                    f"{where} holds what no export has written ({', '.join(others[:3])}); choose another folder"
                )
            if not held:
                present.remove(self.name)
        if present and not overwrite:
            raise WorkspaceError(
                f"{self.folder.uri_of(present[0])} is there already; choose another target, or --overwrite it"
            )
        self.folder.require_writable()

    @contextlib.contextmanager
    def staging(self) -> Iterator[Workspace]:
        """A hidden folder beside the target; gone after the block with all that is still in it."""
        staging = self.folder.child(f".{self.name}.{os.getpid()}-{time.time_ns()}.part")
        try:
            yield staging
        finally:
            staging.delete()

    def publish(self, staging: Workspace, files: Sequence[str]) -> None:
        """Put what is staged in its place, and what was there before away.

        Args:
            staging: has the same names in it.
            files: the Parquet files, relative to the staging folder.

        Raises:
            WorkspaceError: it cannot be written; a local target is then as it was, an object store's is gone.
        """
        if self.folder.is_local:
            with storage_errors("write", self.folder.uri_of(self.name)):
                self._rename(Path(staging.path_of()))
            return
        self._clear()
        try:
            for name in (*files, self.collection):
                source, copy = staging.path_of(name), self.folder.path_of(name)
                with storage_errors("write", self.folder.uri_of(name)):
                    retrying(lambda source=source, copy=copy: self.folder.fs.copy(source, copy))  # type: ignore[misc]
        except BaseException:
            self._clear()
            raise

    def _clear(self) -> None:
        for name in (self.collection, self.name):
            self.folder.delete(name)

    def _rename(self, staging: Path) -> None:
        with contextlib.ExitStack() as undo:
            for name in (self.name, self.collection):
                place, staged, replaced = staging.parent / name, staging / name, staging / f"{name}.replaced"
                if place.exists():
                    place.rename(replaced)
                    undo.callback(replaced.rename, place)
                staged.rename(place)
                undo.callback(place.rename, staged)
            undo.pop_all()
