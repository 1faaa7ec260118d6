"""Following: a reader opens what is new, whole, or keeps what it has and says why."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from sscm.config import CompactConfig
from sscm.errors import GenerationError, IntegrityError, WorkspaceError
from sscm.index import generation as generation_module
from sscm.index.append import append_segment
from sscm.index.compact import compact_index
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.follow import open_current
from sscm.index.generation import commit, open_segments, read_generation
from sscm.index.manifest import FORMAT
from sscm.index.search import IndexReader
from sscm.index.segment import open_segment
from tests.plugins.growing import begin, scanned

QUERIES = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)


def names(numbers):
    return [f"pair_{number:04d}" for number in numbers]


def found(opened, target="s1"):
    hits = IndexReader(opened.segments).search(QUERIES, target=target, k=100)
    return [[(hit.pair_id, hit.score) for hit in one] for one in hits]


@pytest.fixture
def index(workspace, rows_factory):
    begin(workspace, *rows_factory(list(range(8))))
    return workspace


@pytest.fixture
def opened_names(monkeypatch):
    """Names of the segments that are opened from their files."""
    names = []
    monkeypatch.setattr(generation_module, "open_segment", lambda *args: names.append(args[1]) or open_segment(*args))
    return names


def test_what_is_new_is_opened_and_nothing_else(index, rows_factory, opened_names):
    first = open_current(index)
    assert open_current(index, first) is first
    assert opened_names == [info.name for info in first.generation.segments]
    opened_names.clear()

    append_segment(index, *rows_factory([20, 21]))
    second = open_current(index, first)
    assert opened_names == [second.generation.segments[1].name]
    assert second.segments[0] is first.segments[0]
    opened_names.clear()

    delete_pairs(index, Filter(ids=names([2, 20])))
    third = open_current(index, second)
    assert opened_names == []
    assert third.segments[0].vectors("s1") is first.segments[0].vectors("s1")
    left = [0, 1, 3, 4, 5, 6, 7, 21]
    assert found(third) == scanned(*rows_factory(left), QUERIES, "s1")
    assert found(second) == scanned(*rows_factory([*range(8), 20, 21]), QUERIES, "s1")  # still what it was

    delete_pairs(index, Filter(ids=names([5])))
    fourth = open_current(index, third)
    assert opened_names == [] and fourth.segments[1] is third.segments[1]

    compact_index(CompactConfig(workspace=index.uri))
    opened_names.clear()
    fifth = open_current(index, fourth)
    assert opened_names == [info.name for info in fifth.generation.segments] and len(fifth.segments) == 1
    wanted = scanned(*rows_factory([number for number in left if number != 5]), QUERIES, "s1")
    assert found(fifth) == found(fourth) == wanted


def test_several_generations_at_once(index, rows_factory):
    """A reader that slept finds the same as one that opens afresh."""
    slept = open_current(index)
    append_segment(index, *rows_factory([20, 21]))
    delete_pairs(index, Filter(ids=names([0, 20])))
    append_segment(index, *rows_factory([30]))
    now, fresh = open_current(index, slept), open_current(index)
    assert now.generation == fresh.generation and now.segments[0].live == 7
    assert found(now) == found(fresh) == scanned(*rows_factory([*range(1, 8), 21, 30]), QUERIES, "s1")


def test_deleted_rows_return_to_a_reader_that_follows(index):
    whole = open_current(index)
    delete_pairs(index, Filter(ids=names([0])))
    less = open_current(index, whole)
    assert less.segments[0].live == 7
    again = dataclasses.replace(whole.generation, number=3)
    commit(index, again)
    back = open_current(index, less)
    assert back.segments[0].live == 8 and found(back) == found(whole)


FILES = ["rows.arrow", "rows.parquet", "scan_s1", "scan_s2", "vectors_s1.npy", "vectors_s2.npy"]


def cut(content):
    return content[:-1]


def flip(content):
    """One bit in the middle, where values are and no header is."""
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


def empty(content):
    return b""


DAMAGES = [
    (cut, r"has \d+ bytes; its manifest says \d+; restore it, or delete it and run `sscm index` again"),
    (empty, r"has 0 bytes; its manifest says \d+"),
    (flip, r"was altered: its checksum is not the one of its manifest"),
    (None, r"is missing; restore it"),
]


def damage(workspace, parts, change):
    """Damage a file in place; gives its content back."""
    content = workspace.read_bytes(*parts)
    if change is None:
        workspace.delete(*parts)
    else:
        workspace.write_bytes(change(content), *parts)
    return content


def test_every_file_of_a_segment_is_meant(index):
    (info,) = read_generation(index).segments
    assert [next(name for name in FILES if file.startswith(name)) for file in sorted(info.files)] == FILES


# The bytes of the Parquet file beside mapped rows are not read, so not summed up: `sscm index verify` does that.
SEEN = [(file, *how) for file in FILES for how in DAMAGES if (file, how[0]) != ("rows.parquet", flip)]


@pytest.mark.parametrize(("file", "change", "message"), SEEN)
def test_a_segment_that_is_not_whole(index, rows_factory, file, change, message):
    """The new generation is refused by the name of the file; a reader keeps the one it has, until it is mended."""
    before = open_current(index)
    answers = found(before)
    new = append_segment(index, *rows_factory([20, 21, 22])).segments[1]
    (name,) = (name for name in new.files if name.startswith(file))
    where = f"{index.uri}/index/segments/{new.name}/{name}"
    content = damage(index, ("index", "segments", new.name, name), change)
    with pytest.raises(IntegrityError, match=rf"{where} {message}"):
        open_segments(index, read_generation(index))
    with pytest.raises(IntegrityError, match=where):
        open_current(index)
    kept = open_current(index, before)
    assert kept.generation == before.generation and kept.segments == before.segments
    assert isinstance(kept.refused, IntegrityError) and where in str(kept.refused)
    assert found(kept) == answers
    still = open_current(index, kept)
    assert still.generation == before.generation and where in str(still.refused)
    index.write_bytes(content, "index", "segments", new.name, name)
    after = open_current(index, still)
    assert (after.generation.number, after.refused) == (2, None)
    assert found(after) == scanned(*rows_factory([*range(8), 20, 21, 22]), QUERIES, "s1")


@pytest.mark.parametrize("change", [cut, flip, empty, None])
def test_tombstones_that_are_not_whole(index, change):
    before = open_current(index)
    dead = delete_pairs(index, Filter(ids=names([1]))).generation.segments[0]
    parts = ("index", "segments", dead.name, dead.deleted.file)
    content = damage(index, parts, change)
    kept = open_current(index, before)
    assert kept.segments == before.segments and f"{dead.name}/{dead.deleted.file}" in str(kept.refused)
    index.write_bytes(content, *parts)
    assert open_current(index, kept).segments[0].live == 7


@pytest.mark.parametrize(
    "change", [lambda content: content[:-2], empty, None, lambda content: content.replace(b'"segments"', b'"segment_"')]
)
def test_a_manifest_that_is_not_whole(index, rows_factory, change):
    before = open_current(index)
    append_segment(index, *rows_factory([20]))
    parts = ("index", "generations", "2", "manifest.json")
    content = damage(index, parts, change)
    kept = open_current(index, before)
    assert kept.segments == before.segments and "generations/2/manifest.json" in str(kept.refused)
    index.write_bytes(content, *parts)
    assert open_current(index, kept).generation.number == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"generation": "2"}', b"[]", None])
def test_a_current_that_is_not_whole(index, rows_factory, content):
    before = open_current(index)
    append_segment(index, *rows_factory([20]))
    if content is None:
        index.delete("index", "CURRENT")
    else:
        index.write_bytes(content, "index", "CURRENT")
    with pytest.raises((GenerationError, IntegrityError)):
        open_current(index)
    kept = open_current(index, before)
    assert kept.segments == before.segments and kept.refused is not None
    delete_pairs(index, Filter(ids=names([1])))  # the next writer mends it
    assert open_current(index, kept).generation.number == 3


def test_a_manifest_of_a_later_format(index):
    before = open_current(index)
    manifest = index.read_json("index", "generations", "1", "manifest.json")
    index.write_json({**manifest, "format": FORMAT + 1, "number": 2}, "index", "generations", "2", "manifest.json")
    index.write_json({"generation": 2}, "index", "CURRENT")
    kept = open_current(index, before)
    assert f"format {FORMAT + 1}; this version of sscm reads formats 1 to {FORMAT}" in str(kept.refused)


def test_going_back_to_a_generation_is_followed_too(index, rows_factory):
    first = open_current(index)
    append_segment(index, *rows_factory([20]))
    second = open_current(index, first)
    index.write_json({"generation": 1}, "index", "CURRENT")
    back = open_current(index, second)
    assert back.generation == first.generation and back.segments == first.segments


def test_storage_that_fails_is_no_fault_of_the_index(index, rows_factory):
    """The caller is told, and asks again with what it has."""
    before = open_current(index)
    append_segment(index, *rows_factory([20]))
    current = Path(index.path_of("index", "CURRENT"))
    content = current.read_bytes()
    current.unlink()
    current.mkdir()
    with pytest.raises(WorkspaceError, match=r"cannot read .*CURRENT"):
        open_current(index, before)
    current.rmdir()
    current.write_bytes(content)
    assert open_current(index, before).generation.number == 2


def test_checksums_may_be_left_out_but_not_sizes(index, rows_factory):
    before = open_current(index)
    new = append_segment(index, *rows_factory([20, 21])).segments[1]
    parts = ("index", "segments", new.name, "vectors_s1.npy")
    content = damage(index, parts, flip)
    assert open_current(index, before, verify=False).generation.number == 2
    index.write_bytes(content[:-1], *parts)
    assert open_current(index, before, verify=False).refused is not None


def test_on_an_object_store(bucket, rows_factory):
    begin(bucket, *rows_factory(list(range(8))))
    before = open_current(bucket)
    new = append_segment(bucket, *rows_factory([20, 21])).segments[1]
    for file in sorted(new.files):
        parts = ("index", "segments", new.name, file)
        for change in (cut, None) if file == "rows.parquet" else (cut, flip, None):
            content = damage(bucket, parts, change)
            kept = open_current(bucket, before)
            assert kept.segments == before.segments and bucket.uri_of(*parts) in str(kept.refused), (file, change)
            bucket.write_bytes(content, *parts)
    after = open_current(bucket, kept)
    assert (after.generation.number, after.refused) == (2, None) and after.segments[0] is before.segments[0]
    assert found(after) == scanned(*rows_factory([*range(8), 20, 21]), QUERIES, "s1")
