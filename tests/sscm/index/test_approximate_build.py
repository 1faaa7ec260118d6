"""Approximate indexes of segments: which get one, what it reaches, and what becomes of it."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from serve.editions import Slice
from serve.messages import ShardQuery
from serve.shard import IndexShard
from sscm.config import CompactConfig, IndexConfig, VerifyConfig
from sscm.errors import ConfigError, IntegrityError
from sscm.index.append import append_segment
from sscm.index.approximate_build import approximate_segments
from sscm.index.build import build_index
from sscm.index.compact import compact_index
from sscm.index.generation import commit, open_segments, read_generation, successor
from sscm.index.search import IndexReader
from sscm.index.segment import SEGMENTS
from sscm.index.verify import verify_index
from sscm.workspace import INDEX, open_workspace
from tests.plugins.growing import begin

ROWS, EXACT_ROWS, RECALL = 3_000, 1_000, 0.95


def many(rows_factory, start, count, lacking=0):
    """Rows like each other but for their ids, and vectors about 100 centres; the first of them without s2."""
    one, _ = rows_factory([1])
    ids = pa.array([f"pair_{number:05d}" for number in range(start, start + count)])
    rows = pa.concat_tables([one] * count)
    rows = rows.set_column(0, rows.schema.field("pair_id"), ids)
    has = pa.array(np.arange(count) >= lacking)
    place = rows.schema.get_field_index("has_s2")
    rows = rows.set_column(place, rows.schema.field("has_s2"), has)
    rng = np.random.default_rng(start)
    centres = np.random.default_rng(7).standard_normal((100, 16))[rng.integers(100, size=count)]
    vectors = {}
    for name in ("s1", "s2"):
        values = centres + 0.5 * rng.standard_normal((count, 16))
        vectors[name] = np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)
    vectors["s2"][:lacking] = 0
    return rows.combine_chunks(), vectors


@pytest.fixture(scope="module")
def built(tmp_path_factory, rows_factory, ray_session):
    """An index of one segment with approximate indexes of both modalities."""
    workspace = open_workspace(str(tmp_path_factory.mktemp("built") / "workspace"))
    before = begin(workspace, *many(rows_factory, 0, ROWS, lacking=200))
    segments = approximate_segments(workspace, before.segments, before.modalities, RECALL, EXACT_ROWS)
    commit(workspace, successor(before, segments, recall=RECALL, exact_rows=EXACT_ROWS))
    return workspace


@pytest.fixture
def approximated(built, workspace):
    """A copy of it."""
    shutil.copytree(built.path_of(), workspace.path_of(), dirs_exist_ok=True)
    return workspace


def recall(workspace, target, queries):
    segments = open_segments(workspace, read_generation(workspace))
    found, wanted = (IndexReader(segments, exact=exact).search(queries, target=target, k=10) for exact in (False, True))
    return np.mean(
        [len({h.pair_id for h in a} & {h.pair_id for h in b}) / 10 for a, b in zip(found, wanted, strict=True)]
    )


def test_large_segments_are_approximate_and_what_is_appended_is_as_large_as_it_is(approximated, rows_factory):
    workspace = approximated
    generation = read_generation(workspace)
    (segment,) = generation.segments
    assert set(segment.approximate) == {"s1", "s2"}
    for info in segment.approximate.values():
        assert info.file in segment.files
        assert (info.asked, set(info.recall)) == (RECALL, {"s1", "s2"})
        assert min(info.recall.values()) > RECALL - 0.02
        assert info.queries == 2_000
    queries = many(rows_factory, 50_000, 300)[1]["s1"]
    assert recall(workspace, "s2", queries) > RECALL - 0.02
    assert recall(workspace, "s1", queries) > RECALL - 0.02
    (opened,) = open_segments(workspace, generation)
    lacking = {f"pair_{number:05d}" for number in range(200)}
    hits = IndexReader([opened]).search(queries, target="s2", k=10)
    assert not lacking & {hit.pair_id for found in hits for hit in found}
    # Part of a segment is searched exactly.
    assert opened.slice(0, 100).approximate == {}
    assert set(opened.slice(0, ROWS).approximate) == {"s1", "s2"}

    # A small segment beside it has none, both together have one again.
    appended = append_segment(workspace, *many(rows_factory, 10_000, 500))
    assert appended.segments[0] == segment
    assert appended.segments[1].approximate == {}
    assert (appended.recall, appended.exact_rows) == (RECALL, EXACT_ROWS)
    compacted = compact_index(CompactConfig(workspace=workspace.uri, small=1.0)).generation
    (merged,) = compacted.segments
    assert set(merged.approximate) == {"s1", "s2"}
    assert merged.approximate["s2"].file != segment.approximate["s2"].file
    assert recall(workspace, "s2", queries) > RECALL - 0.02
    faults = verify_index(VerifyConfig(workspace=workspace.uri)).faults
    assert not [fault for fault in faults if f"/{INDEX}/{SEGMENTS}/" in fault]


def test_a_shard_of_a_service_answers_by_it_as_the_index_does(built, rows_factory):
    generation = read_generation(built)
    parts = [Slice(segment=info.name, start=0, stop=info.rows) for info in generation.segments]
    shard = IndexShard(built, generation.number, parts, {"s1": "radar", "s2": "optical"}, threads=1)
    reader = IndexReader(open_segments(built, generation))
    _, vectors = many(rows_factory, 9_000, 20)
    queries = [ShardQuery(vector=vector, target="s2", k=10) for vector in vectors["s1"]]
    answers = shard.search_batch(queries)
    expected = reader.search(vectors["s1"], target="s2", k=10)
    assert [[(hit.pair_id, hit.score) for hit in answer.hits] for answer in answers] == [
        [(hit.pair_id, hit.score) for hit in hits] for hits in expected
    ]
    assert {answer.matched for answer in answers} == {ROWS - 200}  # those that have the modality


def test_none_where_all_is_to_be_exact(approximated):
    generation = read_generation(approximated)
    (bare,) = approximate_segments(approximated, generation.segments, generation.modalities, 1.0, EXACT_ROWS)
    assert bare.approximate == {}
    assert not any("approximate" in file for file in bare.files)
    (small,) = approximate_segments(approximated, generation.segments, generation.modalities, RECALL, ROWS)
    assert small == bare


def test_segments_that_have_theirs_are_left_alone(approximated, monkeypatch):
    monkeypatch.setattr("sscm.index.approximate_build._build", None)
    generation = read_generation(approximated)
    again = approximate_segments(approximated, generation.segments, generation.modalities, RECALL, EXACT_ROWS)
    assert again == generation.segments


@pytest.mark.parametrize("damage", [None, b"", b"another content"])
def test_a_lost_or_altered_file_is_refused(approximated, damage):
    generation = read_generation(approximated)
    (segment,) = generation.segments
    file = segment.approximate["s2"].file
    path = Path(approximated.path_of(INDEX, SEGMENTS, segment.name, file))
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(IntegrityError, match=file):
        open_segments(approximated, generation)


def test_errors_of_the_task_arrive_as_they_are(approximated):
    generation = read_generation(approximated)
    (segment,) = generation.segments
    Path(approximated.path_of(INDEX, SEGMENTS, segment.name, "rows.arrow")).unlink()
    with pytest.raises(IntegrityError, match=r"rows\.arrow is missing"):
        approximate_segments(approximated, generation.segments, generation.modalities, 0.9, EXACT_ROWS)


def test_a_recall_out_of_reach_is_searched_exactly_and_said(workspace, rows_factory, ray_session, capsys):
    count = 4_000  # so many are closer together than codes can tell
    rows, vectors = many(rows_factory, 0, count)
    rng = np.random.default_rng(0)
    for name in vectors:
        values = 1 + 1e-6 * rng.standard_normal((count, 32))
        vectors[name] = np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)
    generation = begin(workspace, rows, vectors)
    (segment,) = approximate_segments(workspace, generation.segments, generation.modalities, 0.9999, EXACT_ROWS)
    told = capsys.readouterr().err
    assert segment.approximate == {}
    for name in ("s1", "s2"):
        assert f"{segment.name}/{name}" in told.split("recall 0.9999 is not to be had approximately in ")[1]


def test_another_recall_embeds_nothing(archive, small_bundle, embedded, ray_session, capsys):
    """The archive is small: 44 pairs have too few rows for held-out queries, and are searched exactly all the same."""
    config = IndexConfig(workspace=archive.uri, actors=1, cpus_per_actor=1, recall=1.0)
    first = build_index(config)
    assert (first.number, first.recall) == (1, 1.0)
    embedded.clear()
    second = build_index(dataclasses.replace(config, recall=0.9, exact_rows=10))
    assert (second.number, second.recall, second.exact_rows) == (2, 0.9, 10)
    assert embedded == []
    assert [s.name for s in second.segments] == [s.name for s in first.segments]
    assert build_index(dataclasses.replace(config, recall=0.9, exact_rows=10)) == second


@pytest.mark.parametrize("change", [{"recall": 0.0}, {"recall": 1.01}, {"exact_rows": -1}])
def test_wrong_settings(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        IndexConfig(**change)
