"""One preview out of an archive shard."""

from __future__ import annotations

import pytest

from serve.preview import read_preview
from sscm.errors import IntegrityError, WorkspaceError
from sscm.workspace import ARCHIVE


def test_every_row_of_a_shard_gives_its_own_picture(indexed):
    shard = indexed.manifest.shards[0]
    table = indexed.workspace.parquet(ARCHIVE, shard.file).read()
    assert len(shard.row_groups) > 1
    for modality in ("s1", "s2"):
        expected = table[f"preview_{modality}"].to_pylist()
        assert [read_preview(indexed.workspace, shard.file, row, modality) for row in range(shard.rows)] == expected


def test_what_is_not_there_is_told(indexed):
    shard = indexed.manifest.shards[0]
    for row, modality in ((shard.rows, "s1"), (0, "s9")):
        with pytest.raises(IntegrityError, match=f"no preview_{modality} in row {row}"):
            read_preview(indexed.workspace, shard.file, row, modality)
    with pytest.raises(WorkspaceError, match="there is no such file"):
        read_preview(indexed.workspace, "shards/none.parquet", 0, "s1")
