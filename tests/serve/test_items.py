"""Rows as STAC Items."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pyarrow as pa
import pytest
import shapely

from serve.items import item_path, scored, stac_items
from sscm.index.segment import rows_schema

TITLES = {"s1": "Sentinel-1", "s2": "Sentinel-2"}
EARLY, LATE = datetime(2018, 6, 1, 4, 30, tzinfo=UTC), datetime(2018, 6, 1, 10, tzinfo=UTC)


def rows(**changes):
    row = {
        "pair_id": "a/b ü",
        "split": "test",
        "labels": ["Pastures"],
        "geometry": shapely.to_wkb(shapely.box(20, 44, 20.5, 44.25)),
        "bbox": {"xmin": 20.0, "ymin": 44.0, "xmax": 20.5, "ymax": 44.25},
        "s1_datetime": LATE,
        "s2_datetime": EARLY,
        "properties": [("country", "Serbia"), ("score", "7"), ("datetime", "sometime")],
        "has_s1": True,
        "has_s2": True,
        "archive_file": "shards/x.parquet",
        "archive_row": 3,
        **changes,
    }
    return pa.Table.from_pylist([row], schema=rows_schema(["s1", "s2"]))


def items_of(table, numbers=(0,)):
    return [orjson.loads(item) for item in stac_items(table, numbers, TITLES)]


def test_an_item_is_stac_1_1():
    [item] = items_of(rows())
    assert item["type"] == "Feature"
    assert item["stac_version"] == "1.1.0"
    assert item["id"] == "a/b ü"
    assert item["bbox"] == [20.0, 44.0, 20.5, 44.25]
    assert shapely.geometry.shape(item["geometry"]).equals(shapely.box(20, 44, 20.5, 44.25))
    assert item["properties"] == {
        "country": "Serbia",
        "source:score": "7",
        "source:datetime": "sometime",
        "datetime": "2018-06-01T04:30:00Z",
        "start_datetime": "2018-06-01T04:30:00Z",
        "end_datetime": "2018-06-01T10:00:00Z",
        "labels": ["Pastures"],
        "split": "test",
    }
    preview = item["assets"]["preview_s1"]
    assert preview["href"] == "/v1/items/a%2Fb%20%C3%BC/preview/s1"
    assert preview["datetime"] == "2018-06-01T10:00:00Z"
    assert {link["rel"] for link in item["links"]} == {"self", "related"}


def test_a_missing_image_has_no_asset_and_one_time_no_interval():
    [item] = items_of(rows(has_s1=False, s1_datetime=None))
    assert list(item["assets"]) == ["preview_s2"]
    assert item["properties"]["datetime"] == "2018-06-01T04:30:00Z"
    assert "start_datetime" not in item["properties"]


def test_what_is_unknown_is_null_and_bbox_is_left_out():
    table = rows(geometry=None, bbox=None, labels=None, s1_datetime=None, s2_datetime=None, properties=None)
    [item] = items_of(table)
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["properties"] == {"datetime": None, "labels": None, "split": "test"}


def test_items_come_in_the_order_asked_for():
    table = pa.concat_tables([rows(pair_id=name) for name in "abc"])
    assert [item["id"] for item in items_of(table, [2, 0])] == ["c", "a"]


def test_a_fraction_of_a_second_is_told_where_there_is_one():
    half = datetime(2018, 6, 1, 4, 30, 0, 500_000, tzinfo=UTC)
    [item] = items_of(rows(s2_datetime=half))
    assert item["assets"]["preview_s2"]["datetime"] == item["properties"]["datetime"] == "2018-06-01T04:30:00.500000Z"


@pytest.mark.parametrize("properties", [[("country", "Serbia")], None])
def test_score_and_target_are_added_and_nothing_else_changes(properties):
    [item] = stac_items(rows(properties=properties), [0], TITLES)
    plain, found = orjson.loads(item), orjson.loads(scored(item, 0.1234567890123, "s2"))
    assert found["properties"] == {**plain["properties"], "score": 0.1234567890123, "target": "s2"}
    assert {**found, "properties": None} == {**plain, "properties": None}
    again = orjson.loads(scored(item, -1.0, 's"9'))
    assert (again["properties"]["score"], again["properties"]["target"]) == (-1.0, 's"9')


def test_a_source_s_own_score_and_target_are_told_apart_from_ours():
    [item] = stac_items(rows(properties=[("target", "x"), ("score", "7"), ("labels", "y")]), [0], TITLES)
    found = orjson.loads(scored(item, 0.5, "s1"))["properties"]
    assert (found["source:target"], found["source:score"], found["source:labels"]) == ("x", "7", "y")
    assert (found["target"], found["score"], found["labels"]) == ("s1", 0.5, ["Pastures"])


def test_ids_are_quoted_whole():
    assert item_path("x/y?z") == "/v1/items/x%2Fy%3Fz"
