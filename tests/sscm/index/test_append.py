"""Appending: what is new is embedded once, as the rest was, and becomes a segment of its own."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from sscm.archive.manifest import read_manifest, write_manifest
from sscm.config import AppendConfig, IndexConfig
from sscm.errors import BandMismatchError, ConfigError, ConflictError, GenerationError, ManifestError
from sscm.index import append, build
from sscm.index import generation as generation_module
from sscm.index.append import append_segment, append_to_index
from sscm.index.build import build_index
from sscm.index.delete import delete_pairs
from sscm.index.embed import embed_shard
from sscm.index.encoders import load_encoders
from sscm.index.filters import Filter
from sscm.index.generation import current_number, open_segments, read_generation, settle
from sscm.index.search import IndexReader
from sscm.model.bundle import save_bundle, untrained
from tests.plugins.growing import answers, begin, live_ids, scanned

EVERY_PAIR = [f"pair_{number:04d}" for number in range(44)]


def names(numbers):
    return [f"pair_{number:04d}" for number in numbers]


def config(workspace, splits=("train", "validation", "test")):
    return AppendConfig(workspace=workspace.uri, batch_size=16, splits=splits)


def test_only_new_shards_are_embedded(grown, embedded, capsys):
    first = read_generation(grown)
    generation = append_to_index(config(grown))
    shards = read_manifest(grown).shards
    assert embedded == [shard.file for shard in shards[3:]]
    assert (generation.number, generation.rows, len(generation.segments)) == (2, 44, 2)
    assert generation.segments[0] == first.segments[0]
    assert generation.segments[1].properties == ("country", "number")
    assert generation.sources == {shard.file: shard.sha256 for shard in shards}
    assert live_ids(grown) == EVERY_PAIR and live_ids(grown, 1) == EVERY_PAIR[:28]
    assert grown.names("index", "staging") == [] and grown.names("index", "pins") == []
    embedded.clear()
    assert append_to_index(config(grown)) == generation
    assert embedded == [] and "nothing to append" in capsys.readouterr().err


def test_images_are_embedded_as_the_index_is_adapted(larger, larger_bundle, embedded):
    manifest = read_manifest(larger)
    write_manifest(larger, dataclasses.replace(manifest, shards=manifest.shards[2:]))
    first = build_index(IndexConfig(workspace=larger.uri))
    assert first.adaptation is not None and first.adaptation.images
    write_manifest(larger, manifest)
    generation = append_to_index(config(larger))
    assert (generation.adaptation, generation.rows) == (first.adaptation, 128)
    encoders = load_encoders(larger, first)
    reader = IndexReader(open_segments(larger, generation))
    for shard in manifest.shards[:2]:
        wanted = embed_shard(larger, encoders, shard, encoders.modalities, 16)
        for row, pair_id in enumerate(wanted.rows["pair_id"].to_pylist()):
            segment, place = reader.find(pair_id)
            np.testing.assert_allclose(segment.vectors("s2")[place], wanted.vectors["s2"][row], atol=1e-5)


def test_killed_half_way_and_run_again(grown, embedded, monkeypatch):
    run = build.run_embedding

    def killed(*args):
        for row in run(*args):
            yield row
            if len(embedded) == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "run_embedding", killed)
        with pytest.raises(KeyboardInterrupt):
            append_to_index(config(grown))
    assert current_number(grown) == 1
    append_to_index(config(grown))
    assert len(embedded) == len(set(embedded)) == 3
    assert live_ids(grown) == EVERY_PAIR and grown.names("index", "staging") == []


def test_another_append_was_first(grown, embedded, monkeypatch):
    """The other one commits while this one embeds, and takes away what both had staged."""
    gather = append.gather_segments

    def overtaken(*args):
        with monkeypatch.context() as patch:
            patch.setattr(append, "gather_segments", gather)
            append_to_index(config(grown))
        return gather(*args)

    with monkeypatch.context() as patch:
        patch.setattr(append, "gather_segments", overtaken)
        with pytest.raises(ConflictError, match="generation 2 was committed meanwhile; run the same command again"):
            append_to_index(config(grown))
    assert append_to_index(config(grown)).number == 2
    assert live_ids(grown) == EVERY_PAIR


def test_what_was_staged_outlives_a_conflict(grown, embedded, monkeypatch):
    """A deletion commits first: the append is run again and embeds nothing a second time."""
    gather = append.gather_segments

    def overtaken(*args):
        delete_pairs(grown, Filter(ids=["pair_0001"]))
        return gather(*args)

    with monkeypatch.context() as patch:
        patch.setattr(append, "gather_segments", overtaken)
        with pytest.raises(ConflictError, match="another `sscm index` committed first"):
            append_to_index(config(grown))
    embedded.clear()
    assert append_to_index(config(grown)).number == 3
    assert embedded == [] and live_ids(grown) == [i for i in EVERY_PAIR if i != "pair_0001"]


def test_splits_are_those_of_the_index(archive, small_bundle, embedded, capsys):
    manifest = read_manifest(archive)
    few = [shard for shard in manifest.shards if shard.file not in ("shards/test-1.parquet", "shards/train-1.parquet")]
    write_manifest(archive, dataclasses.replace(manifest, shards=tuple(few)))
    build_index(IndexConfig(workspace=archive.uri, splits=("test",)))
    write_manifest(archive, manifest)
    embedded.clear()
    append_to_index(config(archive, splits=None))
    assert embedded == ["shards/test-1.parquet"]
    assert "4 new shards of split train, validation are left out; --splits names" in capsys.readouterr().err
    assert live_ids(archive) == EVERY_PAIR[32:]
    assert append_to_index(config(archive, splits=("validation",))).rows == 20
    write_manifest(archive, dataclasses.replace(manifest, shards=manifest.of_split("test")))
    with pytest.raises(ConfigError, match=r"no pairs of splits \['train'\]; it has"):
        append_to_index(config(archive, splits=("train",)))


def test_a_shard_that_changed_is_refused(grown, embedded):
    manifest = read_manifest(grown)
    changed = dataclasses.replace(manifest.shards[1], sha256="5" * 64)
    write_manifest(grown, dataclasses.replace(manifest, shards=(manifest.shards[0], changed, *manifest.shards[2:])))
    with pytest.raises(
        GenerationError, match=r"train-1.parquet has SHA-256 555555555555; index generation 1 .*sscm ind"
    ):
        append_to_index(config(grown))
    assert embedded == []


def test_another_model_under_its_name_is_refused(grown, small_bundle, embedded):
    other = untrained(small_bundle, 5)
    save_bundle(grown, dataclasses.replace(other, name="small"))
    with pytest.raises(GenerationError) as caught:
        append_to_index(config(grown))
    assert other.fingerprint[:12] in str(caught.value) and small_bundle.fingerprint[:12] in str(caught.value)
    assert embedded == []


def test_bands_that_differ_and_nothing_to_append_to(grown, workspace, small_bundle, tmp_path, rows_factory):
    manifest = read_manifest(grown)
    write_manifest(grown, dataclasses.replace(manifest, modalities=manifest.modalities[:1]))
    with pytest.raises(BandMismatchError):
        append_to_index(config(grown))
    grown.delete("index")
    with pytest.raises(GenerationError, match="there is no index in this workspace; `sscm index` makes one"):
        append_to_index(config(grown))
    with pytest.raises(GenerationError, match="there is no index"):
        append_segment(grown, *rows_factory([1]))
    grown.delete("archive")
    with pytest.raises(ManifestError, match="no archive"):
        append_to_index(config(grown))


def test_embeddings_from_elsewhere(workspace, rows_factory, monkeypatch):
    begin(workspace, *rows_factory(list(range(10))))
    rows, vectors = rows_factory([40, 12, 33], lacking={33})
    generation = append_segment(workspace, rows.append_column("more", pa.array([1, 2, 3])), vectors)
    assert (generation.number, generation.rows) == (2, 13)
    name = generation.segments[1].name
    assert generation.segments[1].sources == {f"elsewhere/{name}": name}
    queries = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    together = rows_factory([*range(10), 40, 12, 33], lacking={33})
    for target in ("s1", "s2"):
        assert answers(workspace, queries, target) == scanned(*together, queries, target)
    assert append_segment(workspace, rows, vectors) == generation  # the same again changes nothing
    assert append_segment(workspace, rows[:0], {m: v[:0] for m, v in vectors.items()}) == generation
    monkeypatch.setattr(append, "SEGMENT_ROWS", 2)
    parts = append_segment(workspace, *rows_factory([50, 51, 52]), sources={"files/x": "1" * 64})
    assert [segment.rows for segment in parts.segments] == [10, 3, 2, 1]
    assert parts.sources["files/x"] == "1" * 64


def test_rows_that_were_deleted_return(workspace, rows_factory):
    begin(workspace, *rows_factory(list(range(10))))
    new = rows_factory([20, 21])
    append_segment(workspace, *new)
    delete_pairs(workspace, Filter(ids=["pair_0020"]))
    with pytest.raises(
        GenerationError, match=r"2 rows are segment .* of index generation 3, from which 1 were deleted"
    ):
        append_segment(workspace, *new)
    append_segment(workspace, *rows_factory([20]))
    assert live_ids(workspace) == names([*range(10), 20, 21])
    delete_pairs(workspace, Filter(ids=names([20, 21])))
    append_segment(workspace, *new)
    assert live_ids(workspace) == names([*range(10), 20, 21])


def wrong(what):
    def change(rows, vectors):
        return what(rows, {name: values.copy() for name, values in vectors.items()})

    return change


def with_value(name, row, value):
    def change(rows, vectors):
        vectors[name][row] = value
        return rows, vectors

    return wrong(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_value("s1", (1, 2), np.nan), r"embeddings of s1: 1 are not finite \(first: pair 'pair_0021'\)"),
        (with_value("s2", 0, 0), r"embeddings of s2: 1 are not of unit norm \(first: pair 'pair_0020'\)"),
        (with_value("s2", 2, 0.25), r"embeddings of s2: 1 are not zero, though their pairs have no such image"),
        (wrong(lambda r, v: (r, {"s1": v["s1"] * 2, "s2": v["s2"]})), r"of s1: 3 are not of unit norm"),
        (wrong(lambda r, v: (r, {"s1": v["s1"]})), r"vectors of modalities \['s1'\]; expected \['s1', 's2'\]"),
        (
            wrong(lambda r, v: (r, {"s1": v["s1"], "s2": v["s2"][:, :8]})),
            r"float32 \(3, 8\); expected float32 \(3, 16\)",
        ),
        (wrong(lambda r, v: (r, {"s1": v["s1"], "s2": v["s2"][:2]})), r"\(2, 16\); expected float32 \(3, 16\)"),
        (wrong(lambda r, v: (r, {"s1": v["s1"], "s2": v["s2"].astype(int)})), r"int64 .*expected float32"),
        (wrong(lambda r, v: (r.drop(["bbox", "split"]), v)), r"columns \['split', 'bbox'\] are missing"),
        (
            wrong(lambda r, v: (r.set_column(0, "pair_id", pa.array(["a", "b", "a"])), v)),
            r"1 pair ids occur more .*\(a\)",
        ),
        (wrong(lambda r, v: (r.set_column(0, "pair_id", pa.array(["a", None, "b"])), v)), r"pair_id is null in 1 rows"),
        (wrong(lambda r, v: (r.set_column(0, "pair_id", pa.array(["a", "", "b"])), v)), r"a pair_id is empty"),
        (wrong(lambda r, v: (r.set_column(0, "pair_id", pa.array([[1], [2], [3]])), v)), r"expected the schema"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(workspace, rows_factory, change, message):
    begin(workspace, *rows_factory(list(range(10))))
    with pytest.raises(GenerationError, match=message):
        append_segment(workspace, *change(*rows_factory([20, 21, 22], lacking={22})))
    assert current_number(workspace) == 1 and len(workspace.names("index", "segments")) == 1


def test_an_append_that_died_before_the_last_write_and_is_made_again(workspace, rows_factory, monkeypatch):
    begin(workspace, *rows_factory(list(range(10))))

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generation_module, "_point", die)
        with pytest.raises(KeyboardInterrupt):
            append_segment(workspace, *rows_factory([20, 21]))
    assert current_number(workspace) == 1
    assert append_segment(workspace, *rows_factory([20, 21])).number == 2
    assert settle(workspace) == 2 and live_ids(workspace) == names([*range(10), 20, 21])


def test_settings_that_cannot_work():
    with pytest.raises(ConfigError, match="splits: none given"):
        AppendConfig(splits=())
    with pytest.raises(ConfigError, match="at least 1"):
        AppendConfig(actors=0)
