"""Rows of an index as STAC Items (1.1.0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    columns = _Columns(chosen, tuple(titles))
    parts = [_ModalityParts(name, title) for name, title in titles.items()]
    return [_item(columns, row, parts) for row in range(len(numbers))]


def item_path(pair_id: str) -> str:
    """Path of an item's URL."""
    return f"/v1/items/{quote(pair_id, safe='')}"


def scored(item: bytes, score: float, target: str) -> bytes:
    """An item as an answer to a query: with its score, and the modality whose image matched."""
    # Properties come last in an item, and are never empty: what is added goes before the two braces.
    return b'%b,"score":%b,"target":%b}}' % (item[:-2], orjson.dumps(score), orjson.dumps(target))


class _Columns:
    """Rows as Python values, column by column: a table's rows one by one take twice as long."""

    def __init__(self, rows: pa.Table, modalities: Sequence[str]) -> None:
        self.ids = rows["pair_id"].to_pylist()
        self.footprints = shapely.to_geojson(shapely.from_wkb(rows["geometry"].to_numpy())).tolist()
        self.properties = rows["properties"].to_pylist()
        self.labels = rows["labels"].to_pylist()
        self.splits = rows["split"].to_pylist()
        self.has = {name: rows[f"has_{name}"].to_pylist() for name in modalities}
        self.times = {name: _rfc3339(rows[f"{name}_datetime"]) for name in modalities}
        self.boxes = rows["bbox"].to_pylist()


class _ModalityParts:
    """What items say of one modality, as far as it is the same for all."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.asset = {
            "type": "image/jpeg",
            "title": f"{title}, a small picture for people",
            "roles": ["thumbnail"],
        }
        self.related = f"Similar by {title}"


def _item(columns: _Columns, row: int, parts: Sequence[_ModalityParts]) -> bytes:
    pair_id = columns.ids[row]
    path = item_path(pair_id)
    assets: dict[str, Any] = {}
    links: list[dict[str, str]] = [{"rel": "self", "href": path, "type": "application/geo+json"}]
    times: set[str] = set()
    for part in parts:
        name = part.name
        if not columns.has[name][row]:
            continue
        asset = assets[f"preview_{name}"] = {"href": f"{path}/preview/{name}", **part.asset}
        taken = columns.times[name][row]
        if taken is not None:
            asset["datetime"] = taken
            times.add(taken)
        links.append({"rel": "related", "href": f"{path}/similar?modality={name}", "title": part.related})
    properties: dict[str, Any] = {
        (f"source:{key}" if key in _OWN else key): value for key, value in columns.properties[row] or ()
    }
    properties["datetime"] = min(times, default=None)
    if len(times) > 1:
        properties["start_datetime"], properties["end_datetime"] = min(times), max(times)
    properties["labels"] = columns.labels[row]
    properties["split"] = columns.splits[row]
    footprint, box = columns.footprints[row], columns.boxes[row]
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "id": pair_id,
        "geometry": None if footprint is None else orjson.Fragment(footprint),
        "assets": assets,
        "links": links,
    }
    if box is not None:  # GeoJSON and STAC have no null bbox
        item["bbox"] = [box["xmin"], box["ymin"], box["xmax"], box["ymax"]]
    item["properties"] = properties
    return orjson.dumps(item)


def _rfc3339(times: pa.ChunkedArray) -> list[str | None]:
    """Times of type timestamp[us, UTC] as text; a fraction of a second is told where there is one."""
    texts = times.cast(pa.timestamp("us")).cast(pa.string()).to_pylist()  # 2018-06-01 10:00:00.000000
    return [None if text is None else f"{text[:10]}T{text[11:].removesuffix('.000000')}Z" for text in texts]
