"""What comes into an index from elsewhere is checked before it is written: columns, modalities, dimension, values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sscm.errors import GenerationError
from sscm.index.segment import Vectors, rows_schema

UNIT = 1e-3
"""Most by which the norm of an embedding differs from 1: what bfloat16 leaves of a unit vector is nearer."""
BLOCK_ROWS = 65_536
"""Vectors checked at a time; bounds the memory of what is computed of them."""


def checked_rows(rows: pa.Table, modalities: Sequence[str]) -> pa.Table:
    """Rows in the schema of segments.

    Args:
        rows: has the columns of :func:`~sscm.index.segment.rows_schema`, and may have others, which are left out.
        modalities: names of the index's modalities.

    Raises:
        GenerationError: a column is missing, of another type, or null where it must not be.
    """
    schema = rows_schema(modalities)
    missing = [name for name in schema.names if name not in rows.column_names]
    if missing:
        raise GenerationError(f"rows: columns {missing} are missing; expected {schema.names}")
    for field in schema:
        nulls = rows[field.name].null_count
        if nulls and not field.nullable:
            raise GenerationError(f"rows: column {field.name} is null in {nulls} rows; expected a value in each")
    try:
        table = rows.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise GenerationError(f"rows: {error}; expected the schema {schema}") from error
    if pc.any(pc.equal(table["pair_id"], "")).as_py():
        raise GenerationError("rows: a pair_id is empty; expected a name for each pair")
    counts = pc.value_counts(table["pair_id"]) if len(table) else pa.array([], pa.struct({"counts": pa.int64()}))
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        names = ", ".join(twice.field("values")[:5].to_pylist())
        raise GenerationError(f"rows: {len(twice)} pair ids occur more than once ({names}); expected each once")
    return table


def checked_vectors(
    rows: pa.Table, vectors: Mapping[str, npt.NDArray[np.floating]], modalities: Sequence[str], dimension: int
) -> dict[str, Vectors]:
    """Embeddings that fit their rows and the index: modality → float32 [n, d], in the order of ``modalities``.

    Args:
        rows: table of :func:`~sscm.index.segment.rows_schema`.
        vectors: modality → [n, d], in the order of the rows.
        modalities: names of the index's modalities.
        dimension: length of the index's embeddings.

    Raises:
        GenerationError: modalities or shapes are others, or a vector is not finite, not of unit norm where its pair has
            the modality, or not zero where it lacks it; the first such pair is named.
    """
    if set(vectors) != set(modalities):
        raise GenerationError(f"vectors of modalities {sorted(vectors)}; expected {sorted(modalities)}")
    checked = {}
    for name in modalities:
        values = np.asarray(vectors[name])
        if values.shape != (rows.num_rows, dimension) or values.dtype.kind != "f":
            raise GenerationError(
                f"vectors of {name}: {values.dtype} {values.shape}; expected float32 ({rows.num_rows}, {dimension})"
            )
        present = np.asarray(rows[f"has_{name}"].to_numpy(), np.bool_)
        for bad, what in vector_faults(values, present):
            first = rows["pair_id"][int(bad[0])].as_py()
            raise GenerationError(f"embeddings of {name}: {len(bad)} are {what} (first: pair {first!r})")
        checked[name] = np.ascontiguousarray(values, np.float32)
    return checked


def vector_faults(
    values: npt.NDArray[np.floating], present: npt.NDArray[np.bool_]
) -> Iterator[tuple[npt.NDArray[np.int64], str]]:
    """What is wrong with embeddings.

    Args:
        values: [n, d].
        present: bool [n], the rows that have the modality.

    Yields:
        Numbers of the rows that have a fault, at least one, and what it is; nothing where all are sound.
    """
    infinite, long, filled = [], [], []
    for start in range(0, len(values), BLOCK_ROWS):
        block = np.asarray(values[start : start + BLOCK_ROWS], np.float64)
        has = present[start : start + BLOCK_ROWS]
        norms = np.sqrt(np.einsum("nd,nd->n", block, block))
        finite = np.isfinite(norms)
        infinite.append(start + np.flatnonzero(~finite))
        long.append(start + np.flatnonzero(finite & has & (np.abs(norms - 1) > UNIT)))
        filled.append(start + np.flatnonzero(finite & ~has & (norms != 0)))
    told = ("not finite", "not of unit norm", "not zero, though their pairs have no such image")
    for found, what in zip((infinite, long, filled), told, strict=True):
        rows = np.concatenate(found) if found else np.empty(0, np.int64)
        if len(rows):
            yield rows, what
