"""Building an index on Ray: every pair once, whatever was killed on the way."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from sscm.archive.manifest import read_manifest, write_manifest
from sscm.config import CompactConfig, IndexConfig
from sscm.errors import (
    BandMismatchError,
    ConfigError,
    ConflictError,
    GenerationError,
    IntegrityError,
    ManifestError,
    WorkspaceError,
)
from sscm.index import build, embed, staging
from sscm.index.append import append_segment
from sscm.index.build import build_index
from sscm.index.compact import compact_index
from sscm.index.delete import delete_pairs
from sscm.index.embed import embed_shard, embed_shards, run_embedding
from sscm.index.filters import Filter
from sscm.index.generation import commit, open_segments, read_generation
from sscm.index.search import IndexReader
from sscm.model.bundle import save_bundle, untrained
from sscm.sensors import sentinel1


def settings(workspace, **changes):
    return IndexConfig(workspace=workspace.uri, actors=2, cpus_per_actor=1, batch_size=16, **changes)


def all_ids(workspace, generation):
    return sorted(i for s in open_segments(workspace, generation) for i in s.rows["pair_id"].to_pylist())


EVERY_PAIR = [f"pair_{number:04d}" for number in range(44)]


@pytest.fixture
def config(archive, small_bundle):
    return settings(archive)


def test_build_search_and_build_again(archive, small_bundle, config, ray_session, capsys, monkeypatch):
    monkeypatch.setattr(staging, "SEGMENT_ROWS", 25)
    generation = build_index(config)
    assert generation == read_generation(archive)
    assert (generation.number, generation.rows, generation.dimension) == (1, 44, 16)
    assert (generation.bundle, generation.fingerprint) == ("small", small_bundle.fingerprint)
    assert generation.modalities == ("s1", "s2") and generation.simulated
    assert [segment.rows for segment in generation.segments] == [24, 20]
    assert all_ids(archive, generation) == EVERY_PAIR
    assert archive.names("index", "staging") == []

    manifest = read_manifest(archive)
    reader = IndexReader(open_segments(archive, generation))
    for shard in manifest.shards:
        wanted = embed_shard(archive, small_bundle, shard, small_bundle.modalities, 64)
        hits = reader.search(wanted.vectors["s2"], target="s2", k=1)
        assert [found[0].pair_id for found in hits] == wanted.rows["pair_id"].to_pylist()
        assert all(found[0].score == pytest.approx(1, abs=1e-4) for found in hits)
        for row, pair_id in enumerate(wanted.rows["pair_id"].to_pylist()):
            segment, place = reader.find(pair_id)
            assert segment.rows["archive_file"][place].as_py() == shard.file
            assert segment.rows["archive_row"][place].as_py() == row

    monkeypatch.setattr(build, "run_embedding", None)  # nothing is embedded a second time
    capsys.readouterr()
    assert build_index(config) == generation
    assert "generation 1 already holds these 44 pairs" in capsys.readouterr().err
    assert archive.names("index", "generations") == ["1"]


def test_killed_half_way_and_run_again(archive, small_bundle, config, embedded, monkeypatch):
    """The build dies when three shards are staged; one of them is cut short besides."""
    run = build.run_embedding

    def killed(*args):
        for row in run(*args):
            yield row
            if len(embedded) == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "run_embedding", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(config)
    with pytest.raises(GenerationError, match="no index"):
        read_generation(archive)
    folder = Path(archive.path_of("index", "staging", f"{small_bundle.fingerprint[:12]}-plain"))
    staged = sorted(folder.iterdir())
    assert len(staged) == 3
    staged[0].write_bytes(staged[0].read_bytes()[:1000])
    first = list(embedded)
    embedded.clear()
    generation = build_index(config)
    assert len(embedded) == 4 and len(set(embedded) & set(first)) == 1
    assert all_ids(archive, generation) == EVERY_PAIR
    assert archive.names("index", "staging") == []


def test_killed_before_the_commit_and_run_again(archive, config, embedded, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            build_index(config)
    written = archive.names("index", "segments")
    (Path(archive.path_of("index", "segments", written[0])) / ".rows.parquet.1-2.part").write_bytes(b"half")
    embedded.clear()
    generation = build_index(config)
    assert embedded == []  # all of it was staged
    assert archive.names("index", "segments") == written == [segment.name for segment in generation.segments]
    assert archive.names("index", "segments", written[0]) == sorted(generation.segments[0].files)
    assert all_ids(archive, generation) == EVERY_PAIR


def test_a_bad_shard_stops_the_build_and_a_mended_one_ends_it(archive, config, embedded):
    shard = read_manifest(archive).shards[2]
    path = Path(archive.path_of("archive", *shard.file.split("/")))
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(IntegrityError, match=f"{shard.file} has {len(content) - 100} bytes; the manifest says"):
        build_index(config)
    path.write_bytes(content)
    assert all_ids(archive, build_index(config)) == EVERY_PAIR


def test_another_model_or_archive_makes_another_generation(archive, small_bundle, config, embedded):
    build_index(config)
    save_bundle(archive, dataclasses.replace(untrained(small_bundle, 5), name="other"))
    second = build_index(config)
    assert (second.number, second.bundle) == (2, "other")
    manifest = read_manifest(archive)
    write_manifest(archive, dataclasses.replace(manifest, shards=manifest.shards[:3]))
    third = build_index(config)
    assert (third.number, third.rows) == (3, sum(shard.rows for shard in manifest.shards[:3]))
    assert all_ids(archive, read_generation(archive, 2)) == EVERY_PAIR


def test_a_lost_file_is_made_again(archive, config, embedded):
    generation = build_index(config)
    archive.delete("index", "segments", generation.segments[0].name, "vectors_s1.npy")
    with pytest.raises(IntegrityError, match=r"vectors_s1\.npy is missing"):
        open_segments(archive, generation)
    again = build_index(config)
    assert again.number == 2
    assert all_ids(archive, again) == EVERY_PAIR


def test_a_build_that_was_overtaken(archive, config, embedded, monkeypatch):
    """Another build commits, and deletes what both had staged, before this one gathers its segments."""
    gather = build.gather_segments

    def overtaken(*args):
        with monkeypatch.context() as patch:
            patch.setattr(build, "gather_segments", gather)
            build_index(config)
        return gather(*args)

    with monkeypatch.context() as patch:
        patch.setattr(build, "gather_segments", overtaken)
        with pytest.raises(ConflictError, match="run the same command again"):
            build_index(config)
    assert build_index(config).number == 1


def test_two_builds_that_commit_at_the_same_time(archive, config, embedded, monkeypatch):
    def beaten(workspace, generation):
        commit(workspace, dataclasses.replace(generation, code_version="theirs"))
        commit(workspace, generation)

    monkeypatch.setattr(build, "commit", beaten)
    with pytest.raises(ConflictError, match="another `sscm index` committed first"):
        build_index(config)
    assert read_generation(archive).code_version == "theirs"


def test_deleted_pairs_return_with_a_full_build(archive, config, embedded, capsys):
    """Without embedding anything where segments still have them; after a compaction all is embedded anew."""
    whole = build_index(config)
    embedded.clear()
    delete_pairs(archive, Filter(ids=["pair_0003", "pair_0040"]))
    capsys.readouterr()
    again = build_index(config)
    assert (again.number, again.rows, again.segments, embedded) == (3, 44, whole.segments, [])
    assert "2 pairs that were deleted from generation 2 return" in capsys.readouterr().err
    delete_pairs(archive, Filter(split="test"))
    compacted = compact_index(CompactConfig(workspace=archive.uri)).generation
    assert (compacted.number, compacted.rows, compacted.sources) == (5, 32, whole.sources)
    capsys.readouterr()
    anew = build_index(config)
    assert (anew.number, anew.rows, len(embedded)) == (6, 44, 6)
    assert "12 pairs that were deleted from generation 5 return" in capsys.readouterr().err
    assert all_ids(archive, anew) == EVERY_PAIR and anew.segments == whole.segments


def test_what_came_from_elsewhere_is_left_out_by_a_full_build(archive, config, embedded, rows_factory, capsys):
    whole = build_index(config)
    more = append_segment(archive, *rows_factory([900, 901]))
    assert more.rows == 46
    capsys.readouterr()
    again = build_index(config)
    assert (again.number, again.segments) == (3, whole.segments)
    assert "pairs of generation 2 that came from 1 sources outside of the archive (first: elsewhere/" in (
        capsys.readouterr().err
    )


def test_a_build_is_the_remedy_for_a_manifest_that_was_altered(archive, config, embedded, capsys):
    whole = build_index(config)
    archive.write_bytes(b"{", "index", "generations", "1", "manifest.json")
    with pytest.raises(IntegrityError, match=r"manifest.json is not JSON"):
        append_segment(archive, None, {})
    again = build_index(config)
    assert (again.number, again.segments) == (2, whole.segments)
    assert "building anew" in capsys.readouterr().err


def test_embed_shards_hands_back_and_writes_nothing(archive, small_bundle, config, ray_session):
    model = untrained(small_bundle, 3)
    shards = read_manifest(archive).of_split("test")
    done = []
    found = {part.file: part for part in embed_shards(archive, model, shards, config, done.append)}
    assert sorted(found) == sorted(shard.file for shard in shards)
    assert sorted(done) == sorted(shard.rows for shard in shards)
    for shard in shards:
        wanted = embed_shard(archive, model, shard, model.modalities, 64)
        assert found[shard.file].rows.equals(wanted.rows)
        for name in ("s1", "s2"):
            np.testing.assert_allclose(found[shard.file].vectors[name], wanted.vectors[name], atol=1e-5)
    assert archive.names("index") == []
    assert list(embed_shards(archive, model, [], config)) == []


def test_errors_of_an_actor_arrive_as_they_are(archive, small_bundle, config, ray_session):
    """The actor cannot write, since a file is where its folder should be; then it finds no shard."""
    shard = read_manifest(archive).shards[0]
    archive.write_bytes(b"in the way", "index", "staging")
    with pytest.raises(WorkspaceError, match=r"cannot write .*/index/staging/part"):
        list(run_embedding(archive, small_bundle, [shard], config, {shard.file: ("index", "staging", "part")}))
    lost = dataclasses.replace(shard, file="shards/lost.parquet")
    with pytest.raises(WorkspaceError, match=r"shards/lost\.parquet: there is no such file"):
        list(embed_shards(archive, small_bundle, [lost], config))


def test_a_shard_that_ends_its_actor_each_time(archive, config, ray_session, monkeypatch):
    class Dying(embed._Embedder):
        def embed(self, shard):
            if shard.file == "shards/test-1.parquet":
                os._exit(1)
            return super().embed(shard)

    with monkeypatch.context() as patch:
        patch.setattr(embed, "_Embedder", Dying)
        patch.setattr(embed, "MAX_ATTEMPTS", 1)
        with pytest.raises(GenerationError, match=r"embedding shards/test-1.parquet ended its actor again"):
            build_index(config)
    assert all_ids(archive, build_index(config)) == EVERY_PAIR


def test_bands_that_differ(archive, small_bundle):
    manifest = read_manifest(archive)
    swapped = sentinel1(24)
    group = dataclasses.replace(swapped.groups[0], bands=swapped.groups[0].bands[::-1])
    changed = (dataclasses.replace(swapped, groups=(group,)), manifest.modalities[1])
    write_manifest(archive, dataclasses.replace(manifest, modalities=changed))
    with pytest.raises(BandMismatchError, match=r"'s1:VH', 's1:VV'.*'s1:VV', 's1:VH'"):
        build_index(settings(archive))


def test_some_splits_only(archive, config, embedded, capsys):
    whole = build_index(config)
    test = build_index(dataclasses.replace(config, splits=("test",)))
    assert (test.number, test.rows) == (2, 12)
    assert all_ids(archive, test) == EVERY_PAIR[32:]
    assert build_index(dataclasses.replace(config, splits=("test",))) == test
    both = build_index(dataclasses.replace(config, splits=("validation", "train")))
    assert all_ids(archive, both) == EVERY_PAIR[:32] and all_ids(archive, whole) == EVERY_PAIR
    manifest = read_manifest(archive)
    write_manifest(archive, dataclasses.replace(manifest, shards=manifest.of_split("train")))
    with pytest.raises(ConfigError, match=r"no pairs of splits \['test'\]; it has \{'train': 24"):
        build_index(dataclasses.replace(config, splits=("test",)))
    with pytest.raises(ConfigError, match="expected at least one of train"):
        dataclasses.replace(config, splits=())


def test_no_archive_and_a_workspace_that_cannot_be_written(workspace, tmp_path):
    with pytest.raises(ManifestError, match="no archive in this workspace"):
        build_index(settings(workspace))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkspaceError, match="cannot write"):
        build_index(IndexConfig(workspace=str(tmp_path / "file")))


def test_the_manifest_reads_without_code(archive, config, embedded):
    build_index(config)
    about = json.loads(Path(archive.path_of("index", "generations", "1", "manifest.json")).read_text())
    assert about["rows"] == 44 and about["modalities"] == ["s1", "s2"]
    assert {"rows.parquet", "vectors_s1.npy", "vectors_s2.npy"} <= set(about["segments"][0]["files"])
    assert set(about["segments"][0]["sources"]) == {shard.file for shard in read_manifest(archive).shards}
