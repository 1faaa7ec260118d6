"""From rows and vectors of an index to the collections that are measured: splits, labels, class fractions."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sscm.errors import EvaluationError
from sscm.evaluation.collection import Collection
from sscm.evaluation.gallery import Place
from sscm.evaluation.relevance import label_bitmap

COVER = "cover"
"""Property of a pair: class fractions as a JSON object, class → share of the area."""
FRACTION = "_fraction"
"""Ending of properties that hold one class's share of the area each, where there is no :data:`COVER`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Rows with their vectors, as a segment of an index has them.

    Args:
        rows: columns ``pair_id split labels properties archive_file archive_row`` and ``has_<modality>``.
        vectors: modality → float32 [rows, d].
    """

    rows: pa.Table
    vectors: Mapping[str, npt.NDArray[np.float32]]


def collect(parts: Sequence[Part], splits: Sequence[str], modalities: Sequence[str]) -> dict[str, Collection]:
    """The images of some splits; labels and class fractions in the same columns for all of them.

    Args:
        parts: rows and vectors, each pair in one of them.
        splits: splits wanted; twice the same is once.
        modalities: names of the modalities.

    Returns:
        Split → its images.

    Raises:
        EvaluationError: a split has no images, or a class fraction is not a number from 0 to 1.
    """
    chosen = {split: [_of_split(part, split) for part in parts] for split in splits}
    for split, found in chosen.items():
        if not any(part.rows.num_rows for part in found):
            counts = pa.concat_arrays([c for p in parts for c in p.rows["split"].chunks]).value_counts().to_pylist()
            have = {entry["values"]: entry["counts"] for entry in counts}
            raise EvaluationError(f"the index has no images of split {split!r}; it has {have or 'none at all'}")
    tables = {s: pa.concat_tables([p.rows for p in found]) for s, found in chosen.items()}
    labels = {split: table["labels"].to_pylist() for split, table in tables.items()}
    classes = sorted({name for lists in labels.values() for names in lists for name in names or ()})
    fractions = {split: _fractions(table) for split, table in tables.items()}
    covers = sorted({name for found in fractions.values() for one in found for name in one or ()})
    return {
        split: Collection(
            ids=table["pair_id"].to_pylist(),
            vectors={m: np.concatenate([part.vectors[m] for part in chosen[split]]) for m in modalities},
            present={m: np.asarray(table[f"has_{m}"].to_numpy(), np.bool_) for m in modalities},
            labels=label_bitmap(labels[split], classes) if classes else None,
            cover=_cover_matrix(fractions[split], covers) if covers else None,
            classes=tuple(classes),
            cover_classes=tuple(covers),
        )
        for split, table in tables.items()
    }


def places(parts: Sequence[Part], splits: Sequence[str]) -> dict[str, Place]:
    """Where the pairs of some splits lie in the archive, with their labels."""
    found = {}
    for split in dict.fromkeys(splits):
        for part in parts:
            rows = part.rows.filter(pc.equal(part.rows["split"], split))
            columns = [rows[name].to_pylist() for name in ("pair_id", "archive_file", "archive_row", "labels")]
            for pair_id, file, row, labels in zip(*columns, strict=True):
                found[pair_id] = Place(file=file, row=row, labels=tuple(labels or ()))
    return found


def with_vectors(collection: Collection, parts: Sequence[Part], modalities: Sequence[str]) -> Collection:
    """The same images with the vectors of another encoder.

    Args:
        collection: the images.
        parts: the other encoder's rows and vectors; may hold more images, in any order.
        modalities: names of the modalities.

    Raises:
        EvaluationError: an image is not among them.
    """
    ids = [pair_id for part in parts for pair_id in part.rows["pair_id"].to_pylist()]
    position = {pair_id: row for row, pair_id in enumerate(ids)}
    missing = [pair_id for pair_id in collection.ids if pair_id not in position]
    if missing:
        raise EvaluationError(
            f"{len(missing)} of {len(collection)} indexed pairs are not in the archive (first: {missing[0]}); the "
            "index is of another archive: run `sscm index` again"
        )
    order = [position[pair_id] for pair_id in collection.ids]
    vectors = {m: np.concatenate([part.vectors[m] for part in parts])[order] for m in modalities}
    return dataclasses.replace(collection, vectors=vectors)


def class_fractions(properties: Mapping[str, str], pair_id: str) -> dict[str, float] | None:
    """Class fractions of one pair: its property ``cover``, else its properties that end in ``_fraction``.

    Args:
        properties: of the pair. Fractions of no-data are no class.
        pair_id: of the pair, for the message.

    Returns:
        Class → share of the area; None where nothing is known.

    Raises:
        EvaluationError: not numbers from 0 to 1.
    """
    if COVER in properties:
        name, given = COVER, properties[COVER]
        try:
            values: Any = json.loads(given)
        except ValueError:
            values = given
    else:
        names = [n for n in properties if n.endswith(FRACTION) and "nodata" not in n]
        name, values = ", ".join(names), {n.removesuffix(FRACTION): properties[n] for n in names}
    if not values:
        return None
    try:
        found = {str(key): float(value) for key, value in values.items()}
    except (AttributeError, TypeError, ValueError):
        found = {}
    if not found or not all(math.isfinite(value) and 0 <= value <= 1 for value in found.values()):
        raise EvaluationError(f"pair {pair_id}, property {name}: {values!r}; expected class fractions from 0 to 1")
    return found


def _of_split(part: Part, split: str) -> Part:
    mask = np.asarray(pc.equal(part.rows["split"], split).to_numpy(), np.bool_)
    return Part(rows=part.rows.filter(pa.array(mask)), vectors={m: v[mask] for m, v in part.vectors.items()})


def _fractions(table: pa.Table) -> list[dict[str, float] | None]:
    columns = zip(table["properties"].to_pylist(), table["pair_id"].to_pylist(), strict=True)
    return [class_fractions(dict(properties or ()), pair_id) for properties, pair_id in columns]


def _cover_matrix(fractions: Sequence[Mapping[str, float] | None], classes: Sequence[str]) -> npt.NDArray[np.float64]:
    """float64 [images, classes]; a class that a pair does not name covers none of it, unknown pairs are NaN."""
    rows = [[math.nan] * len(classes) if one is None else [one.get(c, 0.0) for c in classes] for one in fractions]
    return np.array(rows, np.float64).reshape(len(fractions), len(classes))
