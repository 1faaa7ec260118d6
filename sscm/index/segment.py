"""Segments: immutable parts of an index, each some rows with their embeddings, sorted by pair id.

``index/segments/<name>/`` holds what a search maps into memory: ``vectors_<modality>.npy`` (float32 [n, d], C order),
``scan_<modality>-<digest>.safetensors`` (their scan form) and ``rows.arrow`` (ids, footprints, times and properties);
``approximate_<modality>-<digest>.npy``, the approximate index of a large segment; and ``rows.parquet``: the same rows
as GeoParquet 1.1, with the embeddings once more as ``embedding_<modality>`` columns, so that the file is useful without
sscm. A segment is named by its content: writing the same one again changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sscm.archive.schema import bbox_type, geoparquet_metadata
from sscm.errors import GenerationError, IntegrityError, QueryError, WorkspaceError
from sscm.index.effort import ApproximateInfo, Effort
from sscm.index.scan_form import ScanForm, load_scan_form, make_scan_form
from sscm.workspace import INDEX, Stored, Workspace, file_sha256, file_xxh3

if TYPE_CHECKING:
    from sscm.index.approximate import ApproximateIndex

SEGMENTS = "segments"
ROWS = "rows.parquet"
MAPPED_ROWS = "rows.arrow"
ROW_GROUP = 65_536
"""Rows of a row group of ``rows.parquet``: small enough to read a part, large enough to compress."""

Vectors = npt.NDArray[np.float32]
Bitmap = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """Rows and vectors of one segment, open for reading.

    Args:
        name: its folder under ``index/segments/``.
        rows: table of :func:`rows_schema`, sorted by ``pair_id``.
        embeddings: modality → float32 [n, d], read-only; rows without that modality are zeros.
        deleted: bool [n], rows that are no part of the index any more; None where there are none.
        forms: modality → scan form of its embeddings; none in segments that versions before wrote.
        approximate: modality → its approximate index, and how much of it a search looks at.
    """

    name: str
    rows: pa.Table
    embeddings: Mapping[str, Vectors]
    deleted: Bitmap | None = None
    forms: Mapping[str, ScanForm] = field(default_factory=dict)
    approximate: Mapping[str, tuple[ApproximateIndex, Effort]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of its modalities."""
        return tuple(self.embeddings)

    def vectors(self, modality: str) -> Vectors:
        """Embeddings of one modality: float32 [n, d], memory-mapped, zeros where :meth:`has` is False.

        Raises:
            QueryError: the modality is not indexed; those that are, are named.
        """
        self._require(modality)
        return self.embeddings[modality]

    def has(self, modality: str) -> npt.NDArray[np.bool_]:
        """Which rows have that modality and are not deleted: bool [n].

        Raises:
            QueryError: the modality is not indexed.
        """
        self._require(modality)
        present = np.asarray(self.rows[f"has_{modality}"].to_numpy(), np.bool_)
        return present if self.deleted is None else present & ~self.deleted

    @property
    def live(self) -> int:
        """Rows that are not deleted."""
        return len(self) if self.deleted is None else len(self) - int(np.count_nonzero(self.deleted))

    def find(self, pair_id: str) -> int | None:
        """Row of a pair, or None where it is not in this segment or deleted from it."""
        ids = self.rows["pair_id"]
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if ids[middle].as_py() < pair_id:
                low = middle + 1
            else:
                high = middle
        if low == len(ids) or ids[low].as_py() != pair_id or (self.deleted is not None and self.deleted[low]):
            return None
        return low

    def slice(self, start: int, stop: int) -> Segment:
        """Some consecutive rows, as a view; row numbers start from 0 again.

        An approximate index knows all rows of its segment: fewer are searched exactly.
        """
        embeddings = {name: values[start:stop] for name, values in self.embeddings.items()}
        deleted = None if self.deleted is None else self.deleted[start:stop]
        return Segment(
            name=self.name,
            rows=self.rows.slice(start, stop - start),
            embeddings=embeddings,
            deleted=deleted,
            forms={name: form.slice(start, stop) for name, form in self.forms.items()},
            approximate=self.approximate if (start, stop) == (0, len(self)) else {},
        )

    def _require(self, modality: str) -> None:
        if modality not in self.embeddings:
            raise QueryError(f"modality {modality!r} is not in the index; it has {list(self.embeddings)}")


