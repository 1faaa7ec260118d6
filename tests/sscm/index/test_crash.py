"""Writers that die, fail or meet at any operation: a reader sees the old generation or the new one, nothing is lost."""

import contextlib
import dataclasses
import hashlib
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sscm.archive.manifest import read_manifest, write_manifest
from sscm.config import AppendConfig, CollectConfig, CompactConfig, IndexConfig
from sscm.errors import ConflictError, GenerationError, WorkspaceError
from sscm.index import append, build, compact, delete
from sscm.index.append import append_segment, append_to_index
from sscm.index.build import build_index
from sscm.index.compact import compact_index
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.follow import open_current
from sscm.index.garbage import collect_garbage
from sscm.index.generation import commit, generation_numbers, open_segments, read_generation
from sscm.index.search import IndexReader
from sscm.workspace import open_workspace
from tests.plugins.faults import Faults, KilledError, local_faults, store_faults
from tests.plugins.growing import begin, live_ids

QUERIES = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)


def names(numbers):
    return [f"pair_{number:04d}" for number in numbers]


class Commands:
    """What is done to an index of the pairs 0 to 5 in two segments, pairs 1 and 4 of them deleted."""

    def __init__(self, rows_factory):
        self.make = rows_factory

    def prepare(self, workspace, command):
        begin(workspace, *self.make(list(range(4))))
        append_segment(workspace, *self.make([4, 5]))
        delete_pairs(workspace, Filter(ids=names([1, 4])))
        if command == "gc":
            compact_index(CompactConfig(workspace=workspace.uri))

    def run(self, workspace, command):
        if command == "append":
            append_segment(workspace, *self.make([20, 21]))
        elif command == "delete":
            delete_pairs(workspace, Filter(ids=names([0, 5])))
        elif command == "compact":
            compact_index(CompactConfig(workspace=workspace.uri))
        else:
            collect_garbage(CollectConfig(workspace=workspace.uri, keep=1, min_age=0.0))

    def wanted(self, command):
        """Pairs after it has run."""
        left = [0, 2, 3, 5]
        return names({"append": [*left, 20, 21], "delete": [2, 3]}.get(command, left))


def state(workspace):
    """What a reader that opens the index now sees, every file compared; None where there is no index."""
    try:
        opened = open_current(workspace)
    except GenerationError as error:
        assert "there is no index" in str(error)
        return None
    hits = IndexReader(opened.segments).search(QUERIES, target="s1", k=100)
    return *seen_by(opened), [[(hit.pair_id, hit.score) for hit in one] for one in hits]


def litter(workspace):
    root = Path(workspace.path_of("index"))
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.part"))


@pytest.fixture
def commands(rows_factory):
    return Commands(rows_factory)


@pytest.mark.parametrize("kind", ["killed", "refused"])
@pytest.mark.parametrize("command", ["append", "delete", "compact", "gc"])
def test_at_every_operation(workspace, commands, command, kind):
    expected = KilledError if kind == "killed" else WorkspaceError
    commands.prepare(workspace, command)
    base = Path(workspace.path_of())
    before, reader = state(workspace), open_current(workspace)
    seen = set()
    for at in range(1, 1000):
        here = open_workspace(str(base.with_name(f"try-{at}")))
        shutil.copytree(base, here.path_of())
        faults = Faults(at, kind)
        failed = False
        try:
            with local_faults(Path(here.path_of()), faults):
                commands.run(here, command)
        except expected:
            failed = True
        found = state(here)
        after = (before[0] + (command != "gc"), commands.wanted(command))
        assert found == before or found[:2] == after, (at, found)
        seen.add(found[0])
        followed = open_current(here, reader)
        assert followed.refused is None and followed.generation.number == found[0]
        if not failed and command != "gc":
            assert found[:2] == after  # what returned has happened
        if kind == "refused":
            assert litter(here) == [] or faults.operation == "os.remove", at
        commands.run(here, command)
        found = state(here)
        assert found[:2] == after, at
        for number in generation_numbers(here):
            open_segments(here, read_generation(here, number))  # none lacks a file
        shutil.rmtree(here.path_of())
        if at > faults.count:
            break
    assert at > 5 and (command == "gc" or seen == {before[0], after[0]})


