"""Filters against a loop that decides row by row."""

import dataclasses
import json
import pickle
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import shapely
import shapely.affinity

from sscm.errors import QueryError
from sscm.index.filters import Filter
from sscm.index.segment import rows_schema

LABELS = ["Arable land", "Pastures", "Inland waters"]
START = datetime(2018, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def items():
    """Rows as dictionaries: turned footprints around the world, some without footprint, time or labels."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(400):
        west, south = rng.uniform(-180, 178), rng.uniform(-80, 78)
        box = shapely.affinity.rotate(shapely.box(west + 0.5, south + 0.5, west + 1.5, south + 1.5), rng.uniform(0, 90))
        geometry = None if number % 17 == 0 else box
        bounds = None if geometry is None else dict(zip(("xmin", "ymin", "xmax", "ymax"), geometry.bounds, strict=True))
        chosen = [label for label in LABELS if rng.random() < 0.3]
        made.append(
            {
                "pair_id": f"p{number:03d}",
                "split": ("train", "validation", "test")[number % 3],
                "labels": None if number % 11 == 0 else chosen,
                "geometry": None if geometry is None else shapely.to_wkb(geometry),
                "bbox": bounds,
                "s1_datetime": None if number % 13 == 0 else START + timedelta(hours=number),
                "s2_datetime": None if number % 7 == 0 else START + timedelta(hours=number + 100),
                "properties": [],
                "has_s1": True,
                "has_s2": True,
                "archive_file": "shards/a.parquet",
                "archive_row": number,
            }
        )
    return made


@pytest.fixture(scope="module")
def rows(items):
    return pa.Table.from_pylist(items, rows_schema(["s1", "s2"]))


def check(rows, items, chosen, passes, modality=None):
    wanted = np.array([passes(item) for item in items])
    found = chosen.bitmap(rows, modality)
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, wanted)
    assert 0 < wanted.sum() < len(items)


def footprint(item):
    return None if item["geometry"] is None else shapely.from_wkb(item["geometry"])


@pytest.mark.parametrize(
    "bbox", [(-60, -40, 80, 60), (10, -80, 12, 80), (150, -50, -120, 70), (170, -90, -170.5, 90), (-180, 0, 180, 90)]
)
def test_bbox(rows, items, bbox):
    west, south, east, north = bbox
    parts = [(west, east)] if west <= east else [(west, 180), (-180, east)]
    boxes = [shapely.box(low, south, high, north) for low, high in parts]

    def passes(item):
        shape = footprint(item)
        return shape is not None and any(shape.intersects(box) for box in boxes)

    check(rows, items, Filter(bbox=list(bbox)), passes)


def test_bbox_does_not_count_a_footprint_whose_corner_alone_is_empty():
    diamond = shapely.Polygon([(1, 0), (2, 1), (1, 2), (0, 1)])
    row = {
        "pair_id": "a",
        "split": "train",
        "geometry": shapely.to_wkb(diamond),
        "bbox": {"xmin": 0.0, "ymin": 0.0, "xmax": 2.0, "ymax": 2.0},
        "archive_file": "",
        "archive_row": 0,
    }
    table = pa.Table.from_pylist([row], rows_schema([]))
    assert not Filter(bbox=[-1, -1, 0.2, 0.2]).bitmap(table)[0]
    assert Filter(bbox=[-1, -1, 0.2, 1.0]).bitmap(table)[0]


@pytest.mark.parametrize(
    "shape",
    [
        shapely.Point(20, 10).buffer(40),
        shapely.MultiPolygon([shapely.box(-100, -50, -60, 0), shapely.box(30, 30, 90, 60)]),
        shapely.LineString([(-170, -70), (170, 70)]),
        shapely.GeometryCollection([shapely.box(0, 0, 60, 60), shapely.LineString([(-100, 0), (-40, 10)])]),
    ],
)
def test_intersects(rows, items, shape):
    def passes(item):
        where = footprint(item)
        parts = shape.geoms if hasattr(shape, "geoms") else [shape]
        return where is not None and any(where.intersects(part) for part in parts)

    check(rows, items, Filter(intersects=json.loads(shapely.to_geojson(shape))), passes)


DAY_3, DAY_9 = (datetime(2018, 6, day, tzinfo=UTC) for day in (3, 9))
EVER, NEVER = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("2018-06-06T00:00:00Z", datetime(2018, 6, 6, tzinfo=UTC), datetime(2018, 6, 6, tzinfo=UTC)),
        ("2018-06-03T02:00:00+02:00/2018-06-09T00:00:00Z", DAY_3, DAY_9),
        ("../2018-06-09T00:00:00Z", EVER, DAY_9),
        ("/2018-06-09T00:00:00Z", EVER, DAY_9),
        ("2018-06-09t00:00:00.5z/..", DAY_9 + timedelta(seconds=0.5), NEVER),
        ("2018-06-09T00:00:00Z/", DAY_9, NEVER),
    ],
)
@pytest.mark.parametrize("modality", ["s1", "s2", None])
def test_datetime(rows, items, text, low, high, modality):
    def passes(item):
        names = ["s1", "s2"] if modality is None else [modality]
        times = [item[f"{name}_datetime"] for name in names]
        return any(time is not None and low <= time <= high for time in times)

    check(rows, items, Filter(datetime=text), passes, modality)


def test_ids_labels_split_and_all_together(rows, items):
    check(rows, items, Filter(ids=["p003", "p200", "nowhere"]), lambda i: i["pair_id"] in ("p003", "p200"))
    wanted = {"Pastures", "Inland waters"}
    check(rows, items, Filter(labels=sorted(wanted)), lambda i: bool(wanted & set(i["labels"] or [])))
    check(rows, items, Filter(split="test"), lambda i: i["split"] == "test")

    def passes(item):
        shape = footprint(item)
        return (
            item["split"] == "train"
            and "Pastures" in (item["labels"] or [])
            and item["s2_datetime"] is not None
            and item["s2_datetime"] >= START + timedelta(days=7)
            and shape is not None
            and shape.intersects(shapely.box(-120, -70, 150, 70))
        )

    chosen = Filter(split="train", labels=["Pastures"], datetime="2018-06-08T00:00:00Z/..", bbox=[-120, -70, 150, 70])
    check(rows, items, chosen, passes, "s2")


def test_heights_of_a_box_do_not_matter(rows):
    flat = Filter(bbox=[-60, -40, 80, 60])
    np.testing.assert_array_equal(Filter(bbox=[-60, -40, 0, 80, 60, 900]).bitmap(rows), flat.bitmap(rows))


def test_ids_are_looked_up_in_sorted_rows_and_found_in_any(rows, items):
    wanted = [f"p{n:03d}" for n in range(0, 600, 3)]
    check(rows, items, Filter(ids=wanted), lambda i: i["pair_id"] in wanted)
    turned = rows.take(pa.array(range(399, -1, -1)))
    np.testing.assert_array_equal(Filter(ids=wanted).bitmap(turned), Filter(ids=wanted).bitmap(rows)[::-1])
    np.testing.assert_array_equal(Filter(ids=["p000"]).bitmap(turned), np.arange(400) == 399)


def test_filters_that_say_the_same_are_equal_and_travel(rows):
    one = Filter(ids=["b", "a", "a"], bbox=[1, 2, 3, 4], filter="split = 'test' AND id > 'p1'")
    tree = {"op": "=", "args": [{"property": "split"}, "test"]}
    other = Filter(
        ids=("a", "b"),
        bbox=(1.0, 2.0, 3.0, 4.0),
        filter={"op": "AND", "args": [tree, {"op": ">", "args": [{"property": "id"}, "p1"]}]},
        filter_lang="cql2-json",
    )
    assert one == other and hash(one) == hash(other) and one.key() == other.key()
    assert len({one, other, Filter(), Filter(ids=[]), Filter(labels=[]), Filter(split="test")}) == 5
    assert one != "split" and dataclasses.replace(one, split="test") != one
    place = Filter(intersects={"type": "Point", "coordinates": [20, 44]}, filter="s_within(geometry, BBOX(0,0,9,9))")
    again = pickle.loads(pickle.dumps(place))
    assert again == place
    np.testing.assert_array_equal(again.bitmap(rows), place.bitmap(rows))


def test_what_is_given_may_change_afterwards(rows):
    ids, tree = ["p001"], {"op": "=", "args": [{"property": "id"}, "p001"]}
    chosen = Filter(ids=ids, filter=tree)
    key = chosen.key()
    ids.append("p002")
    tree["args"][1] = "p002"
    assert chosen.key() == key and chosen.ids == ("p001",)
    assert np.flatnonzero(chosen.bitmap(rows)).tolist() == [1]


def test_properties_are_known_by_the_whole_index_s_names(rows):
    chosen = Filter(filter="cloud < 10 AND s1_datetime IS NOT NULL OR NOT cloud >= 10")
    assert chosen.properties() == ("cloud", "s1_datetime")
    assert Filter(split="test").properties() == ()
    with pytest.raises(QueryError, match="'cloud' is unknown; known are datetime, geometry, id, labels, pair_id, s1_"):
        chosen.bitmap(rows)
    assert not chosen.bitmap(rows, known=["cloud"]).any()
    chosen.require_known({"cloud"}, ["s1"])
    with pytest.raises(QueryError, match=r"'s1_datetime' is unknown.*, source:split, split$"):
        chosen.require_known({"cloud", "split"}, ["s2"])
    with pytest.raises(QueryError, match=r"and 70 more$"):
        chosen.require_known({f"p{n}" for n in range(102)}, ["s1", "s2"])


def test_slices_no_rows_and_nothing_asked(rows):
    everything = Filter().bitmap(rows)
    assert everything.all() and len(everything) == 400
    chosen = Filter(labels=["Pastures"], bbox=[-90, -80, 90, 80], datetime="2018-06-03T00:00:00Z/..")
    np.testing.assert_array_equal(chosen.bitmap(rows.slice(50, 100)), chosen.bitmap(rows)[50:150])
    assert chosen.bitmap(rows.slice(0, 0)).shape == (0,)
    assert not Filter(ids=[]).bitmap(rows).any()
    assert not Filter(labels=[]).bitmap(rows).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bbox": [0, 0, 1, 1, 1]}, "four numbers, or six"),
        ({"bbox": [0, 0, 9, 1, 1, 1]}, "lowest height is above the highest"),
        ({"intersects": {"type": "Point", "coordinates": [445000, 44]}}, "longitude 445000; expected degrees"),
        ({"filter": "a ="}, "column 4"),
        ({"bbox": "1,2,3,4"}, "four numbers|finite"),
        ({"bbox": [0, 0, float("nan"), 1]}, "finite"),
        ({"bbox": [0, 10, 5, 1]}, "south is north"),
        ({"bbox": [0, 0, 181, 1]}, "-180 to 180"),
        ({"bbox": [0, 0, 1, 1], "intersects": {"type": "Point", "coordinates": [0, 0]}}, "one of them"),
        ({"intersects": {"type": "Pyramid"}}, "cannot be read"),
        ({"intersects": {"type": "Feature", "properties": {}, "geometry": None}}, "Feature"),
        ({"intersects": {"type": "Polygon", "coordinates": []}}, "empty"),
        ({"intersects": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}}, "not a valid"),
        ({"intersects": "POINT (0 0)"}, "POINT.*expected a GeoJSON geometry"),
        ({"datetime": "2018-06-03"}, "RFC 3339"),
        ({"datetime": "2018-06-03T00:00:00"}, "RFC 3339"),
        ({"datetime": "2018-13-03T00:00:00Z"}, "cannot be read"),
        ({"datetime": "../.."}, "RFC 3339"),
        ({"datetime": ".."}, "RFC 3339"),
        ({"datetime": "2018-06-03T00:00:00Z/2018-06-02T00:00:00Z"}, "ends before it starts"),
        ({"datetime": "0001-01-01T00:00:00+14:00"}, "cannot be read"),
        ({"ids": "p001"}, "list of strings"),
        ({"labels": [1]}, "list of strings"),
        ({"split": "dev"}, "train, validation, test"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(QueryError, match=message):
        Filter(**values)


def test_times_of_an_unknown_modality(rows):
    with pytest.raises(QueryError, match=r"'s3'.*\['s1', 's2'\]"):
        Filter(datetime="2018-06-03T00:00:00Z").bitmap(rows, "s3")
