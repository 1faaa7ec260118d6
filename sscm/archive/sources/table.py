"""The table of a ``pairs`` source: a CSV or Parquet file, one row a pair, read into references."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sscm.archive.schema import SPLITS
from sscm.archive.sources.base import PairRef, split_by_hash
from sscm.archive.sources.declaration import ModalityDeclaration
from sscm.archive.sources.folders import read_bytes
from sscm.errors import ArchiveError

_SPLITS = {**{split: split for split in SPLITS}, "val": "validation"}
_KNOWN = ("pair_id", "split", "labels", "geometry")


def read_rows(path: str) -> list[dict[str, Any]]:
    """Rows of a CSV (values are text) or Parquet table (values as stored), column name → value.

    Raises:
        ArchiveError: no such file, another format, damaged, or without rows.
    """
    try:
        data = read_bytes(path)
        if path.lower().endswith((".parquet", ".geoparquet", ".pq")):
            rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(data)).to_pylist()
        elif path.lower().endswith(".csv"):
            rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
        else:
            raise ArchiveError(f"{path}: expected a table that ends in .csv or .parquet")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ArchiveError(f"{path}: no such file; expected a CSV or Parquet table of image files") from error
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError(
            f"{path}: it cannot be read as a table ({error}); expected CSV (UTF-8) or Parquet"
        ) from error
    if not rows:
        raise ArchiveError(f"{path}: no rows; expected one a pair below the column names")
    return rows


def plan_rows(path: str, rows: Sequence[Mapping[str, Any]], modalities: Sequence[ModalityDeclaration]) -> list[PairRef]:
    """References of a table's rows, in its order.

    A row that cannot be used becomes a reference too, with the reason in its arguments, so that it is counted.

    Args:
        path: the table, for messages.
        rows: what :func:`read_rows` read.
        modalities: as declared; each band group has a column.

    Returns:
        References with arguments ``files`` (band group → paths), ``times`` (modality → text), ``labels``,
        ``geometry`` (WKT or hexadecimal WKB) and ``properties``, or ``fault``.

    Raises:
        ArchiveError: a column is missing, or a split unknown.
    """
    groups = [group.group.name for modality in modalities for group in modality.groups]
    columns = [name for name in rows[0] if name is not None]
    if missing := [name for name in ("pair_id", *groups) if name not in columns]:
        raise ArchiveError(f"{path}: columns {columns}; expected also {missing}")
    refs: list[PairRef] = []
    seen: dict[str, int] = {}
    first_line = 2 if path.lower().endswith(".csv") else 1
    for number, row in enumerate(rows, first_line):
        where = f"{path}, row {number}"
        key = "" if row["pair_id"] is None else str(row["pair_id"]).strip()
        fault: list[str] | None = None
        if None in row or (first_line == 2 and None in row.values()):
            fault = [where, f"{_cells(row)} cells", f"{len(columns)}, one a column"]
        elif not key:
            fault = [where, "an empty pair_id", "an id that no other row has"]
        elif key in seen:
            fault = [where, f"pair_id {key} as in row {seen[key]}", "each pair_id once"]
        if not key or key in seen:
            key = f"{key or 'row'} ({path.rsplit('/', 1)[-1]}, row {number})"
        seen.setdefault(key, number)
        args = {"fault": fault} if fault else _arguments(row, groups, modalities)
        refs.append(PairRef(key=key, split=_split(row.get("split"), key, where), args={"where": where, **args}))
    return refs


def _arguments(
    row: Mapping[str, Any], groups: Sequence[str], modalities: Sequence[ModalityDeclaration]
) -> dict[str, Any]:
    times = {modality.name: f"{modality.name}_datetime" for modality in modalities}
    geometry = row.get("geometry")
    known = {*_KNOWN, *groups, *times.values()}
    return {
        "files": {group: files for group in groups if (files := _list(row[group], ";"))},
        "times": {name: _text(row[column]) for name, column in times.items() if not _empty(row.get(column))},
        "labels": None if _empty(row.get("labels")) else _list(row["labels"], ";|"),
        "geometry": geometry.hex() if isinstance(geometry, bytes) else None if _empty(geometry) else str(geometry),
        "properties": {
            name: _text(value) for name, value in row.items() if name and name not in known and not _empty(value)
        },
    }


def _split(value: Any, key: str, where: str) -> str:
    if _empty(value):
        return split_by_hash(key)
    split = _SPLITS.get(str(value).strip().lower())
    if split is None:
        raise ArchiveError(f"{where}: split {value!r}; expected one of {', '.join(SPLITS)}, or an empty cell")
    return split


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _list(value: Any, separators: str) -> list[str]:
    """Parts of a cell: text cut at any of the separators, or a list column's members."""
    if value is None:
        return []
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [str(part) for part in value]
    text = str(value)
    for separator in separators[1:]:
        text = text.replace(separator, separators[0])
    return [part.strip() for part in text.split(separators[0]) if part.strip()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _cells(row: Mapping[Any, Any]) -> int:
    return sum(value is not None for name, value in row.items() if name is not None) + len(row.get(None) or [])
