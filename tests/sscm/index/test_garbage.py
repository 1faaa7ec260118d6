"""Collecting: what no generation needs goes, what anybody may need stays."""

import contextlib
import dataclasses
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from sscm.config import CollectConfig, CompactConfig
from sscm.errors import ConfigError, GenerationError, IntegrityError
from sscm.index import garbage, pins
from sscm.index.append import append_segment
from sscm.index.compact import compact_index
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.generation import AdaptationInfo, commit, current_number, open_segments, read_generation
from sscm.index.pins import Pin, pinned, writing
from sscm.index.segment import write_segment
from sscm.index.tombstones import write_tombstones
from tests.plugins.growing import begin, live_ids


def names(numbers):
    return [f"pair_{number:04d}" for number in numbers]


def collect(workspace, **changes):
    return garbage.collect_garbage(CollectConfig(**{"workspace": workspace.uri, "min_age": 0.0, **changes}))


def grow(workspace, rows_factory):
    """Five generations: one segment, two, some deleted of each, and the compacted one, some deleted of that."""
    begin(workspace, *rows_factory(list(range(10))))
    append_segment(workspace, *rows_factory(list(range(10, 15))))
    delete_pairs(workspace, Filter(ids=names([3, 12])))
    compact_index(CompactConfig(workspace=workspace.uri))
    delete_pairs(workspace, Filter(ids=names([4])))
    return workspace


@pytest.fixture
def index(workspace, rows_factory):
    return grow(workspace, rows_factory)


def files_of(workspace):
    root = Path(workspace.path_of("index"))
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def segments_of(workspace, *numbers):
    return sorted({info.name for number in numbers for info in read_generation(workspace, number).segments})


def lose_a_reader(workspace, number):
    """A pin of a machine that was lost: what a reader wrote, an hour old."""
    pin = Pin(workspace, number, "a reader")
    about = workspace.read_json("index", "pins", pin.lease.file)
    pin.release()
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    workspace.write_json({**about, "expires": hour_ago}, "index", "pins", pin.lease.file)


LEFT = names(number for number in range(15) if number not in (3, 4, 12))


def test_old_generations_go_with_what_only_they_need(index):
    before = files_of(index)
    freed = collect(index)
    after = files_of(index)
    assert (freed.generations, freed.segments, freed.waiting, freed.writers) == ((1, 2, 3), 2, 0, ())
    gone = set(before) - set(after)
    assert len(gone) == freed.files and sum(before[name] for name in gone) == freed.bytes
    assert index.names("index", "generations") == ["4", "5"] and current_number(index) == 5
    assert index.names("index", "segments") == segments_of(index, 4, 5)
    assert live_ids(index) == LEFT and live_ids(index, 4) == sorted([*LEFT, "pair_0004"])
    again = collect(index)
    assert (again.generations, again.files, again.bytes) == ((), 0, 0)
    # The tombstones of a segment that stays go with the last generation that names them.
    delete_pairs(index, Filter(ids=names([5])))
    assert collect(index, keep=1).generations == (4, 5)
    (info,) = read_generation(index).segments
    assert index.names("index", "segments", info.name) == sorted([*info.files, info.deleted.file])
    assert live_ids(index) == [pair_id for pair_id in LEFT if pair_id != "pair_0005"]


def test_more_stay_where_more_are_wanted(index):
    assert collect(index, keep=4).generations == (1,)
    assert live_ids(index, 2) == names(range(15))  # shares its segments with the one that went
    assert collect(index, keep=9).generations == ()


def test_what_was_written_lately_stays(index):
    before = files_of(index)
    freed = collect(index, min_age=1.0)
    assert (freed.generations, freed.files, freed.bytes) == ((), 0, 0) and files_of(index) == before
    write_segment(index, *_some_rows(index))  # an append that is about to be committed
    assert collect(index, min_age=1.0).waiting > 0
    hours_ago = time.time() - 7200
    for path in Path(index.path_of("index", "generations")).rglob("manifest.json"):
        os.utime(path, (hours_ago, hours_ago))
    freed = collect(index, min_age=1.0)
    assert (freed.generations, freed.segments) == ((1, 2, 3), 0)  # their files are younger
    assert freed.waiting > 0 and live_ids(index) == LEFT


def _some_rows(workspace):
    (segment,) = open_segments(workspace, read_generation(workspace))
    part = segment.slice(0, 2)
    return part.rows, dict(part.embeddings)


def test_a_segment_that_is_old_in_part_stays(index):
    """The first of its files is older than the limit, the last is not: its writer is at work."""
    name, _ = write_segment(index, *_some_rows(index))
    path = Path(index.path_of("index", "segments", name, "vectors_s1.npy"))
    os.utime(path, (0, 0))
    assert collect(index, min_age=1.0).segments == 0 and path.exists()