def rows_schema(modalities: Sequence[str]) -> pa.Schema:
    """Arrow schema of a segment's rows, without embeddings.

    Args:
        modalities: names of the modalities that are embedded.
    """
    fields = [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("geometry", pa.binary()),
        pa.field("bbox", bbox_type()),
        *(pa.field(f"{name}_datetime", pa.timestamp("us", tz="UTC")) for name in modalities),
        pa.field("properties", pa.map_(pa.string(), pa.string())),
        *(pa.field(f"has_{name}", pa.bool_(), nullable=False) for name in modalities),
        pa.field("archive_file", pa.string(), nullable=False),
        pa.field("archive_row", pa.int64(), nullable=False),
    ]
    return pa.schema(fields)


def join_embeddings(rows: pa.Table, vectors: Mapping[str, Vectors]) -> pa.Table:
    """Rows with their embeddings as columns, as ``rows.parquet`` holds them.

    Args:
        rows: table of :func:`rows_schema`.
        vectors: modality → float32 [n, d].

    Returns:
        The rows with a column ``embedding_<modality>`` (fixed_size_list<float32>[d]) each, null where the pair lacks
        the modality, and GeoParquet metadata.
    """
    for name, values in vectors.items():
        flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
        lacking = pa.array(~np.asarray(rows[f"has_{name}"].to_numpy(), np.bool_))
        column = pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=lacking)
        rows = rows.append_column(f"embedding_{name}", column)
    return rows.replace_schema_metadata({"geo": json.dumps(geoparquet_metadata())})


def split_embeddings(table: pa.Table, modalities: Sequence[str]) -> tuple[pa.Table, dict[str, Vectors]]:
    """What :func:`join_embeddings` joined.

    Returns:
        Rows of :func:`rows_schema`, and modality → float32 [n, d] with zeros where the pair lacks the modality.
    """
    vectors = {}
    for name in modalities:
        column = table[f"embedding_{name}"].combine_chunks()
        values = np.zeros((len(column), column.type.list_size), np.float32)
        values[column.is_valid().to_numpy(zero_copy_only=False)] = (
            column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
        )
        vectors[name] = values
    schema = rows_schema(modalities)
    return table.select(schema.names).cast(schema), vectors


def write_segment(
    workspace: Workspace, rows: pa.Table, vectors: Mapping[str, Vectors]
) -> tuple[str, dict[str, Stored]]:
    """Write a segment; rows are put in the order of their pair ids.

    Args:
        workspace: where ``index/`` is.
        rows: table of :func:`rows_schema`, in any order.
        vectors: modality → float32 [n, d], in the order of the rows.

    Returns:
        The segment's name, and its files with their sizes and checksums.

    Raises:
        GenerationError: a pair id occurs twice.
        WorkspaceError: it cannot be written.
    """
    rows, vectors = _sorted(rows, vectors)
    name = _content_name(rows, vectors)
    folder = (INDEX, SEGMENTS, name)
    files = {}
    for modality, values in vectors.items():
        file = vectors_file(modality)
        files[file] = workspace.write_file(lambda path, values=values: _save(path, values), *folder, file)  # type: ignore[misc]
        form = make_scan_form(values)
        file = f"{scan_prefix(modality)}{hashlib.sha256(form.codes.data).hexdigest()[:12]}.safetensors"
        files[file] = workspace.write_file(form.save, *folder, file)
    files[MAPPED_ROWS] = workspace.write_file(lambda path: _save_rows(path, rows), *folder, MAPPED_ROWS)
    table = join_embeddings(rows, vectors)
    files[ROWS] = workspace.write_file(
        lambda path: pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP), *folder, ROWS
    )
    return name, files


