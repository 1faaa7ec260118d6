"""The archive shard: a Parquet file of pairs, its columns, and the codec between images and bytes.

Images are FixedSizeBinary columns, one a band group, of C-order ``(bands, height, width)`` little-endian pixels in
their native dtype: Parquet has no 16-bit integers, and a fixed-size column is read back as a view of the file's bytes.
The file carries GeoParquet 1.1 metadata, so that DuckDB, QGIS and GeoPandas open it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from sscm.errors import IntegrityError
from sscm.sensors import BandGroup, Modality

Image = npt.NDArray[Any]
SPLITS = ("train", "validation", "test")
SHARD_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One place seen by one or more modalities.

    Args:
        pair_id: unique in the archive.
        split: ``train``, ``validation`` or ``test``.
        images: band-group name → pixels [bands, height, width] in the group's dtype. A modality that the pair lacks is
            left out with all its groups.
        datetimes: modality name → acquisition time, timezone-aware; left out where unknown.
        geometry: footprint as WKB, longitude and latitude (EPSG:4326), or None.
        labels: class names for evaluation, or None; training never reads them.
        properties: what the source knew besides (country, tile, cloud, …), as text.
        previews: modality name → JPEG bytes, a small picture for people.
    """

    pair_id: str
    split: str
    images: Mapping[str, Image]
    datetimes: Mapping[str, datetime] = field(default_factory=dict)
    geometry: bytes | None = None
    labels: Sequence[str] | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    previews: Mapping[str, bytes] = field(default_factory=dict)


def bbox_type() -> pa.DataType:
    """The struct of a GeoParquet 1.1 bounding-box column, degrees."""
    return pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])


def shard_schema(modalities: Sequence[Modality]) -> pa.Schema:
    """Arrow schema of a shard of these modalities, with its metadata."""
    fields = [pa.field("pair_id", pa.string(), nullable=False)]
    fields += [pa.field(g.name, pa.binary(g.nbytes)) for m in modalities for g in m.groups]
    fields += [pa.field(f"{m.name}_datetime", pa.timestamp("us", tz="UTC")) for m in modalities]
    fields += [
        pa.field("geometry", pa.binary()),
        pa.field("bbox", bbox_type()),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("split", pa.string(), nullable=False),
        pa.field("properties", pa.map_(pa.string(), pa.string())),
    ]
    fields += [pa.field(f"preview_{m.name}", pa.binary()) for m in modalities]
    about = {"format": SHARD_FORMAT, "modalities": [m.to_json() for m in modalities]}
    return pa.schema(fields, metadata={"sscm": json.dumps(about), "geo": json.dumps(geoparquet_metadata())})


def geoparquet_metadata() -> dict[str, Any]:
    """The ``geo`` metadata of a file with a WKB ``geometry`` and a ``bbox`` column (GeoParquet 1.1.0, OGC:CRS84)."""
    corners = {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}
    column = {"encoding": "WKB", "geometry_types": [], "covering": {"bbox": corners}}
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def encode_pairs(pairs: Sequence[Pair], modalities: Sequence[Modality]) -> pa.Table:
    """Pairs as a table of :func:`shard_schema`. Images must already have their group's shape and dtype."""
    schema = shard_schema(modalities)
    columns: dict[str, Any] = {"pair_id": [p.pair_id for p in pairs]}
    for modality in modalities:
        for group in modality.groups:
            columns[group.name] = encode_group([p.images.get(group.name) for p in pairs], group)
        columns[f"{modality.name}_datetime"] = [p.datetimes.get(modality.name) for p in pairs]
        columns[f"preview_{modality.name}"] = [p.previews.get(modality.name) for p in pairs]
    columns["geometry"] = [p.geometry for p in pairs]
    columns["bbox"] = [_bbox(p.geometry) for p in pairs]
    columns["labels"] = [None if p.labels is None else list(p.labels) for p in pairs]
    columns["split"] = [p.split for p in pairs]
    columns["properties"] = [list(p.properties.items()) for p in pairs]
    arrays = [
        columns[f.name] if isinstance(columns[f.name], pa.Array) else pa.array(columns[f.name], f.type) for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def encode_group(images: Sequence[Image | None], group: BandGroup) -> pa.Array:
    """One column of images.

    Args:
        images: pixels [bands, height, width] in the group's shape, or None where the pair lacks the modality.
        group: the band group.

    Returns:
        FixedSizeBinary array of ``group.nbytes``.
    """
    if any(image is None for image in images):
        values = [
            None if image is None else np.ascontiguousarray(image, group.numpy_dtype).tobytes() for image in images
        ]
        return pa.array(values, pa.binary(group.nbytes))
    stacked = np.empty((len(images), *group.shape), group.numpy_dtype)
    for row, image in enumerate(images):
        stacked[row] = image
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(group.nbytes), len(images), [None, pa.py_buffer(stacked)])


def decode_group(column: pa.Array | pa.ChunkedArray, group: BandGroup) -> Image:
    """Images of one column, without a copy where the column is one chunk.

    Args:
        column: FixedSizeBinary column of ``group.nbytes``; null rows come back as whatever bytes lie there, so callers
            mask them by the column's validity.
        group: the band group.

    Returns:
        Read-only pixels [rows, bands, height, width], the group's dtype; a view of the Arrow buffer.

    Raises:
        IntegrityError: the column is not of the group's type.
    """
    if column.type != pa.binary(group.nbytes):
        raise IntegrityError(
            f"column {group.name}: type {column.type}; expected {pa.binary(group.nbytes)} for {group.shape}"
        )
    if isinstance(column, pa.ChunkedArray):
        parts = [decode_group(chunk, group) for chunk in column.chunks]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, *group.shape), group.numpy_dtype)
    data = column.buffers()[1]
    if data is None or len(column) == 0:
        return np.zeros((len(column), *group.shape), group.numpy_dtype)
    count = len(column) * int(np.prod(group.shape))
    offset = column.offset * group.nbytes
    return np.frombuffer(data, group.numpy_dtype, count, offset).reshape(len(column), *group.shape)


def _bbox(geometry: bytes | None) -> dict[str, float] | None:
    if geometry is None:
        return None
    xmin, ymin, xmax, ymax = shapely.from_wkb(geometry).bounds
    return {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
