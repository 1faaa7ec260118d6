"""Row groups read straight from plain pages, and all that is left to Arrow."""

import dataclasses
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sscm.archive import plain_pages
from sscm.archive.order import Piece
from sscm.archive.plain_pages import NotPlainError, PlainRowGroup
from sscm.sensors import sentinel2

GROUP = next(group for group in sentinel2(24).groups if group.name == "s2_20m")
ROWS = 8


def table_of(seed=0, missing=()):
    rng = np.random.default_rng(seed)
    values = [None if row in missing else rng.bytes(GROUP.nbytes) for row in range(ROWS)]
    ids = pa.field("pair_id", pa.string(), nullable=False)
    schema = pa.schema([ids, pa.field(GROUP.name, pa.binary(GROUP.nbytes))])
    return pa.table([[f"pair {row} é{'x' * row}" for row in range(ROWS)], values], schema=schema)


def write(path, tables, **options):
    settings = {"compression": "none", "use_dictionary": False, "write_statistics": False, **options}
    with pq.ParquetWriter(path, tables[0].schema, **settings) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=len(table))
    return str(path)


def piece(number=0, rows=ROWS, complete=None):
    return Piece("shards/x.parquet", number, rows, rows if complete is None else complete)


def expected(table):
    data = b"".join(table[GROUP.name].to_pylist())
    return np.frombuffer(data, GROUP.numpy_dtype).reshape(ROWS, *GROUP.shape)


def read(path, which):
    with PlainRowGroup(path, which) as row_group:
        return row_group.ids(), row_group.images(GROUP).copy()


@pytest.mark.parametrize("options", [{}, {"write_page_checksum": True}, {"store_schema": False}])
def test_values_are_those_that_arrow_reads(tmp_path, options):
    tables = [table_of(0), table_of(1)]
    path = write(tmp_path / "x.parquet", tables, **options)
    for number, table in enumerate(tables):
        ids, images = read(path, piece(number))
        assert ids == table["pair_id"].to_pylist()
        assert images.dtype == GROUP.numpy_dtype and np.array_equal(images, expected(table))


def test_columns_that_are_not_nullable_have_no_levels(tmp_path):
    table = table_of()
    strict = pa.schema([field.with_nullable(False) for field in table.schema])
    path = write(tmp_path / "x.parquet", [table.cast(strict)])
    assert np.array_equal(read(path, piece())[1], expected(table))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"data_page_size": 4 * GROUP.nbytes, "write_batch_size": 2},
        {"data_page_version": "2.0"},
        {"column_encoding": {GROUP.name: "BYTE_STREAM_SPLIT"}},
        {"write_statistics": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_storage_is_left_to_arrow(tmp_path, options):
    path = write(tmp_path / "x.parquet", [table_of()], **options)
    try:
        _, images = read(path, piece())
    except NotPlainError:
        return
    assert options.keys() <= {"write_statistics"}  # which may stand in the footer alone
    assert np.array_equal(images, expected(table_of()))


@pytest.mark.parametrize("missing", [(0,), (ROWS - 1,), range(ROWS)])
def test_nulls_are_left_to_arrow_whatever_the_manifest_says(tmp_path, missing):
    path = write(tmp_path / "x.parquet", [table_of(missing=missing)])
    with pytest.raises(NotPlainError, match="nulls"):
        read(path, piece())
    with pytest.raises(NotPlainError, match="lacks"):
        read(path, piece(complete=ROWS - len(missing)))


def test_what_the_manifest_does_not_know_is_left_to_arrow(tmp_path):
    path = write(tmp_path / "x.parquet", [table_of()])
    with pytest.raises(NotPlainError, match="no such row group"):
        read(path, piece(1))
    with pytest.raises(NotPlainError, match="other rows"):
        read(path, piece(rows=ROWS + 1))
    with PlainRowGroup(path, piece()) as row_group, pytest.raises(NotPlainError, match="no such column"):
        row_group.images(dataclasses.replace(GROUP, name="s9"))


def test_a_file_cut_short_or_of_something_else_is_left_to_arrow(tmp_path):
    path = write(tmp_path / "x.parquet", [table_of()])
    assert read(path, piece())
    with open(path, "r+b") as file:
        file.truncate(GROUP.nbytes)
    with pytest.raises(NotPlainError, match="not a whole Parquet file"):
        read(path, piece())
    with pytest.raises(FileNotFoundError):
        read(str(tmp_path / "y.parquet"), piece())


def test_values_of_another_length_are_left_to_arrow(tmp_path):
    twice = dataclasses.replace(GROUP, height=2 * GROUP.height)
    rows = [bytes(twice.nbytes) if row % 2 else None for row in range(ROWS)]  # as many bytes as there should be
    table = table_of().set_column(
        1, pa.field(GROUP.name, pa.binary(twice.nbytes)), pa.array(rows, pa.binary(twice.nbytes))
    )
    path = write(tmp_path / "x.parquet", [table])
    with pytest.raises(NotPlainError, match="not a plain column"):
        read(path, piece())


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    path = write(tmp_path / "x.parquet", [table_of(0)])
    first = read(path, piece())[1]
    os.replace(write(tmp_path / "y.parquet", [table_of(1)]), path)
    assert np.array_equal(read(path, piece())[1], expected(table_of(1)))
    assert not np.array_equal(first, expected(table_of(1)))


def test_footers_that_are_kept_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_pages, "FOOTERS", 2)
    for number in range(4):
        read(write(tmp_path / f"{number}.parquet", [table_of()]), piece())
    assert len(plain_pages._footers) == 2


def test_a_page_header_of_other_types_is_left_to_arrow():
    for data in (b"", b"\x15\x00", b"\x18\x01a\x00", b"\x15" + b"\xff" * 3, b"\x1c" * 5000):
        with pytest.raises(NotPlainError):
            plain_pages._values_at(data, 100, 1, levels=True)
