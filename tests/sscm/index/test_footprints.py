"""Places and footprints around the antimeridian, against a world that is shown three times side by side."""

import json

import numpy as np
import pyarrow as pa
import pytest
import shapely
import shapely.affinity
from hypothesis import given, settings
from hypothesis import strategies as st

from sscm.errors import QueryError
from sscm.index.footprints import RELATIONS, box_place, geometry_place, related
from sscm.index.property_columns import columns_of
from sscm.index.segment import rows_schema


def cut(shape):
    """A shape that reaches beyond 180 degrees, as GeoJSON wants it: a MultiPolygon of what lies on either side."""
    east = shape.intersection(shapely.box(-180, -90, 180, 90))
    west = shapely.affinity.translate(shape.intersection(shapely.box(180, -90, 540, 90)), -360)
    return shapely.unary_union([east, west])


def wrapped(shape):
    """A shape as somebody writes it who takes each longitude into -180 to 180, cutting nothing."""
    return shapely.transform(shape, lambda points: np.where(points > [180, 90], points - [360, 0], points))


def bounds(shape):
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), shape.bounds, strict=True))


def crossing(shape):
    """Its bounding box by RFC 7946, section 5.2: west lies east of east."""
    west, south, east, north = shape.bounds
    return {"xmin": west, "ymin": south, "xmax": east - 360, "ymax": north}


def table_of(*footprints):
    items = [
        {
            "pair_id": f"p{number}",
            "split": "test",
            "geometry": None if shape is None else shapely.to_wkb(shape),
            "bbox": box,
            "archive_file": "",
            "archive_row": number,
        }
        for number, (shape, box) in enumerate(footprints)
    ]
    return pa.Table.from_pylist(items, rows_schema([]))


def found(table, relation, place):
    return related(columns_of(table), np.ones(table.num_rows, np.bool_), relation, place).tolist()


def ways(shape):
    """The ways in which a footprint that may cross the antimeridian is written down."""
    if shape.bounds[2] <= 180:
        return [(shape, bounds(shape))]
    both = [(cut(shape), bounds(cut(shape))), (cut(shape), crossing(shape)), (shape, bounds(shape))]
    return both if shape.bounds[0] >= 180 else [*both, (wrapped(shape), crossing(shape))]


WEST = st.integers(120, 250).map(lambda v: v + 0.25)
SIZES = st.integers(1, 60).map(lambda v: v / 2)
BOXES = st.builds(
    lambda west, south, width, height: (west, south, west + width, south + height),
    WEST,
    st.integers(-40, 40).map(float),
    SIZES,
    SIZES,
)


@settings(max_examples=300, deadline=None)
@given(footprint=BOXES, angle=st.integers(0, 44), query=BOXES)
def test_boxes_and_footprints_across_the_antimeridian(footprint, angle, query):
    shape = shapely.affinity.rotate(shapely.box(*footprint), angle)
    west, south, east, north = query
    box = [(west + 180) % 360 - 180, south, (east + 180) % 360 - 180, north]
    copies = [shapely.box(west + turn, south, east + turn, north) for turn in (-360, 0, 360)]
    touch = any(shape.intersects(copy) for copy in copies)
    inside = any(copy.contains(shape) for copy in copies)
    table = table_of(*ways(shape))
    for place in (
        box_place(box),
        geometry_place(json.loads(shapely.to_geojson(shapely.box(*query)))),
        geometry_place(json.loads(shapely.to_geojson(cut(shapely.box(*query))))),
    ):
        assert found(table, "intersects", place) == [touch] * table.num_rows
        assert found(table, "within", place) == [inside] * table.num_rows


@settings(max_examples=100, deadline=None)
@given(footprint=BOXES, query=BOXES)
def test_a_filter_of_few_rows_finds_what_one_of_all_does(footprint, query):
    shapes = [shapely.affinity.translate(shapely.box(*footprint), step - 200, 0) for step in range(0, 200, 5)]
    table = table_of(*((shape, bounds(shape)) for shape in shapes), (None, None))
    place = box_place([query[0] - 180, query[1], min(query[2] - 180, 180.0), query[3]])
    everything = related(columns_of(table), np.ones(41, np.bool_), "intersects", place)
    for row in range(41):
        candidates = np.arange(41) == row
        assert related(columns_of(table), candidates, "intersects", place)[row] == everything[row]
    assert not everything[40]


def test_every_relation_is_the_one_of_shapely():
    place = geometry_place(json.loads(shapely.to_geojson(shapely.box(0, 0, 4, 4))))
    shapes = [
        shapely.box(*corners)
        for corners in ((0, 0, 4, 4), (1, 1, 2, 2), (-1, -1, 5, 5), (4, 0, 6, 4), (2, 2, 6, 6), (8, 8, 9, 9))
    ] + [shapely.LineString([(-1, 2), (5, 2)])]
    table = table_of(*((shape, bounds(shape)) for shape in shapes))
    for relation in RELATIONS:
        wanted = [bool(getattr(shapely, relation)(shape, place.geometry)) for shape in shapes]
        assert found(table, relation, place) == wanted
        assert any(wanted)


def test_boxes_without_area_are_points_and_lines():
    table = table_of(*((shape, bounds(shape)) for shape in (shapely.box(0, 0, 2, 2), shapely.box(1, 1, 3, 3))))
    assert found(table, "intersects", box_place([0.5, 0.5, 0.5, 0.5])) == [True, False]
    assert found(table, "intersects", box_place([0.5, 1.5, 2.5, 1.5])) == [True, True]


@pytest.mark.parametrize("kind", ["Feature", "FeatureCollection", None])
def test_what_is_no_geometry(kind):
    with pytest.raises(QueryError, match=f"place is .*{kind or 'nowhere'}.*expected a GeoJSON geometry"):
        geometry_place({"type": kind} if kind else "nowhere", "place")