def test_a_dry_run_says_what_would_go(index):
    lose_a_reader(index, 1)
    before = files_of(index)
    dry = collect(index, dry_run=True)
    assert files_of(index) == before
    assert collect(index) == dry and dry.generations == (1, 2, 3)


def test_what_is_pinned_stays_whole(index):
    with pinned(index, 2, "a reader") as generation:
        assert collect(index).generations == (1, 3)
        assert live_ids(index, 2) == names(range(15))
        assert segments_of(index, 2, 4, 5) == index.names("index", "segments")
        assert {info.name for info in generation.segments} <= set(index.names("index", "segments"))
    assert collect(index).generations == (2,)
    assert index.names("index", "segments") == segments_of(index, 4, 5)


def test_a_pin_that_ran_out_holds_nothing(index):
    lose_a_reader(index, 1)
    assert collect(index).generations == (1, 2, 3)
    assert index.names("index", "pins") == []


def test_while_a_writer_is_at_work_only_generations_go(index):
    with writing(index, "an append") as pin:
        name, _ = write_segment(index, *_some_rows(index))
        freed = collect(index)
        assert freed.generations == (1, 2, 3) and freed.writers == (pin.lease.holder,) and freed.segments == 0
        assert name in index.names("index", "segments") and live_ids(index) == LEFT
    freed = collect(index)
    assert freed.generations == () and freed.segments == 3
    assert index.names("index", "segments") == segments_of(index, 4, 5)


def test_a_reader_that_comes_at_that_very_moment(index, monkeypatch):
    """It pins generation 1 after the collector looked at the pins, and reads it before it goes."""
    look, held = garbage.leases, []

    def seen(workspace):
        found = look(workspace)
        if not held:
            held.append(Pin(workspace, 1, "a reader"))
        return found

    monkeypatch.setattr(garbage, "leases", seen)
    manifest = index.read_bytes("index", "generations", "1", "manifest.json")
    assert collect(index).generations == (2, 3)
    assert index.read_bytes("index", "generations", "1", "manifest.json") == manifest
    assert live_ids(index, 1) == names(range(10))
    held[0].release()


def test_a_writer_that_comes_at_that_very_moment(index, rows_factory, monkeypatch, capsys):
    """It would write a segment anew that nobody needed when the collector looked: it waits until that has ended."""
    new = rows_factory([40, 41])
    name, _ = write_segment(index, *new)
    thread, show = threading.Thread(target=append_segment, args=(index, *new)), garbage.progress

    @contextlib.contextmanager
    def late(*args):
        thread.start()
        while not any(lease.writes for lease in pins.leases(index)):
            time.sleep(0.01)
        with show(*args) as advance:
            yield advance

    monkeypatch.setattr(garbage, "progress", late)
    assert collect(index).segments == 3
    thread.join()
    assert read_generation(index).segments[-1].name == name
    assert live_ids(index) == sorted([*LEFT, "pair_0040", "pair_0041"])
    assert "append_segment: waits until sscm index gc (" in capsys.readouterr().err


def test_a_collector_that_was_killed_holds_writers_off_until_its_pin_runs_out(index, monkeypatch):
    pin = Pin(index, None, "sscm index gc", collects=True)
    about = index.read_json("index", "pins", pin.lease.file)
    pin.release()
    for seconds in (1, -1):
        expires = datetime.now(UTC) + timedelta(seconds=seconds)
        index.write_json({**about, "expires": expires.isoformat()}, "index", "pins", pin.lease.file)
        writing(index, "a writer").release()
        assert datetime.now(UTC) >= expires
    collect(index)
    assert index.names("index", "pins") == []


