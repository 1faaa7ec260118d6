"""Previews from the archive: one cell of one row group of a shard."""

from __future__ import annotations

from sscm.errors import IntegrityError
from sscm.workspace import ARCHIVE, Workspace


def read_preview(workspace: Workspace, file: str, row: int, modality: str) -> bytes | None:
    """The small picture that an archive shard keeps of an image.

    Args:
        workspace: where the archive is.
        file: the shard, relative to ``archive/``.
        row: row of the pair in it.
        modality: modality of the image.

    Returns:
        JPEG bytes, or None where the pair has no such picture.

    Raises:
        WorkspaceError: the shard is not there or cannot be read.
        IntegrityError: it has fewer rows, or no previews of that modality.
    """
    column = f"preview_{modality}"
    shard = workspace.parquet(ARCHIVE, file)
    try:
        first = 0
        for group in range(shard.num_row_groups):
            rows = shard.metadata.row_group(group).num_rows
            if row < first + rows:
                if column not in shard.schema_arrow.names:
                    break
                value: bytes | None = shard.read_row_group(group, columns=[column])[column][row - first].as_py()
                return value
            first += rows
    finally:
        shard.close()
    raise IntegrityError(
        f"{workspace.uri_of(ARCHIVE, file)}: no {column} in row {row}; the archive is not the one indexed"
    )
