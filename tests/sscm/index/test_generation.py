"""Generations: committed whole, by one writer, and finished by the next where a writer died."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from sscm.errors import ConflictError, GenerationError, IntegrityError
from sscm.index import generation as generation_module
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
from sscm.index.segment import write_segment
from sscm.workspace import open_workspace


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
    assert manifest["format"] == 2 and manifest["adaptation"]["images"] == {"s1": 70}
    without_kind = {key: value for key, value in manifest["adaptation"].items() if key != "kind"}
    workspace.write_json({**manifest, "adaptation": without_kind}, *path)
    with pytest.raises(IntegrityError, match="kind"):
        read_generation(workspace)
    before = {key: value for key, value in manifest.items() if key != "adaptation"}
    workspace.write_json({**before, "format": 1}, *path)
    assert read_generation(workspace) == dataclasses.replace(written, adaptation=None)
    workspace.write_json(before, *path)
    with pytest.raises(IntegrityError, match="adaptation"):
        read_generation(workspace)


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


def test_a_writer_that_was_overtaken(workspace, make, monkeypatch):
    create = generation_module._create

    def overtaken(*args):
        create(*args)
        generation_module._point(workspace, 3)

    monkeypatch.setattr(generation_module, "_create", overtaken)
    with pytest.raises(ConflictError, match="generation 3 was committed while 2"):
        commit(workspace, make(workspace, 2))
    assert current_number(workspace) == 3


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
    with pytest.raises(GenerationError, match="format 99; this version of sscm reads formats 1 and 2"):
        read_generation(workspace)
    workspace.write_json({key: value for key, value in whole.items() if key != "segments"}, *path)
    with pytest.raises(IntegrityError, match="segments"):
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


@pytest.fixture
def bucket(monkeypatch, free_port):
    """A bucket on a server that speaks S3, on a free port."""
    import s3fs
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port, verbose=False)
    server.start()
    options = {"client_kwargs": {"endpoint_url": f"http://127.0.0.1:{free_port}"}}
    s3fs.S3FileSystem(**options).mkdir("archive-of-tests")
    yield open_workspace("s3://archive-of-tests/w", options)
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_on_an_object_store(bucket, make, rows_factory):
    written = make(bucket, 1)
    commit(bucket, written)
    with pytest.raises(ConflictError, match="another `sscm index` committed first"):
        commit(bucket, dataclasses.replace(written, dimension=17))
    assert read_generation(bucket) == written
    (segment,) = open_segments(bucket, written)
    np.testing.assert_array_equal(segment.vectors("s2"), rows_factory(list(range(10)))[1]["s2"])
    assert segment.find("pair_0004") == 4
    bucket.write_bytes(b"short", "index", "segments", written.segments[0].name, "vectors_s1.npy")
    with pytest.raises(IntegrityError, match=r"s3://archive-of-tests/w/.*vectors_s1.npy has 5 bytes"):
        open_segments(bucket, written)
    bucket.delete("index", "segments", written.segments[0].name, "vectors_s1.npy")
    with pytest.raises(IntegrityError, match=r"vectors_s1.npy is missing"):
        open_segments(bucket, written)
