"""Segments: what is written is read back, is named by its content, and shows what was altered."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sscm.errors import GenerationError, IntegrityError, QueryError, WorkspaceError
from sscm.index.segment import MAPPED_ROWS, ROWS, join_embeddings, open_segment, split_embeddings, write_segment
from sscm.workspace import open_workspace

MODALITIES = ["s1", "s2"]


@pytest.fixture
def written(workspace, rows_factory):
    rows, vectors = rows_factory([5, 3, 9, 1, 7], lacking={3})
    name, files = write_segment(workspace, rows, vectors)
    return name, files, rows, vectors


@pytest.fixture
def of_before(written):
    """The same without the files that versions before did not write."""
    name, files, *_ = written
    return name, {file: stored for file, stored in files.items() if file == ROWS or file.startswith("vectors")}


def folder(workspace, name):
    return Path(workspace.path_of("index", "segments", name))


def test_round_trip_in_the_order_of_pair_ids(workspace, written):
    name, files, rows, vectors = written
    segment = open_segment(workspace, name, files, MODALITIES)
    assert segment.name == name and len(segment) == 5 and segment.modalities == ("s1", "s2")
    assert segment.rows["pair_id"].to_pylist() == [f"pair_{n:04d}" for n in (1, 3, 5, 7, 9)]
    order = [3, 1, 0, 4, 2]
    assert segment.rows.equals(rows.take(order).replace_schema_metadata(segment.rows.schema.metadata))
    for modality in MODALITIES:
        np.testing.assert_array_equal(segment.vectors(modality), vectors[modality][order])
        assert not segment.vectors(modality).flags.writeable
    assert segment.has("s1").all()
    assert segment.has("s2").tolist() == [True, False, True, True, True]
    assert not segment.vectors("s2")[1].any()


def test_vectors_are_mapped_and_embedding_columns_are_not_read(workspace, written):
    name, files, *_ = written
    segment = open_segment(workspace, name, files, MODALITIES)
    base = segment.vectors("s1")
    while not isinstance(base, np.memmap):
        base = base.base
    assert Path(base.filename) == folder(workspace, name) / "vectors_s1.npy"
    assert not [column for column in segment.rows.column_names if column.startswith("embedding")]


def test_rows_are_a_geoparquet_file_with_the_embeddings(workspace, written):
    name, _, _, vectors = written
    file = pq.ParquetFile(folder(workspace, name) / ROWS)
    geo = json.loads(file.schema_arrow.metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["primary_column"] == "geometry"
    column = file.read()["embedding_s2"]
    assert str(column.type).startswith("fixed_size_list<") and column.type.list_size == 16
    assert column.to_pylist()[1] is None
    assert column.to_pylist()[0] == vectors["s2"][3].tolist()


def test_join_and_split(rows_factory):
    rows, vectors = rows_factory([2, 1, 8], lacking={1, 2})
    again, found = split_embeddings(join_embeddings(rows, vectors), MODALITIES)
    assert again.equals(rows)
    for modality in MODALITIES:
        np.testing.assert_array_equal(found[modality], vectors[modality])
    again, found = split_embeddings(join_embeddings(rows, vectors).slice(1, 2), MODALITIES)
    assert again.equals(rows.slice(1, 2))
    np.testing.assert_array_equal(found["s2"], vectors["s2"][1:])


def test_named_by_content(workspace, rows_factory, written):
    name, files, *_ = written
    rows, vectors = rows_factory([1, 3, 5, 7, 9], lacking={3})
    rows = rows.set_column(rows.schema.get_field_index("archive_row"), "archive_row", [[3, 1, 0, 4, 2]])
    rows = rows.cast(written[2].schema)
    assert write_segment(workspace, rows, vectors) == (name, files)
    vectors["s1"][2, 3] = np.nextafter(vectors["s1"][2, 3], np.float32(2))
    assert write_segment(workspace, rows, vectors)[0] != name


def test_find_and_slice(workspace, written):
    name, files, *_ = written
    segment = open_segment(workspace, name, files, MODALITIES)
    ids = segment.rows["pair_id"].to_pylist()
    assert [segment.find(pair_id) for pair_id in ids] == [0, 1, 2, 3, 4]
    assert [segment.find(text) for text in ("", "pair_0004", "zebra")] == [None] * 3
    part = segment.slice(1, 4)
    assert len(part) == 3 and part.find("pair_0005") == 1 and part.find("pair_0001") is None
    np.testing.assert_array_equal(part.vectors("s2"), segment.vectors("s2")[1:4])
    assert part.has("s2").tolist() == [False, True, True]
    with pytest.raises(QueryError, match=r"'s3'.*\['s1', 's2'\]"):
        segment.vectors("s3")
    with pytest.raises(QueryError, match="'s3'"):
        segment.has("s3")


def test_a_pair_that_occurs_twice(workspace, rows_factory):
    with pytest.raises(GenerationError, match=r"1 pair ids occur more than once \(pair_0002\)"):
        write_segment(workspace, *rows_factory([1, 2, 3, 2]))


@pytest.mark.parametrize("kind", ["vectors_s1", "vectors_s2", "scan_s1", "scan_s2", MAPPED_ROWS, ROWS])
def test_missing_cut_short_and_altered(workspace, written, kind):
    name, files, *_ = written
    (file,) = [file for file in files if file.startswith(kind)]
    path = folder(workspace, name) / file
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match=f"{file} has {len(content) - 1} bytes; its manifest says {len(content)}"):
        open_segment(workspace, name, files, MODALITIES, verify=False)
    if kind != ROWS:  # which a search does not read
        path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
        with pytest.raises(IntegrityError, match=f"{file} was altered"):
            open_segment(workspace, name, files, MODALITIES)
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{file} is missing"):
        open_segment(workspace, name, files, MODALITIES)
    path.write_bytes(content)
    assert len(open_segment(workspace, name, files, MODALITIES)) == 5


def test_files_of_another_kind_under_a_right_checksum(workspace, written):
    name, files, *_ = written
    for file in files:
        content = workspace.read_bytes("index", "segments", name, file)
        stored = workspace.write_bytes(b"something else", "index", "segments", name, file)
        if file != ROWS:
            with pytest.raises(IntegrityError, match=f"{file} is not a whole"):
                open_segment(workspace, name, {**files, file: stored}, MODALITIES)
        workspace.write_bytes(content, "index", "segments", name, file)


def test_segments_that_versions_before_wrote(workspace, written, of_before):
    name, files = of_before
    segment, now = (
        open_segment(workspace, name, files, MODALITIES),
        open_segment(workspace, name, written[1], MODALITIES),
    )
    assert segment.rows.equals(now.rows) and not segment.forms and set(now.forms) == {"s1", "s2"}
    path = folder(workspace, name) / ROWS
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(IntegrityError, match=f"{ROWS} was altered"):
        open_segment(workspace, name, files, MODALITIES)
    stored = workspace.write_bytes(b"not Parquet", "index", "segments", name, ROWS)
    with pytest.raises(IntegrityError, match=f"{ROWS} is not a whole"):
        open_segment(workspace, name, {**files, ROWS: stored}, MODALITIES)


def test_deleted_rows(workspace, written):
    name, files, *_ = written
    segment = open_segment(workspace, name, files, MODALITIES, deleted=np.array([0, 2], np.uint32))
    assert segment.live == 3 and segment.has("s2").tolist() == [False, False, False, True, True]
    assert segment.find("pair_0001") is None and segment.find("pair_0003") == 1
    assert segment.slice(1, 4).has("s1").tolist() == [True, False, True]
    with pytest.raises(IntegrityError, match="has 5 rows; its tombstones name row 5"):
        open_segment(workspace, name, files, MODALITIES, deleted=np.array([5], np.uint32))


def test_vectors_of_another_count(workspace, rows_factory, written):
    name, files, *_ = written
    other, others = write_segment(workspace, *rows_factory([1, 2]))
    content = workspace.read_bytes("index", "segments", other, "vectors_s1.npy")
    workspace.write_bytes(content, "index", "segments", name, "vectors_s1.npy")
    mixed = {**files, "vectors_s1.npy": dataclasses.replace(others["vectors_s1.npy"])}
    with pytest.raises(IntegrityError, match="2 vectors for 5 rows"):
        open_segment(workspace, name, mixed, MODALITIES)


def test_a_workspace_that_cannot_be_written(tmp_path, rows_factory):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkspaceError, match="cannot write"):
        write_segment(open_workspace(str(tmp_path / "file")), *rows_factory([1, 2]))
