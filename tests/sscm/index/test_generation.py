"""Generations: committed whole, by one writer, and finished by the next where a writer died."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from sscm.errors import ConflictError, GenerationError, IntegrityError
from sscm.index import generation as generation_module
from sscm.index.follow import open_current
from sscm.index.generation import (
    AdaptationInfo,
    Generation,
    SegmentInfo,
    commit,
    current_number,
    open_segments,
    read_generation,
    settle,
)
from sscm.index.segment import open_segment, write_segment
from sscm.index.tombstones import write_tombstones
from tests.plugins.growing import begin


@pytest.fixture
def make(rows_factory):
    def generation(workspace, number, pairs=range(10)):
        rows, vectors = rows_factory(list(pairs))
        name, files = write_segment(workspace, rows, vectors)
        segment = SegmentInfo(name=name, rows=len(rows), files=files, sources={"shards/a.parquet": "0" * 64})
        return Generation(
            number=number,
            segments=(segment,),
            modalities=("s1", "s2"),
            dimension=16,
            bundle="small",
            fingerprint="f" * 64,
            simulated=True,
            created="2026-01-01T00:00:00+00:00",
            code_version="0",
        )

    return generation


def test_round_trip(workspace, make):
    written = make(workspace, 1)
    commit(workspace, written)
    assert read_generation(workspace) == read_generation(workspace, 1) == written
    assert written.rows == 10 and written.sources == {"shards/a.parquet": "0" * 64}
    (segment,) = open_segments(workspace, written)
    assert len(segment) == 10
    manifest = workspace.read_json("index", "generations", "1", "manifest.json")
    assert manifest["simulated"] is True and manifest["rows"] == 10
    assert manifest["bundle"] == {"name": "small", "fingerprint": "f" * 64}


def test_with_what_adapts_it_and_a_manifest_of_before(workspace, make):
    info = AdaptationInfo(
        file="adaptations/a.safetensors",
        kind="centre",
        bytes=9,
        sha256="0" * 64,
        fingerprint="1" * 64,
        images={"s1": 70},
        pairs=80,
        most=4096,
        seed=0,
        sample="2" * 64,
    )
    written = dataclasses.replace(make(workspace, 1), adaptation=info)
    commit(workspace, written)
    assert read_generation(workspace) == written
    path = ("index", "generations", "1", "manifest.json")
    manifest = workspace.read_json(*path)
    assert manifest["format"] == 4 and manifest["adaptation"]["images"] == {"s1": 70}
    without_kind = {key: value for key, value in manifest["adaptation"].items() if key != "kind"}
    workspace.write_json({**manifest, "adaptation": without_kind}, *path)
    with pytest.raises(IntegrityError, match="kind"):
        read_generation(workspace)
    old = {key: value for key, value in manifest.items() if key != "emptied"}
    known = ("name", "rows", "files", "sources")
    old["segments"] = [{key: segment[key] for key in known} for segment in manifest["segments"]]
    workspace.write_json({**old, "format": 2}, *path)
    assert read_generation(workspace) == written
    del old["adaptation"]
    workspace.write_json({**old, "format": 1}, *path)
    assert read_generation(workspace) == dataclasses.replace(written, adaptation=None)
    workspace.write_json({**old, "format": 3}, *path)
    with pytest.raises(IntegrityError, match="adaptation"):
        read_generation(workspace)


def test_with_tombstones_and_properties(workspace, make):
    whole = make(workspace, 1)
    (info,) = whole.segments
    dead = write_tombstones(workspace, info.name, np.array([7, 2, 2]))
    segment = dataclasses.replace(info, properties=("country",), deleted=dead)
    written = dataclasses.replace(whole, segments=(segment,), emptied={"shards/b.parquet": "1" * 64})
    commit(workspace, written)
    assert read_generation(workspace) == written
    assert (written.rows, written.deleted, segment.live, segment.rows) == (8, 2, 8, 10)
    assert written.sources == {"shards/a.parquet": "0" * 64, "shards/b.parquet": "1" * 64}
    assert segment.bytes == info.bytes + dead.bytes
    assert workspace.read_json("index", "generations", "1", "manifest.json")["rows"] == 8
    (opened,) = open_segments(workspace, written)
    assert opened.live == 8 and opened.find("pair_0002") is None and opened.find("pair_0003") == 3
    assert write_tombstones(workspace, info.name, np.array([], np.int64)) is None


def test_tombstones_that_were_altered_or_lost(workspace, make):
    whole = make(workspace, 1)
    (info,) = whole.segments
    dead = write_tombstones(workspace, info.name, np.array([1, 2]))
    written = dataclasses.replace(whole, segments=(dataclasses.replace(info, deleted=dead),))
    path = Path(workspace.path_of("index", "segments", info.name, dead.file))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    with pytest.raises(IntegrityError, match=rf"{dead.file} was altered"):
        open_segments(workspace, written)
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"{dead.file} is missing: the segment's deleted rows are not known"):
        open_segments(workspace, written)
    far = write_tombstones(workspace, info.name, np.array([10]))
    (opened,) = open_segments(workspace, whole)
    written = dataclasses.replace(whole, segments=(dataclasses.replace(info, deleted=far),))
    for known in ({}, {info.name: opened}):
        with pytest.raises(IntegrityError, match="has 10 rows; its tombstones name"):
            open_segments(workspace, written, opened=known)


def test_open_segments_are_taken_over(workspace, make, monkeypatch):
    """Of a generation that follows, only what is new is read, and which rows are deleted."""
    one, two = make(workspace, 1), make(workspace, 2, range(10, 14))
    opened = {segment.name: segment for segment in open_segments(workspace, one)}
    both = dataclasses.replace(two, segments=one.segments + two.segments)
    read = []
    monkeypatch.setattr(generation_module, "open_segment", lambda *args: read.append(args[1]) or open_segment(*args))
    segments = open_segments(workspace, both, opened=opened)
    assert read == [two.segments[0].name]
    assert segments[0] is opened[one.segments[0].name]
    dead = write_tombstones(workspace, one.segments[0].name, np.array([4]))
    info = dataclasses.replace(one.segments[0], deleted=dead)
    (after,) = open_segments(workspace, dataclasses.replace(one, segments=(info,)), opened=opened)
    assert after.live == 9 and after.vectors("s1") is segments[0].vectors("s1") and segments[0].live == 10
    (restored,) = open_segments(workspace, one, opened={after.name: after})
    assert restored.live == 10


def test_a_reader_follows_and_keeps_what_it_has_where_the_new_one_is_not_whole(workspace, make):
    with pytest.raises(GenerationError, match="no index"):
        open_current(workspace)
    one = make(workspace, 1)
    commit(workspace, one)
    opened = open_current(workspace)
    assert open_current(workspace, opened) is opened
    new = make(workspace, 2, range(10, 14))
    commit(workspace, dataclasses.replace(new, segments=one.segments + new.segments))
    path = Path(workspace.path_of("index", "segments", new.segments[0].name, "vectors_s1.npy"))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match=r"vectors_s1.npy has"):
        open_current(workspace)
    kept = open_current(workspace, opened)
    assert kept.generation == one and kept.segments == opened.segments
    assert isinstance(kept.refused, IntegrityError) and "vectors_s1.npy has" in str(kept.refused)
    path.write_bytes(content)
    after = open_current(workspace, kept)
    assert (after.generation.number, after.refused) == (2, None)
    assert after.segments[0] is opened.segments[0] and len(after.segments[1]) == 4
    workspace.delete("index", "generations", "2")
    kept = open_current(workspace, opened)
    assert kept.generation == one and "no such generation" in str(kept.refused)


def test_older_generations_stay(workspace, make):
    first, second = make(workspace, 1), make(workspace, 2, range(20))
    commit(workspace, first)
    commit(workspace, second)
    assert current_number(workspace) == 2
    assert read_generation(workspace, 1) == first and read_generation(workspace) == second
    assert len(open_segments(workspace, first)[0]) == 10


def test_nothing_there(workspace, make):
    with pytest.raises(GenerationError, match="no index in this workspace; `sscm index` makes one"):
        read_generation(workspace)
    assert settle(workspace) == 0
    commit(workspace, make(workspace, 1))
    with pytest.raises(GenerationError, match=r"generations/7/manifest.json: .*the index has \[1\]"):
        read_generation(workspace, 7)


def test_of_two_writers_one_wins_and_the_other_is_told(workspace, make):
    ready = threading.Barrier(4)
    results = []

    def write(pairs):
        mine = make(workspace, 1, range(pairs))
        ready.wait()
        try:
            commit(workspace, mine)
            results.append(mine)
        except ConflictError as error:
            results.append(error)

    threads = [threading.Thread(target=write, args=(pairs,)) for pairs in (5, 6, 7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [result for result in results if isinstance(result, Generation)]
    assert len(won) == 1 and len(results) == 4
    assert read_generation(workspace) == won[0]
    assert [n for n in workspace.names("index", "generations", "1")] == ["manifest.json"]


def test_a_writer_that_was_overtaken(workspace, make):
    """Its number was committed, followed and collected meanwhile: nothing of it may come into being."""
    for number in (1, 2, 3):
        commit(workspace, make(workspace, number, range(number)))
    workspace.delete("index", "generations", "2")
    with pytest.raises(ConflictError, match="another `sscm index` committed first"):
        commit(workspace, make(workspace, 2))
    assert current_number(workspace) == 3 and workspace.names("index", "generations") == ["1", "3"]


def test_a_writer_that_another_one_builds_upon_has_won(workspace, make, monkeypatch):
    """Between our manifest and ``CURRENT`` another writer settles, and commits what follows ours."""
    ours, theirs = make(workspace, 1), make(workspace, 2, range(20))
    create = generation_module._create

    def followed(*args):
        create(*args)
        monkeypatch.setattr(generation_module, "_create", create)
        assert settle(workspace) == 1
        commit(workspace, theirs)

    monkeypatch.setattr(generation_module, "_create", followed)
    commit(workspace, ours)
    assert read_generation(workspace) == theirs and read_generation(workspace, 1) == ours


def test_current_never_stays_behind(workspace, make, monkeypatch):
    """A writer about to write ``CURRENT`` is held up, and overwrites that of the one that followed it."""
    ours, theirs = make(workspace, 1), make(workspace, 2, range(20))
    pointed = generation_module._pointed

    def held_up(where):
        before = pointed(where)
        if workspace.exists("index", "generations", "1", "manifest.json"):
            monkeypatch.setattr(generation_module, "_pointed", pointed)
            assert settle(workspace) == 1
            commit(workspace, theirs)
        return before

    monkeypatch.setattr(generation_module, "_pointed", held_up)
    commit(workspace, ours)
    assert current_number(workspace) == 2


def test_a_current_that_was_altered_or_lost_is_mended_by_the_next_writer(workspace, make):
    for number in (1, 2):
        commit(workspace, make(workspace, number, range(number)))
    for content in (b"{", b'{"generation": "two"}'):
        workspace.write_bytes(content, "index", "CURRENT")
        with pytest.raises(IntegrityError, match="CURRENT"):
            read_generation(workspace)
        assert settle(workspace) == 2 == current_number(workspace)
    workspace.delete("index", "CURRENT")
    assert settle(workspace) == 2 == current_number(workspace)


def test_a_writer_that_died_before_the_last_write_is_finished_by_the_next(workspace, make, monkeypatch):
    commit(workspace, make(workspace, 1))

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generation_module, "_point", die)
        with pytest.raises(KeyboardInterrupt):
            commit(workspace, make(workspace, 2, range(20)))
    assert read_generation(workspace).number == 1
    assert settle(workspace) == 2
    assert read_generation(workspace).rows == 20


def test_altered_manifests(workspace, make):
    written = make(workspace, 1)
    commit(workspace, written)
    path = ("index", "generations", "1", "manifest.json")
    whole = workspace.read_json(*path)
    workspace.write_bytes(workspace.read_bytes(*path)[:100], *path)
    with pytest.raises(IntegrityError, match=r"manifest.json is not JSON"):
        read_generation(workspace)
    workspace.write_json({**whole, "format": 99}, *path)
    with pytest.raises(GenerationError, match="format 99; this version of sscm reads formats 1 to 4"):
        read_generation(workspace)
    workspace.write_json({key: value for key, value in whole.items() if key != "segments"}, *path)
    with pytest.raises(IntegrityError, match="segments"):
        read_generation(workspace)
    effort = {"probes": 1, "candidates": 1, "widest": 1, "margin": 0.0}
    listed = {"file": "lists.npy", "lists": 4, "effort": effort, "asked": 0.9, "recall": {}, "queries": 1}
    segments = [{**whole["segments"][0], "approximate": {"s2": listed}}]
    workspace.write_json({**whole, "segments": segments}, *path)
    with pytest.raises(IntegrityError, match=r"\['lists.npy'\], which are not among its files"):
        read_generation(workspace)
    workspace.write_json(["?"], "index", "CURRENT")
    with pytest.raises(IntegrityError, match=r"CURRENT holds \['\?'\]"):
        read_generation(workspace)


def test_an_altered_segment_is_refused(workspace, make):
    written = make(workspace, 1)
    commit(workspace, written)
    path = Path(workspace.path_of("index", "segments", written.segments[0].name, "vectors_s2.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"vectors_s2.npy was altered"):
        open_segments(workspace, written)
    assert len(open_segments(workspace, written, verify=False)) == 1


def test_on_an_object_store(bucket, make, rows_factory):
    written = make(bucket, 1)
    commit(bucket, written)
    with pytest.raises(ConflictError, match="another `sscm index` committed first"):
        commit(bucket, dataclasses.replace(written, dimension=17))
    assert read_generation(bucket) == written
    bucket.delete("index", "CURRENT")
    with pytest.raises(ConflictError, match="another `sscm index` committed first"):
        commit(bucket, dataclasses.replace(written, dimension=17))
    commit(bucket, written)  # an attempt whose answer was lost, made again
    assert read_generation(bucket) == written
    (segment,) = open_segments(bucket, written)
    np.testing.assert_array_equal(segment.vectors("s2"), rows_factory(list(range(10)))[1]["s2"])
    assert segment.find("pair_0004") == 4
    bucket.write_bytes(b"short", "index", "segments", written.segments[0].name, "vectors_s1.npy")
    with pytest.raises(IntegrityError, match=f"{bucket.uri}/.*vectors_s1.npy has 5 bytes"):
        open_segments(bucket, written)
    bucket.delete("index", "segments", written.segments[0].name, "vectors_s1.npy")
    with pytest.raises(IntegrityError, match=r"vectors_s1.npy is missing"):
        open_segments(bucket, written)


def test_a_store_that_does_not_say_which_condition_failed(remote, proxy, rows_factory):
    later = dataclasses.replace(begin(remote, *rows_factory(list(range(4)))), number=2)
    remote.write_json({"of": "another"}, "index", "generations", "2", "manifest.json")
    proxy.add("status", status=412, method="PUT", path="generations/2/")
    with pytest.raises(ConflictError, match="another `sscm index` committed first"):
        commit(remote, later)
