"""Exporting an index: its rows with their embeddings as GeoParquet, for other programs, and what describes them.

A target that ends in ``.parquet`` becomes one file; any other becomes a folder of ``part-<n>.parquet``, one a segment.
Beside it comes a STAC Collection, ``<target>.collection.json``; every Parquet file has it too, under the key ``stac``
of its metadata. All of it is written under another name and put in its place when it is whole.

Rows are read and written a row group at a time: memory does not grow with the index, nor with its segments.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sscm.archive.manifest import read_manifest
from sscm.archive.schema import geoparquet_metadata
from sscm.config import ExportConfig
from sscm.errors import ConfigError, IntegrityError, ManifestError
from sscm.index.export_choice import Choice
from sscm.index.export_contents import UNKNOWN, Contents
from sscm.index.export_target import Target, part_name
from sscm.index.generation import Generation, SegmentInfo
from sscm.index.pins import pinned
from sscm.index.segment import ROW_GROUP, ROWS, SEGMENTS, rows_schema
from sscm.index.stac_embedding import embedding_collection
from sscm.index.tombstones import RowNumbers, read_tombstones
from sscm.progress import Advance, progress
from sscm.storage_errors import storage_errors
from sscm.workspace import INDEX, MODELS, Workspace, file_sha256, open_workspace

MODEL = "config.json"
"""What describes a model bundle; named here, since :mod:`sscm.model.bundle` loads torch."""

_REMEDY = "restore it, or run `sscm index` to build anew"
_UNCOUNTED = ("pair_id", "labels", "archive_file", "archive_row")
"""Columns that a look through the index need not read."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was exported.

    Args:
        generation: number of the index generation.
        rows: pairs in all files.
        files: URIs of the Parquet files, in the order of their rows.
        collection: URI of the STAC Collection.
        bytes: size of the Parquet files.
    """

    generation: int
    rows: int
    files: tuple[str, ...]
    collection: str
    bytes: int


def export_index(target: str, config: ExportConfig) -> ExportReport:
    """Write an index generation's rows with their embeddings as GeoParquet, and a STAC Collection beside it.

    Args:
        target: path or URI of a file that ends in ``.parquet``, or of a folder.
        config: workspace, generation, modalities and splits; whether an export that is there is replaced.

    Raises:
        GenerationError: there is no index, or no such generation; those there are, are named.
        ConfigError: an unknown modality, or no pair is of these modalities and splits; those there are, are named.
        IntegrityError: a file of the index is missing, truncated or altered; it is named.
        WorkspaceError: the target is there already, or is no export; or it cannot be written: disk full, no rights.
    """
    workspace, place = open_workspace(config.workspace), Target.of(target)
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(pinned(workspace, config.generation, "sscm index export"))
        chosen = Choice.of(found, config.modalities, config.splits)
        place.require_free(config.overwrite)
        parts = _look_through(workspace, found, chosen)
        layout = [(place.name, parts)] if place.is_file else [(part.file, [part]) for part in parts]
        contents = sum((part.contents for part in parts), Contents())
        names = chosen.columns_of(contents.properties)
        schema = chosen.schema(names, found.dimension)
        about = embedding_collection(
            found,
            contents,
            schema,
            modalities=chosen.modalities,
            href=f"./{quote(place.collection)}",
            files=[f"./{quote(place.inside(file))}" for file, _ in layout],
            properties=names,
            model=_model(workspace, found),
            source=_source(workspace, found),
        )
        staging = stack.enter_context(place.staging())
        advance = stack.enter_context(progress("export", contents.rows))
        written = []
        for file, held in layout:
            geo = _geo(sum((part.contents for part in held), Contents()))
            described = schema.with_metadata({"geo": json.dumps(geo), "stac": json.dumps(about, allow_nan=False)})
            tables = (table for part in held for table in _tables(workspace, part, chosen, names, described))
            written.append(staging.write_file(_writer(tables, described, advance), *place.inside(file).split("/")))
        staging.write_json(about, place.collection)
        place.publish(staging, [place.inside(file) for file, _ in layout])
    return ExportReport(
        generation=found.number,
        rows=contents.rows,
        files=tuple(place.folder.uri_of(place.inside(file)) for file, _ in layout),
        collection=place.folder.uri_of(place.collection),
        bytes=sum(stored.bytes for stored in written),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Rows of one segment: their file in a folder of parts, which rows are deleted, and what is exported of the others.

    ``deleted`` is sorted, uint32 [deleted].
    """

    file: str
    info: SegmentInfo
    deleted: RowNumbers
    contents: Contents