def property_names(rows: pa.Table) -> tuple[str, ...]:
    """Names of the properties that any row has, sorted; ``rows`` is a table of :func:`rows_schema`."""
    maps = rows["properties"].combine_chunks()
    return tuple(sorted(pc.unique(maps.keys).to_pylist()))


def open_segment(
    workspace: Workspace,
    name: str,
    files: Mapping[str, Stored],
    modalities: Sequence[str],
    verify: bool = True,
    deleted: npt.NDArray[np.integer] | None = None,
    approximate: Mapping[str, ApproximateInfo] | None = None,
) -> Segment:
    """Open a segment for reading.

    Args:
        workspace: where ``index/`` is. Where that is not this machine's own file system, files are downloaded to a
            temporary folder, mapped, and unlinked: their space is freed with the last array over them.
        name: the segment.
        files: its files, as its generation's manifest names them.
        modalities: names of its modalities.
        verify: compare checksums, not only sizes; reads every file once.
        deleted: numbers of the rows that are deleted; None for none.
        approximate: modality → its approximate index, as the manifest names it; None for none.

    Raises:
        IntegrityError: a row is deleted that is not there, or a file is missing, truncated or altered; it is named.
        WorkspaceError: a file cannot be read.
    """
    folder = (INDEX, SEGMENTS, name)
    embeddings, forms = {}, {}
    for modality in modalities:
        file = vectors_file(modality)
        with _checked(workspace, (*folder, file), files[file], verify) as path:
            embeddings[modality] = _map(path, workspace.uri_of(*folder, file))
        for file in files:
            if file.startswith(scan_prefix(modality)):
                with _checked(workspace, (*folder, file), files[file], verify) as path:
                    forms[modality] = load_scan_form(path, workspace.uri_of(*folder, file))
    rows = _open_rows(workspace, folder, files, modalities, verify)
    for modality, values in embeddings.items():
        if len(values) != rows.num_rows:
            raise IntegrityError(
                f"{workspace.uri_of(*folder, vectors_file(modality))}: {len(values)} vectors for {rows.num_rows} rows; "
                "expected one a row: run `sscm index` again"
            )
    return Segment(
        name=name,
        rows=rows,
        embeddings=embeddings,
        deleted=_bitmap(name, deleted, rows.num_rows),
        forms=forms,
        approximate=_open_approximate(workspace, folder, files, approximate or {}, verify),
    )


def _open_approximate(
    workspace: Workspace,
    folder: tuple[str, ...],
    files: Mapping[str, Stored],
    infos: Mapping[str, ApproximateInfo],
    verify: bool,
) -> dict[str, tuple[ApproximateIndex, Effort]]:
    opened: dict[str, tuple[ApproximateIndex, Effort]] = {}
    for modality, info in infos.items():
        from sscm.index.approximate import load_approximate  # loads FAISS, which most indexes do without

        with _checked(workspace, (*folder, info.file), files[info.file], verify) as path:
            opened[modality] = load_approximate(path, workspace.uri_of(*folder, info.file)), info.effort
    return opened


def _open_rows(
    workspace: Workspace, folder: tuple[str, ...], files: Mapping[str, Stored], modalities: Sequence[str], verify: bool
) -> pa.Table:
    """Rows of :func:`rows_schema`: mapped where the segment has them so, else read from its Parquet file."""
    mapped = MAPPED_ROWS in files
    # What is not read is not summed up either: of the Parquet file beside mapped rows only the size is compared.
    with _checked(workspace, (*folder, ROWS), files[ROWS], verify and not mapped, remote=mapped) as path:
        if not mapped:
            try:
                # Reads the columns named only: the embeddings, most of the file, stay on disk.
                return pq.read_table(path, columns=rows_schema(modalities).names).combine_chunks()
            except (pa.ArrowInvalid, OSError) as error:
                where = workspace.uri_of(*folder, ROWS)
                raise IntegrityError(f"{where} is not a whole Parquet file ({error})") from error
    with _checked(workspace, (*folder, MAPPED_ROWS), files[MAPPED_ROWS], verify) as path:
        try:
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            where = workspace.uri_of(*folder, MAPPED_ROWS)
            raise IntegrityError(f"{where} is not a whole Arrow file ({error})") from error


