"""Pairs that an index has twice: found however segments and batches lie, and nothing else is."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sscm.errors import IntegrityError
from sscm.index import rows as rows_module
from sscm.index.duplicates import Duplicates, find_duplicates
from sscm.index.generation import Generation, SegmentInfo
from sscm.index.segment import join_embeddings, write_segment
from sscm.index.tombstones import write_tombstones


def generation(segments):
    return Generation(
        number=1,
        segments=tuple(segments),
        modalities=("s1", "s2"),
        dimension=16,
        bundle="small",
        fingerprint="f" * 64,
        simulated=True,
        created="2026-01-01T00:00:00+00:00",
        code_version="0",
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 12), min_size=1, max_size=8, unique=True), st.sets(st.integers(0, 7))),
        max_size=4,
    ),
    st.integers(1, 4),
)
def test_equals_a_count_of_all_ids(workspace, rows_factory, drawn, batch):
    infos, live = [], Counter()
    for numbers, dead in drawn:
        rows, vectors = rows_factory(numbers)
        name, files = write_segment(workspace, rows, vectors)
        gone = [row for row in dead if row < len(numbers)]
        deleted = write_tombstones(workspace, name, np.array(gone, np.int64))
        infos.append(SegmentInfo(name=name, rows=len(numbers), files=files, sources={}, deleted=deleted))
        live.update(f"pair_{number:04d}" for row, number in enumerate(sorted(numbers)) if row not in gone)
    twice = sorted(pair_id for pair_id, count in live.items() if count > 1)
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BATCH_ROWS", batch)
        found = find_duplicates(workspace, generation(infos), steps.append)
    assert found == Duplicates(pairs=len(twice), first=tuple(twice[:5]))
    assert bool(found) == bool(twice) and sum(steps) == sum(len(numbers) for numbers, _ in drawn)


def test_some_are_named():
    assert str(Duplicates(pairs=1, first=("a",))) == "1 pairs are in the index more than once (a)"
    assert str(Duplicates(pairs=1200, first=("a", "b"))) == "1,200 pairs are in the index more than once (a, b, …)"


@pytest.mark.parametrize("batch", [1, 2, 10])
def test_rows_out_of_order_are_refused(workspace, rows_factory, monkeypatch, batch):
    monkeypatch.setattr(rows_module, "BATCH_ROWS", batch)
    rows, vectors = rows_factory([1, 2, 4, 3, 5])
    name, files = write_segment(workspace, rows, vectors)
    table = join_embeddings(rows, vectors)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    files["rows.parquet"] = workspace.write_bytes(sink.getvalue(), "index", "segments", name, "rows.parquet")
    info = SegmentInfo(name=name, rows=5, files=files, sources={})
    with pytest.raises(IntegrityError, match=r"rows.parquet: row 3, pair 'pair_0003', is not after the row before"):
        find_duplicates(workspace, generation([info]))
