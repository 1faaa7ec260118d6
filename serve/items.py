"""Rows of an index as STAC Items (1.1.0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson
import pyarrow as pa
import shapely

STAC_VERSION = "1.1.0"

_OWN = {"datetime", "start_datetime", "end_datetime", "score", "target", "labels", "split"}
"""Properties that say what we mean by them; a source's property of such a name is told as ``source:<name>``."""


def stac_items(rows: pa.Table, numbers: Sequence[int], titles: Mapping[str, str]) -> list[bytes]:
    """Items of some rows.

    Args:
        rows: rows of a segment.
        numbers: which of them, in the order wanted.
        titles: modality name → what people call it.

    Returns:
        STAC Items as JSON: ``datetime`` is the earliest acquisition, the interval of all is told where they differ, and
        each preview asset says its own. A pair of unknown time has ``datetime`` null.
    """
    chosen = rows.take(pa.array(numbers, pa.int64()))
    footprints = shapely.to_geojson(shapely.from_wkb(chosen["geometry"].to_numpy()))
    return [orjson.dumps(_item(row, text, titles)) for row, text in zip(chosen.to_pylist(), footprints, strict=True)]


def item_path(pair_id: str) -> str:
    """Path of an item's URL."""
    return f"/v1/items/{quote(pair_id, safe='')}"


def scored(item: bytes, score: float, target: str) -> bytes:
    """An item as an answer to a query: with its score, and the modality whose image matched."""
    # Properties come last in an item, and are never empty: what is added goes before the two braces.
    return b'%b,"score":%b,"target":%b}}' % (item[:-2], orjson.dumps(score), orjson.dumps(target))


def _item(row: Mapping[str, Any], footprint: str | None, titles: Mapping[str, str]) -> dict[str, Any]:
    present = [name for name in titles if row[f"has_{name}"]]
    times = {name: _rfc3339(row[f"{name}_datetime"]) for name in present if row[f"{name}_datetime"] is not None}
    properties: dict[str, Any] = {
        (f"source:{key}" if key in _OWN else key): value for key, value in dict(row["properties"] or ()).items()
    }
    properties["datetime"] = min(times.values(), default=None)
    if len(set(times.values())) > 1:
        properties |= {"start_datetime": min(times.values()), "end_datetime": max(times.values())}
    properties |= {"labels": row["labels"], "split": row["split"]}
    path = item_path(row["pair_id"])
    assets = {
        f"preview_{name}": {
            "href": f"{path}/preview/{name}",
            "type": "image/jpeg",
            "title": f"{titles[name]}, a small picture for people",
            "roles": ["thumbnail"],
            **({"datetime": times[name]} if name in times else {}),
        }
        for name in present
    }
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "id": row["pair_id"],
        "geometry": None if footprint is None else orjson.Fragment(footprint),
        "assets": assets,
        "links": [
            {"rel": "self", "href": path, "type": "application/geo+json"},
            *(
                {"rel": "related", "href": f"{path}/similar?modality={name}", "title": f"Similar by {titles[name]}"}
                for name in present
            ),
        ],
    }
    if row["bbox"] is not None:  # GeoJSON and STAC have no null bbox
        item["bbox"] = [row["bbox"][corner] for corner in ("xmin", "ymin", "xmax", "ymax")]
    item["properties"] = properties
    return item


def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
