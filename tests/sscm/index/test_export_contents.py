"""Contents: what some rows hold, added up in any order, is what all of them hold."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
import shapely

from sscm.index.export_contents import UNKNOWN, Contents

MODALITIES = ("s1", "s2")


def changed(rows, **columns):
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))
    return rows


def test_of_rows_and_of_their_parts(rows_factory):
    rows, _ = rows_factory(list(range(12)), lacking={0, 11})
    whole = Contents.of(rows, MODALITIES)
    assert (whole.rows, whole.splits) == (12, {"train": 4, "validation": 4, "test": 4})
    assert whole.modalities == {"s1": 12, "s2": 10} and whole.properties == {"country"}
    assert whole.bbox == pytest.approx((20, 44, 20.23, 44.01)) and whole.geometry_types == {"Polygon"}
    # Pair 11 lacks s2: the time of an image that is not there does not count.
    assert whole.interval == (datetime(2018, 6, 1, tzinfo=UTC), datetime(2018, 7, 11, tzinfo=UTC))
    parts = [Contents.of(rows.take(pa.array(part)), MODALITIES) for part in ([3, 1, 11], [0], list(range(4, 11)), [2])]
    assert sum(parts, Contents()) == sum(reversed(parts), Contents()) == whole


def test_of_rows_of_which_nothing_is_known(rows_factory):
    rows, _ = rows_factory([1, 2])
    nothing = [None, None]
    rows = changed(rows, geometry=nothing, bbox=nothing, s1_datetime=nothing, s2_datetime=nothing, properties=nothing)
    found = Contents.of(rows, MODALITIES)
    assert (found.bbox, found.interval, found.geometry_types, found.properties) == (None, None, set(), set())
    assert Contents.of(rows.slice(0, 0), MODALITIES) == Contents() + Contents()
    empty = {"xmin": float("nan"), "ymin": float("nan"), "xmax": float("nan"), "ymax": float("nan")}
    assert Contents.of(changed(rows, bbox=[empty, None]), MODALITIES).bbox is None


@pytest.mark.parametrize("ends", [(179.9, -179.9), (179.9, 180.1), (-180.1, -179.9)])
def test_bounds_of_footprints_across_the_antimeridian_have_all_longitudes(rows_factory, ends):
    rows, _ = rows_factory([1, 2])
    across = {"xmin": ends[0], "ymin": -18.0, "xmax": ends[1], "ymax": -17.5}
    rows = changed(rows, bbox=[across, rows["bbox"][1].as_py()])
    assert Contents.of(rows, MODALITIES).bbox == pytest.approx((-180, -18, 180, 44.01))


@pytest.mark.parametrize(
    ("wkb", "name"),
    [
        (shapely.to_wkb(shapely.Point(1, 2)), "Point"),
        (shapely.to_wkb(shapely.Point(1, 2), byte_order=0), "Point"),
        (shapely.to_wkb(shapely.Point(1, 2, 3), flavor="extended"), "Point Z"),
        (shapely.to_wkb(shapely.Point(1, 2, 3), flavor="iso"), "Point Z"),
        (shapely.to_wkb(shapely.set_srid(shapely.box(0, 0, 1, 1), 4326), include_srid=True), "Polygon"),
        (shapely.to_wkb(shapely.MultiPolygon([shapely.box(0, 0, 1, 1)])), "MultiPolygon"),
        (b"\x01\x0a\x00\x00\x00", UNKNOWN),  # a curve
        (b"\x01", UNKNOWN),
    ],
)
def test_kinds_of_footprints(rows_factory, wkb, name):
    rows, _ = rows_factory([1])
    assert Contents.of(changed(rows, geometry=[wkb]), MODALITIES).geometry_types == {name}