def test_readers_a_writer_and_a_collector_at_once(workspace, rows_factory, monkeypatch):
    """Each reader finds its generation whole, as often as the next one is committed and its own collected."""
    monkeypatch.setattr(pins, "WAIT_S", 0.001)
    begin(workspace, *rows_factory(list(range(10))))
    ended, faults, seen = threading.Event(), [], set()

    def guarded(action):
        def run():
            try:
                action()
            except BaseException as error:
                faults.append(error)
            finally:
                ended.set()

        return run

    def write():
        for number in range(15):
            append_segment(workspace, *rows_factory([100 + number]))
            delete_pairs(workspace, Filter(ids=names([100 + number])))
            if number % 5 == 4:
                compact_index(CompactConfig(workspace=workspace.uri))

    def read():
        while not ended.is_set():
            with pinned(workspace, who="a reader") as generation:
                rows = sum(segment.live for segment in open_segments(workspace, generation))
                assert rows == generation.rows and rows in (10, 11)
                seen.add(generation.number)

    def tidy():
        while not ended.is_set():
            collect(workspace, keep=1)
            time.sleep(0.02)

    threads = [threading.Thread(target=guarded(action)) for action in (write, read, read, tidy)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and len(seen) > 5
    collect(workspace, keep=1)
    assert live_ids(workspace) == names(range(10)) and pins.leases(workspace) == ()
    assert workspace.names("index", "segments") == segments_of(workspace, current_number(workspace))


def test_what_killed_writers_left(index, rows_factory):
    (info,) = read_generation(index).segments
    index.write_bytes(b"half", "index", "segments", info.name, ".rows.parquet.1-2.part")
    index.write_bytes(b"half", "index", "generations", "5", ".manifest.json.1-2.part")
    index.write_bytes(b"half", "index", ".CURRENT.1-2.part")
    index.write_bytes(b"half", "index", "generations", "6", ".manifest.json.1-2.part")
    index.write_bytes(b"x", "index", "staging", "a-plain", "part.parquet")
    index.write_bytes(b"x", "index", "adaptations", "a.safetensors")
    dead = write_tombstones(index, info.name, np.array([1, 2]))
    left = write_segment(index, *rows_factory([30]))[0]
    collect(index)
    assert index.names("index", "segments", info.name) == sorted([*info.files, info.deleted.file])
    assert dead.file not in index.names("index", "segments", info.name)
    assert left not in index.names("index", "segments")
    assert not [name for name in files_of(index) if name.endswith(".part") or name.startswith("staging")]
    assert index.names("index", "adaptations") == []
    assert live_ids(index) == LEFT


def test_a_pin_that_is_being_written_stays(index):
    """Whoever writes it is not seen yet; what a killed one left goes when its lease would have run out."""
    path = Path(index.path_of("index", "pins", ".5-a.json.1-2.part"))
    index.write_bytes(b"{", "index", "pins", path.name)
    collect(index)
    assert path.exists()
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    collect(index)
    assert not path.exists()


def test_what_is_staged_goes_together(index):
    """Shards of one build are staged hours apart: the first is not taken from under it."""
    for name in ("old", "new"):
        index.write_bytes(b"x", "index", "staging", "a-plain", name)
    os.utime(index.path_of("index", "staging", "a-plain", "old"), (0, 0))
    collect(index, min_age=1.0)
    assert index.names("index", "staging", "a-plain") == ["new", "old"]


def test_what_adapts_the_encoders_stays_with_its_generation(index):
    stored = index.write_bytes(b"values", "index", "adaptations", "a.safetensors")
    index.write_bytes(b"other", "index", "adaptations", "b.safetensors")
    adapted = AdaptationInfo(
        file="adaptations/a.safetensors",
        kind="centre",
        bytes=stored.bytes,
        sha256=stored.sha256,
        fingerprint="1" * 64,
        images={},
        pairs=80,
        most=4096,
        seed=0,
        sample="2" * 64,
    )
    commit(index, dataclasses.replace(read_generation(index), number=6, adaptation=adapted))
    collect(index)
    assert index.names("index", "adaptations") == ["a.safetensors"]


def test_a_current_that_stays_behind_keeps_what_it_names(index):
    """A writer died before its last write: readers open generation 2, the newest is 5."""
    index.write_json({"generation": 2}, "index", "CURRENT")
    assert collect(index, keep=1).generations == (1, 3, 4)
    assert live_ids(index) == names(range(15)) and live_ids(index, 5) == LEFT


def test_a_manifest_that_was_altered(index):
    """Of one that goes it does not matter; what one that stays names is not known, so nothing goes."""
    index.write_bytes(b"{", "index", "generations", "4", "manifest.json")
    before = files_of(index)
    with pytest.raises(IntegrityError, match=r"generations/4/manifest.json is not JSON"):
        collect(index)
    assert files_of(index) == before
    assert collect(index, keep=1).generations == (1, 2, 3, 4)
    assert live_ids(index) == LEFT


def test_no_index(workspace):
    with pytest.raises(GenerationError, match="there is no index in this workspace"):
        collect(workspace)


def test_settings_that_cannot_work():
    with pytest.raises(ConfigError, match="keep = 0; expected at least 1"):
        CollectConfig(keep=0)
    with pytest.raises(ConfigError, match="expected 0 or more hours"):
        CollectConfig(min_age=-1)


def test_on_an_object_store(bucket, rows_factory):
    """Its files have times of another kind, and its folders are no more than names."""
    grow(bucket, rows_factory)
    root = bucket.path_of("index")
    before = bucket.fs.find(root)
    assert collect(bucket, min_age=1.0).files == 0
    with pinned(bucket, 2, "a reader"):
        freed = collect(bucket)
        assert freed.generations == (1, 3) and freed.segments == 0
        assert live_ids(bucket, 2) == names(range(15))
    last = collect(bucket)
    assert (last.generations, last.segments) == ((2,), 2)
    bucket.fs.invalidate_cache()
    assert len(bucket.fs.find(root)) == len(before) - freed.files - last.files
    assert live_ids(bucket) == LEFT and bucket.names("index", "segments") == segments_of(bucket, 4, 5)
    assert pins.leases(bucket) == ()