def _look_through(workspace: Workspace, generation: Generation, chosen: Choice) -> list[_Part]:
    """The segments that have rows to export, and what these hold; embeddings are not read for it."""
    parts: list[_Part] = []
    present: Counter[str] = Counter()
    columns = [name for name in rows_schema(chosen.modalities).names if name not in _UNCOUNTED]
    with progress("look through", sum(info.rows for info in generation.segments)) as advance:
        for info in generation.segments:
            deleted = read_tombstones(workspace, info.name, info.deleted)
            contents = Contents()
            _require_whole(workspace, info)
            where = (INDEX, SEGMENTS, info.name, ROWS)
            with workspace.parquet(*where) as file:
                for table in _live(file, columns, deleted, workspace.uri_of(*where)):
                    counts = pc.value_counts(table["split"]).to_pylist()
                    present.update({item["values"]: item["counts"] for item in counts})
                    contents += Contents.of(chosen.kept(table), chosen.modalities)
            advance(info.rows)
            if contents.rows:
                parts.append(_Part(file=part_name(len(parts)), info=info, deleted=deleted, contents=contents))
    if not parts:
        raise ConfigError(
            f"index generation {generation.number} has no pairs of splits {list(chosen.splits)} with an image of "
            f"{' or '.join(chosen.modalities)}; it has {dict(present)}"
        )
    return parts


def _tables(
    workspace: Workspace, part: _Part, chosen: Choice, properties: Mapping[str, str], schema: pa.Schema
) -> Iterator[pa.Table]:
    """Rows of a part as they are exported, a row group at a time; the file's checksum is compared first."""
    parts = (INDEX, SEGMENTS, part.info.name, ROWS)
    where = workspace.uri_of(*parts)
    columns = [*rows_schema(chosen.modalities).names, *chosen.embeddings]
    with tempfile.TemporaryDirectory(prefix="sscm-export-") as cache:
        with storage_errors("read", where):
            path = workspace.local_copy(Path(cache), *parts)
            if file_sha256(path) != part.info.files[ROWS].sha256:
                raise IntegrityError(f"{where} was altered: its SHA-256 is not the one of its manifest; {_REMEDY}")
        with pq.ParquetFile(path, memory_map=True) as file:
            for table in _live(file, columns, part.deleted, where):
                rows = chosen.kept(table)
                maps = rows["properties"].combine_chunks()
                for column, name in properties.items():
                    rows = rows.append_column(column, pc.map_lookup(maps, name, "last"))
                yield rows.select(schema.names).cast(schema)


def _live(file: pq.ParquetFile, columns: Sequence[str], deleted: RowNumbers, where: str) -> Iterator[pa.Table]:
    """Some columns of the rows of a segment that are not deleted, a row group at a time."""
    start = 0
    for number in range(file.num_row_groups):
        try:
            table = file.read_row_group(number, columns=list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise IntegrityError(f"{where} cannot be decoded ({error}); {_REMEDY}") from error
        live = np.ones(table.num_rows, np.bool_)
        first, last = np.searchsorted(deleted, (start, start + len(live)))
        live[deleted[first:last].astype(np.int64) - start] = False
        start += len(live)
        yield table if live.all() else table.filter(pa.array(live))


def _require_whole(workspace: Workspace, info: SegmentInfo) -> None:
    """Check that a segment's rows are there and of the size that the manifest says."""
    parts = (INDEX, SEGMENTS, info.name, ROWS)
    where = workspace.uri_of(*parts)
    if not workspace.exists(*parts):
        raise IntegrityError(f"{where} is missing; {_REMEDY}")
    size = workspace.size(*parts)
    if size != info.files[ROWS].bytes:
        raise IntegrityError(f"{where} has {size} bytes; its manifest says {info.files[ROWS].bytes}; {_REMEDY}")


def _writer(tables: Iterable[pa.Table], schema: pa.Schema, advance: Advance) -> Callable[[Path], None]:
    """Writes tables as one Parquet file, in row groups of one size but for the last."""

    def produce(path: Path) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            waiting = schema.empty_table()
            for table in tables:
                waiting = pa.concat_tables([waiting, table])
                while waiting.num_rows >= ROW_GROUP:
                    writer.write_table(waiting.slice(0, ROW_GROUP))
                    waiting = waiting.slice(ROW_GROUP)
                advance(table.num_rows)
            if waiting.num_rows:
                writer.write_table(waiting)

    return produce


def _geo(contents: Contents) -> dict[str, Any]:
    """GeoParquet's metadata of a file with these contents."""
    about = geoparquet_metadata()
    if UNKNOWN not in contents.geometry_types:
        about["columns"]["geometry"]["geometry_types"] = sorted(contents.geometry_types)
    if contents.bbox is not None:
        about["columns"]["geometry"]["bbox"] = list(contents.bbox)
    return about


def _model(workspace: Workspace, generation: Generation) -> Mapping[str, Any] | None:
    """What the bundle says of itself that made a generation; None where it is not there any more."""
    parts = (MODELS, generation.bundle, MODEL)
    about = workspace.read_json(*parts) if workspace.exists(*parts) else {}
    if about.get("fingerprint") == generation.fingerprint:
        return dict(about)
    print(
        f"export: model {generation.bundle} with fingerprint {generation.fingerprint[:12]}, which made the index, is "
        "not in the workspace any more: the Collection names it and cannot say which bands it takes",
        file=sys.stderr,
    )
    return None


def _source(workspace: Workspace, generation: Generation) -> str | None:
    """What the archive was made from; None where it is not the one that was indexed."""
    try:
        manifest = read_manifest(workspace)
    except ManifestError:
        return None
    shards = {shard.file: shard.sha256 for shard in manifest.shards}
    return str(manifest.source.get("name")) if generation.sources.items() <= shards.items() else None
