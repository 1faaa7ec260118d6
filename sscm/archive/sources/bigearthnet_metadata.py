"""Pairs of BigEarthNet version 2 as its ``metadata.parquet`` lists them: partners, splits, labels and properties."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sscm.archive.schema import SPLITS
from sscm.archive.sources.base import PairRef
from sscm.archive.sources.bigearthnet_layout import Layout
from sscm.archive.sources.folders import join, read_bytes
from sscm.errors import ArchiveError

METADATA = "metadata.parquet"
_REQUIRED = ("patch_id", "s1_name", "split")
_BLOCK_ROWS = 16_384
"""Rows made Python objects at a time."""

logger = logging.getLogger(__name__)


def plan_by_metadata(root: str, where: str, layout: Layout) -> list[PairRef]:
    """One reference a pair of the metadata of which a patch is there.

    Args:
        root: the BigEarthNet folder.
        where: the metadata file.
        layout: which patches are in the folder.

    Raises:
        ArchiveError: no or wrong metadata, an unknown split, none of the patches.
    """
    table = _read_metadata(where)
    refs: dict[str, PairRef] = {}
    absent = 0
    for number, row in enumerate(_rows(table)):
        s2_name, s1_name = row["patch_id"], row["s1_name"]
        if s2_name not in layout.s2 and s1_name not in layout.s1:
            absent += 1
            continue
        split = {"val": "validation"}.get(row["split"], row["split"])
        if split not in SPLITS:
            raise ArchiveError(f"{where}, row {number}: split {split!r}; expected one of {', '.join(SPLITS)}")
        labels = row.get("labels")
        args: dict[str, Any] = {
            "version": 2,
            "labels": None if labels is None else [sys.intern(label) for label in labels],
            "properties": _properties(row),
        }
        key = str(s2_name)
        if key in refs:
            args["fault"] = [f"{where}, row {number}", f"patch_id {key} a second time", "each patch_id once"]
            key = f"{key} (row {number})"
        elif s2_name is None or s2_name not in layout.s2:
            fault = f"Sentinel-2 patch {s2_name} is missing, its partner {s1_name} is there"
            args["fault"] = [f"{where}, row {number}", fault, f"a folder {s2_name} below {root}"]
        elif s1_name is None or s1_name not in layout.s1:
            fault = f"Sentinel-1 partner {s1_name} of {s2_name} is missing"
            args["fault"] = [f"{where}, row {number}", fault, f"a folder {s1_name} below {root}"]
        else:
            args["s1"] = join(layout.s1[s1_name], s1_name)
            args["s2"] = join(layout.s2[s2_name], s2_name)
        refs[key] = PairRef(key=key, split=split, args=args)
    if not refs:
        raise ArchiveError(f"{where}: none of its {table.num_rows} pairs lies in {root}; expected its patches there")
    if absent:
        logger.warning("%d of %d pairs of %s are not in %s", absent, table.num_rows, where, root)
    return list(refs.values())


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows one by one, of a block at a time: all at once would be several times the table."""
    for start in range(0, table.num_rows, _BLOCK_ROWS):
        yield from table.slice(start, _BLOCK_ROWS).to_pylist()


def _read_metadata(where: str) -> pa.Table:
    try:
        table = pq.read_table(io.BytesIO(read_bytes(where)))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ArchiveError(
            f"{where}: no such file; BigEarthNet version 2 needs its {METADATA}: put it there, or say where it is"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ArchiveError(f"{where}: not a whole Parquet file ({error}); download it again") from error
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise ArchiveError(f"{where}: columns {table.column_names}; expected also {missing}")
    return table


def _properties(row: dict[str, Any]) -> dict[str, str]:
    """The metadata's plain columns as text; the same few values are the same objects, half a million times."""
    kept = {}
    for name, value in row.items():
        if name in (*_REQUIRED, "labels") or value is None or isinstance(value, (list, dict, bytes)):
            continue
        kept[name] = sys.intern(str(value).lower() if isinstance(value, bool) else str(value))
    return kept