@pytest.mark.parametrize("command", ["append", "delete", "compact", "gc"])
def test_at_every_request_to_an_object_store(bucket, commands, command, monkeypatch):
    """Killed before any request; and, one time each, an answer that is lost: nobody knows whether it happened."""
    commands.prepare(bucket, command)
    base = bucket.fs.cat(bucket.fs.find(bucket.path_of()))
    before, reader = state(bucket), open_current(bucket)
    after = (before[0] + (command != "gc"), commands.wanted(command))
    # A compaction makes the same requests as an append: killing it is enough.
    at, kinds, seen = 0, ["killed"] if command == "compact" else ["killed", "unanswered"], set()
    while kinds:
        at += 1
        for kind in tuple(kinds):
            restore(bucket, base)
            faults = Faults(at, kind)
            failed = False
            try:
                with store_faults(monkeypatch, faults):
                    commands.run(bucket, command)
            except (KilledError, WorkspaceError) as error:
                failed = True
                assert isinstance(error, KilledError if kind == "killed" else WorkspaceError)
                assert not isinstance(error, ConflictError)  # there is nobody but us
            followed = open_current(bucket, reader)
            assert followed.refused is None
            found = seen_by(followed)
            assert found in (before[:2], after), (at, kind)
            assert failed or found == after
            seen.add(found[0])
            commands.run(bucket, command)
            followed = open_current(bucket, followed)
            assert followed.refused is None and seen_by(followed) == after, (at, kind)
            if at > faults.count:
                kinds.remove(kind)
    assert state(bucket)[:2] == after
    assert at > 4 and (command == "gc" or seen == {before[0], after[0]})


def restore(workspace, base):
    """Have just these objects in a bucket again."""
    fs = workspace.fs
    fs.invalidate_cache()
    there = fs.find(workspace.path_of(), detail=True)
    if more := [path for path in there if path not in base]:
        fs.rm(more)
    fs.pipe(
        {
            path: data
            for path, data in base.items()
            if path not in there or there[path]["ETag"].strip('"') != hashlib.md5(data).hexdigest()
        }
    )


def seen_by(opened):
    """Number of the generation that a reader has, and the pairs that it finds."""
    ids = [
        pair_id
        for segment in opened.segments
        for row, pair_id in enumerate(segment.rows["pair_id"].to_pylist())
        if segment.deleted is None or not segment.deleted[row]
    ]
    return opened.generation.number, sorted(ids)


def test_a_build_at_every_operation(workspace, archive_factory, small_factory, embedded, monkeypatch):
    """From the segments on to the commit, and an append of what came later likewise: both go on from what is staged."""
    archive_factory(workspace, 4, 2, 2)
    bundle = small_factory(workspace)
    monkeypatch.setattr(build, "load_bundle", lambda *_: bundle)  # reads, which change nothing, take most of the time
    monkeypatch.setattr(append, "load_encoders", lambda *_: bundle)
    every = [f"pair_{number:04d}" for number in range(8)]

    def stop(*_):
        raise KeyboardInterrupt

    for command in ("build", "append"):
        with monkeypatch.context() as patch:
            patch.setattr(build if command == "build" else append, "gather_segments", stop)
            with pytest.raises(KeyboardInterrupt):
                run_embedding(workspace, command)
        base = Path(workspace.path_of())
        before = state(workspace)
        for at in range(1, 1000):
            here = open_workspace(str(base.with_name(f"{command}-{at}")))
            shutil.copytree(base, here.path_of(), ignore=shutil.ignore_patterns("models", "shards"))
            faults = Faults(at)
            with local_faults(Path(here.path_of("index")), faults), contextlib.suppress(KilledError):
                run_embedding(here, command)
            found = state(here)
            after = (1, every[:4]) if command == "build" else (2, every)
            assert found == before or found[:2] == after, (command, at)
            run_embedding(here, command)
            assert state(here)[:2] == after, (command, at)
            shutil.rmtree(here.path_of())
            if at > faults.count:
                break
        assert at > 20
        run_embedding(workspace, command)


