"""Tables of image files: cells, lists, splits and what becomes a property."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from sscm.archive.sources.base import split_by_hash
from sscm.archive.sources.declaration import read_declaration
from sscm.archive.sources.table import plan_rows, read_rows
from sscm.errors import ArchiveError


@pytest.fixture
def modalities(tmp_path):
    (tmp_path / "m.toml").write_text('[s1.groups.s1]\nbands = ["VV"]\ndtype = "uint8"\nunit = "1"\n')
    return read_declaration(str(tmp_path / "m.toml"))


def test_csv_with_byte_order_mark_and_quotes(tmp_path, modalities):
    (tmp_path / "t.csv").write_bytes(
        b'\xef\xbb\xbfpair_id,s1,labels,note\r\na," x.tif; y.tif ","Beaches, dunes, sands|Sea",\r\n'
    )
    rows = read_rows(str(tmp_path / "t.csv"))
    (ref,) = plan_rows("t.csv", rows, modalities)
    assert (ref.key, ref.split) == ("a", split_by_hash("a"))
    assert ref.args["files"] == {"s1": ["x.tif", "y.tif"]}
    assert ref.args["labels"] == ["Beaches, dunes, sands", "Sea"] and ref.args["properties"] == {}


def test_parquet_keeps_lists_times_and_footprints(tmp_path, modalities):
    footprint = shapely.to_wkb(shapely.box(1, 2, 3, 4))
    row = {
        "pair_id": 7,
        "s1": ["x.tif", "y.tif"],
        "labels": ["a;b", "c"],
        "s1_datetime": datetime(2020, 1, 2, tzinfo=UTC),
        "geometry": footprint,
        "cloudy": True,
        "split": "test",
    }
    pq.write_table(pa.Table.from_pylist([row, {**row, "pair_id": 8, "labels": None}]), tmp_path / "t.parquet")
    first, second = plan_rows("t.parquet", read_rows(str(tmp_path / "t.parquet")), modalities)
    assert (first.key, first.split) == ("7", "test")
    assert first.args["files"] == {"s1": ["x.tif", "y.tif"]}
    assert first.args["labels"] == ["a;b", "c"] and second.args["labels"] is None
    assert first.args["times"] == {"s1": "2020-01-02T00:00:00+00:00"}
    assert bytes.fromhex(first.args["geometry"]) == footprint
    assert first.args["properties"] == {"cloudy": "true"}


def test_rows_that_cannot_be_used_keep_a_key_of_their_own(modalities):
    rows = [{"pair_id": key, "s1": "x.tif"} for key in ("a", "a", "", None, "a")]
    refs = plan_rows("t.parquet", rows, modalities)
    assert len({ref.key for ref in refs}) == 5
    assert [("fault" in ref.args) for ref in refs] == [False, True, True, True, True]
    assert refs[1].args["fault"] == ["t.parquet, row 2", "pair_id a as in row 1", "each pair_id once"]


def test_text_that_is_no_table(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"pair_id,s1\n\xff\xfe,x\n")
    with pytest.raises(ArchiveError, match=r"cannot be read as a table .*expected CSV \(UTF-8\) or Parquet"):
        read_rows(str(tmp_path / "t.csv"))
