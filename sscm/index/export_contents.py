"""What exported rows hold in sum: how many they are, where and when, of which splits and modalities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

UNKNOWN = "unknown"
Box = tuple[float, float, float, float]

_GEOMETRIES = {
    1: "Point",
    2: "LineString",
    3: "Polygon",
    4: "MultiPoint",
    5: "MultiLineString",
    6: "MultiPolygon",
    7: "GeometryCollection",
}
"""GeoParquet's names of WKB's kinds."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What some rows hold, in sum.

    Args:
        rows: how many there are.
        splits: split → rows.
        modalities: modality → rows that have it.
        bbox: west, south, east and north of all footprints, degrees; None where no row has one.
        interval: first and last acquisition; None where no row has a time.
        geometry_types: what footprints are, in GeoParquet's words: ``Polygon``, ``Point Z``, …; :data:`UNKNOWN` for
            what it has no word for.
        properties: names of the properties that any row has.
    """

    rows: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    bbox: Box | None = None
    interval: tuple[datetime, datetime] | None = None
    geometry_types: frozenset[str] = frozenset()
    properties: frozenset[str] = frozenset()

    @classmethod
    def of(cls, table: pa.Table, modalities: Sequence[str]) -> Contents:
        """Of a table of :func:`~sscm.index.segment.rows_schema`; only times of images that are there count."""
        has = {name: table[f"has_{name}"] for name in modalities}
        taken = [
            instant
            for name in modalities
            for instant in pc.min_max(table[f"{name}_datetime"].filter(has[name])).as_py().values()
            if instant is not None
        ]
        splits = pc.value_counts(table["split"]).to_pylist()
        headers = pc.unique(pc.binary_slice(table["geometry"], 0, 5)).to_pylist()
        return cls(
            rows=table.num_rows,
            splits=Counter({item["values"]: item["counts"] for item in splits}),
            modalities=Counter({name: int(pc.sum(values).as_py() or 0) for name, values in has.items()}),
            bbox=_bounds(table["bbox"]),
            interval=(min(taken), max(taken)) if taken else None,
            geometry_types=frozenset(_geometry_type(header) for header in headers if header),
            properties=frozenset(pc.unique(table["properties"].combine_chunks().keys).to_pylist()),
        )

    def __add__(self, other: Contents) -> Contents:
        boxes = [box for box in (self.bbox, other.bbox) if box]
        corners = list(zip(*boxes, strict=True))
        ends = [end for interval in (self.interval, other.interval) if interval for end in interval]
        return Contents(
            rows=self.rows + other.rows,
            splits=self.splits + other.splits,
            modalities=self.modalities + other.modalities,
            bbox=(min(corners[0]), min(corners[1]), max(corners[2]), max(corners[3])) if corners else None,
            interval=(min(ends), max(ends)) if ends else None,
            geometry_types=self.geometry_types | other.geometry_types,
            properties=self.properties | other.properties,
        )


def _bounds(boxes: pa.ChunkedArray) -> Box | None:
    """West, south, east and north of all boxes; None where none is known, all longitudes where one crosses 180°."""
    known = boxes.combine_chunks().drop_null()
    corners = (known.field(name).to_numpy(zero_copy_only=False) for name in ("xmin", "ymin", "xmax", "ymax"))
    values = np.stack([np.asarray(corner, np.float64) for corner in corners])
    values = values[:, np.isfinite(values).all(axis=0)]
    if not values.size:
        return None
    west, south, east, north = values
    if (west > east).any() or west.min() < -180 or east.max() > 180:
        return -180.0, float(south.min()), 180.0, float(north.max())
    return float(west.min()), float(south.min()), float(east.max()), float(north.max())


def _geometry_type(header: bytes) -> str:
    """GeoParquet's name of what WKB with these first five bytes is; heights by ISO's thousands or PostGIS's top bit."""
    code = int.from_bytes(header[1:5], "little" if header[0] else "big")
    thousands, kind = divmod(code & 0x0FFFFFFF, 1000)
    if kind not in _GEOMETRIES:
        return UNKNOWN
    return _GEOMETRIES[kind] + (" Z" if code >> 31 or thousands in (1, 3) else "")