def _bitmap(name: str, deleted: npt.NDArray[np.integer] | None, rows: int) -> Bitmap | None:
    if deleted is None or not len(deleted):
        return None
    if int(deleted.min()) < 0 or int(deleted.max()) >= rows:
        raise IntegrityError(f"segment {name} has {rows} rows; its tombstones name row {int(deleted.max())}")
    bitmap = np.zeros(rows, np.bool_)
    bitmap[deleted] = True
    return bitmap


def vectors_file(modality: str) -> str:
    """Name of the file of a modality's vectors."""
    return f"vectors_{modality}.npy"


def scan_prefix(modality: str) -> str:
    """How the name of the file of a modality's scan form begins; it ends with a digest of its codes."""
    return f"scan_{modality}-"


def _sorted(rows: pa.Table, vectors: Mapping[str, Vectors]) -> tuple[pa.Table, dict[str, Vectors]]:
    order = pc.sort_indices(rows, [("pair_id", "ascending")])
    rows = rows.take(order).combine_chunks()
    ids = rows["pair_id"]
    twice = pc.filter(ids[1:], pc.equal(ids[1:], ids[:-1])) if len(ids) > 1 else ids[:0]
    if len(twice):
        raise GenerationError(
            f"{len(twice)} pair ids occur more than once ({', '.join(twice[:5].to_pylist())}); "
            "every pair of an archive needs an id of its own"
        )
    places = order.to_numpy()
    return rows, {name: np.ascontiguousarray(values[places], np.float32) for name, values in vectors.items()}


def _content_name(rows: pa.Table, vectors: Mapping[str, Vectors]) -> str:
    digest = hashlib.sha256()
    for name, values in vectors.items():
        digest.update(f"{name} {values.shape}".encode())
        digest.update(values.data)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    digest.update(sink.getvalue())
    return digest.hexdigest()[:16]


def _save(path: Path, values: Vectors) -> None:
    with path.open("wb") as file:  # an open file: np.save would append .npy to a name that has another ending
        np.save(file, values, allow_pickle=False)


def _save_rows(path: Path, rows: pa.Table) -> None:
    with pa.ipc.new_file(str(path), rows.schema) as writer:
        writer.write_table(rows)


def _map(path: Path, where: str) -> Vectors:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise IntegrityError(f"{where} is not a whole .npy file ({error})") from error
    if values.dtype != np.float32 or values.ndim != 2:
        raise IntegrityError(f"{where}: {values.dtype} {values.shape}; expected float32 [rows, dimension]")
    return np.asarray(values)


@contextlib.contextmanager
def _checked(
    workspace: Workspace, parts: tuple[str, ...], expected: Stored, verify: bool, *, remote: bool = False
) -> Iterator[Path]:
    """A local path of a file that is what its manifest says; it may be gone after the block.

    With ``remote`` only its size is looked at, where it lies; there need be no such path then.
    """
    where = workspace.uri_of(*parts)
    remedy = "restore it, or delete it and run `sscm index` again"
    with tempfile.TemporaryDirectory(prefix="sscm-segment-") as cache:
        try:
            path = Path(cache) if remote else workspace.local_copy(Path(cache), *parts)
            size = workspace.size(*parts) if remote else path.stat().st_size
        except (WorkspaceError, FileNotFoundError) as error:
            if workspace.exists(*parts):
                raise
            raise IntegrityError(f"{where} is missing; {remedy}") from error
        if size != expected.bytes:
            raise IntegrityError(f"{where} has {size} bytes; its manifest says {expected.bytes}; {remedy}")
        if verify and not _is_whole(path, expected):
            raise IntegrityError(f"{where} was altered: its checksum is not the one of its manifest; {remedy}")
        yield path


def _is_whole(path: Path, expected: Stored) -> bool:
    if expected.xxh3 is not None:
        return file_xxh3(path) == expected.xxh3
    return file_sha256(path) == expected.sha256