def run_embedding(workspace, command):
    """The first two shards are built, the rest is appended."""
    manifest = read_manifest(workspace)
    if command == "build":
        write_manifest(workspace, dataclasses.replace(manifest, shards=manifest.shards[:2]))
        try:
            build_index(IndexConfig(workspace=workspace.uri, adapt="none"))
        finally:
            write_manifest(workspace, manifest)
    else:
        append_to_index(AppendConfig(workspace=workspace.uri, splits=("train", "validation", "test")))


def meet(workspace, writers, monkeypatch):
    """Run writers that all start from the same generation, and commit at the same moment; what each came to."""
    barrier = threading.Barrier(len(writers))

    def at_once(*args):
        barrier.wait(30)
        commit(*args)

    results = [None] * len(writers)

    def run(place, write):
        try:
            results[place] = write()
        except ConflictError as error:
            results[place] = error

    with monkeypatch.context() as patch:
        for module in (append, delete, compact):
            patch.setattr(module, "commit", at_once)
        threads = [threading.Thread(target=run, args=item) for item in enumerate(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


@pytest.mark.parametrize("store", ["files", "objects"])
def test_writers_that_meet(store, rows_factory, monkeypatch, request):
    """One wins, the others are told; run again one after the other they lose nothing of anybody."""
    if store == "objects":
        from moto.s3.responses import S3Response

        one_at_a_time, put = threading.Lock(), S3Response.put_object

        def atomic(*args):  # an object store checks the condition and writes in one, its stand-in does not
            with one_at_a_time:
                return put(*args)

        monkeypatch.setattr(S3Response, "put_object", atomic)
    workspace = request.getfixturevalue("bucket" if store == "objects" else "workspace")
    begin(workspace, *rows_factory(list(range(6))))
    for attempt in range(2 if store == "objects" else 5):
        first = 100 + 10 * attempt
        append_segment(workspace, *rows_factory([first + 3]))  # so that there is something to compact
        writers = [
            lambda first=first: append_segment(workspace, *rows_factory([first, first + 1])),
            lambda first=first: append_segment(workspace, *rows_factory([first + 2])),
            lambda attempt=attempt: delete_pairs(workspace, Filter(ids=names([attempt]))),
            lambda: compact_index(CompactConfig(workspace=workspace.uri)),
        ]
        base, ids = read_generation(workspace).number, set(live_ids(workspace))
        results = meet(workspace, writers, monkeypatch)
        lost = [place for place, result in enumerate(results) if isinstance(result, ConflictError)]
        assert len(lost) == 3 and None not in results
        assert read_generation(workspace).number == base + 1
        for place in lost:
            writers[place]()
        assert set(live_ids(workspace)) == (ids | set(names(range(first, first + 3)))) - set(names([attempt]))
        assert workspace.names("index", "pins") == []


PROCESS = """
import sys, time
from pathlib import Path
from sscm.errors import ConflictError
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.workspace import open_workspace
uri, folder, *ids = sys.argv[1:]
workspace, conflicts = open_workspace(uri), 0
Path(folder, ids[0]).touch()
while not Path(folder, "go").exists():
    time.sleep(0.001)
for pair_id in ids:
    while True:
        try:
            delete_pairs(workspace, Filter(ids=[pair_id]))
            break
        except ConflictError:
            conflicts += 1
print(conflicts)
"""


def test_processes_that_write_at_the_same_time(workspace, rows_factory, tmp_path):
    begin(workspace, *rows_factory(list(range(40))))
    gate = tmp_path / "gate"
    gate.mkdir()
    shares = [names(range(first, 40, 4)) for first in range(3)]
    running = [
        subprocess.Popen([sys.executable, "-c", PROCESS, workspace.uri, gate, *ids], stdout=subprocess.PIPE)
        for ids in shares
    ]
    deadline = time.monotonic() + 60
    while len(list(gate.iterdir())) < 3:
        assert time.monotonic() < deadline and all(process.poll() is None for process in running)
        time.sleep(0.01)
    (gate / "go").touch()
    conflicts = [int(process.communicate(timeout=60)[0]) for process in running]
    assert all(process.returncode == 0 for process in running)
    assert live_ids(workspace) == names(range(3, 40, 4))
    # Thirty deletions, each a generation of its own: none was lost or made twice.
    assert generation_numbers(workspace) == list(range(1, 32)) and sum(conflicts) > 0
    for number in (2, 16, 31):
        assert len(live_ids(workspace, number)) == 41 - number
