"""Small indexes that are made without images or a model, and what is in them."""

import numpy as np

from sscm.index.generation import Generation, SegmentInfo, commit, open_segments, read_generation
from sscm.index.search import IndexReader
from sscm.index.segment import property_names, write_segment

DIMENSION = 16
SOURCES = {"shards/a.parquet": "0" * 64}


def begin(workspace, rows, vectors, sources=None):
    """Commit generation 1 of one segment."""
    name, files = write_segment(workspace, rows, vectors)
    segment = SegmentInfo(
        name=name, rows=len(rows), files=files, sources=sources or SOURCES, properties=property_names(rows)
    )
    generation = Generation(
        number=1,
        segments=(segment,),
        modalities=("s1", "s2"),
        dimension=DIMENSION,
        bundle="small",
        fingerprint="f" * 64,
        simulated=True,
        created="2026-01-01T00:00:00+00:00",
        code_version="0",
    )
    commit(workspace, generation)
    return generation


def live_ids(workspace, number=None):
    """Sorted ids of the pairs of a generation that are not deleted."""
    segments = open_segments(workspace, read_generation(workspace, number))
    return sorted(
        pair_id
        for segment in segments
        for row, pair_id in enumerate(segment.rows["pair_id"].to_pylist())
        if segment.deleted is None or not segment.deleted[row]
    )


def answers(workspace, queries, target, k=10_000, number=None):
    """Ids and scores of each query, over the segments of a generation."""
    reader = IndexReader(open_segments(workspace, read_generation(workspace, number)))
    return [[(hit.pair_id, hit.score) for hit in hits] for hits in reader.search(queries, target=target, k=k)]


def scanned(rows, vectors, queries, target):
    """The same by a scan in float64 of plain rows: all that have the modality, best first, then by id."""
    has = np.asarray(rows[f"has_{target}"].to_numpy(), np.bool_)
    ids = [pair_id for pair_id, there in zip(rows["pair_id"].to_pylist(), has, strict=True) if there]
    values = vectors[target][has].astype(np.float64)
    unit = queries.astype(np.float64)
    unit = np.asarray(unit / np.linalg.norm(unit, axis=1, keepdims=True), np.float32).astype(np.float64)
    found = []
    for query in unit:
        scores = np.asarray((values * query).sum(axis=1), np.float32)
        found.append(sorted(zip(ids, map(float, scores), strict=True), key=lambda hit: (-hit[1], hit[0])))
    return found
