"""Verifying: a sound index is called so, and whatever is wrong with another is named, all of it at once."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from sscm.config import CompactConfig, IndexConfig, VerifyConfig
from sscm.errors import GenerationError, IntegrityError
from sscm.index import verify
from sscm.index.append import append_segment
from sscm.index.build import build_index
from sscm.index.compact import compact_index
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.generation import SegmentInfo, commit, read_generation
from sscm.index.pins import leases
from sscm.index.segment import property_names, write_segment
from sscm.index.tombstones import write_tombstones
from sscm.index.verify import verify_index
from sscm.model.bundle import save_bundle, untrained
from tests.plugins.growing import begin


def names(numbers):
    return [f"pair_{number:04d}" for number in numbers]


def verified(workspace, generation=None):
    return verify_index(VerifyConfig(workspace=workspace.uri, generation=generation))


def faults(workspace):
    """What is wrong, but for the model, which these indexes do not have."""
    return [fault for part in verified(workspace).parts if not part.part.startswith("model") for fault in part.faults]


@pytest.fixture
def index(workspace, rows_factory):
    """Pairs 0 to 5 in one segment, 10 to 12 in another; pair 11 has no s2; pairs 2 and 12 are deleted."""
    begin(workspace, *rows_factory(list(range(6))))
    append_segment(workspace, *rows_factory([10, 11, 12], lacking={11}))
    delete_pairs(workspace, Filter(ids=names([2, 12])))
    return workspace


def with_segment(workspace, rows, vectors, bad=(), rows_told=None, **changes):
    """Commit a segment that nobody checked; ``bad`` are s2 vectors to have in the place of its own."""
    before = read_generation(workspace)
    name, files = write_segment(workspace, rows, vectors)
    if len(bad):
        content = io.BytesIO()
        np.save(content, bad)
        parts = ("index", "segments", name, "vectors_s2.npy")
        files["vectors_s2.npy"] = workspace.write_bytes(content.getvalue(), *parts)
    info = SegmentInfo(
        name=name, rows=rows_told or len(rows), files=files, sources={"x": name}, properties=property_names(rows)
    )
    after = (*before.segments, dataclasses.replace(info, **changes))
    commit(workspace, dataclasses.replace(before, number=before.number + 1, segments=after))
    return name


def test_a_sound_index_and_a_model_that_changed(larger, larger_bundle, embedded):
    generation = build_index(IndexConfig(workspace=larger.uri))
    delete_pairs(larger, Filter(ids=names([3])))
    found = verified(larger)
    assert found.generation == 2 and found.faults == ()
    (info,) = generation.segments
    kind = generation.adaptation.kind
    assert [part.part for part in found.parts] == [f"segment {info.name}", "pairs", "adaptation", "model small"]
    assert found.parts[0].about.startswith("128 rows, 1 deleted, ") and found.parts[1].about == "127"
    assert found.parts[2].about.startswith(f"{kind}, by ")
    text = io.StringIO()
    Console(file=text, width=200).print(found.table())
    assert text.getvalue().count("sound") == 4 and "index generation 2" in text.getvalue()

    parts = ("index", *generation.adaptation.file.split("/"))
    content = larger.read_bytes(*parts)
    larger.write_bytes(content[:-1] + bytes([content[-1] ^ 1]), *parts)
    save_bundle(larger, dataclasses.replace(untrained(larger_bundle, 5), name="small"))
    adaptation, model = verified(larger).faults
    assert f"{generation.adaptation.file} was altered" in adaptation
    other = untrained(larger_bundle, 5).fingerprint
    assert other[:12] in model and generation.fingerprint[:12] in model and "model small" in model
    larger.delete("models", "small")
    larger.delete(*parts)
    adaptation, model = verified(larger).faults
    assert f"{generation.adaptation.file} is missing" in adaptation and "small" in model


def test_a_sound_index_without_its_model(index):
    assert faults(index) == []
    found = verified(index)
    assert [part.about for part in found.parts[1:3]] == ["3 rows, 1 deleted, 0.0 MB", "7"]
    assert len(found.faults) == 1 and "small" in found.faults[0] and verify.REMEDY in found.faults[0]
    assert verified(index, 1).parts[0].about.startswith("6 rows, 0 deleted")


FILES = ["rows.arrow", "rows.parquet", "scan_s1", "scan_s2", "vectors_s1.npy", "vectors_s2.npy"]


@pytest.mark.parametrize("file", FILES)
def test_any_file_that_is_not_what_was_written(index, file):
    """Also the Parquet file, of which nothing is read for a search."""
    info = read_generation(index).segments[1]
    (name,) = (name for name in info.files if name.startswith(file))
    path = Path(index.path_of("index", "segments", info.name, name))
    where, content = index.uri_of("index", "segments", info.name, name), path.read_bytes()
    middle = len(content) // 2
    for bad, message in (
        (content[:-1], f"has {len(content) - 1} bytes; its manifest says {len(content)}"),
        (content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], "was altered: its SHA-256 is not"),
        (None, "is missing"),
    ):
        path.unlink() if bad is None else path.write_bytes(bad)
        told = faults(index)
        assert told[0].startswith(f"{where} {message}") and "run `sscm index` to build anew" in told[0]
        path.write_bytes(content)
    assert faults(index) == []


def test_everything_that_is_wrong_is_told_at_once(index):
    first, second = read_generation(index).segments
    index.delete("index", "segments", first.name, "vectors_s1.npy")
    index.delete("index", "segments", first.name, "rows.arrow")
    index.delete("index", "segments", second.name, "vectors_s2.npy")
    told = faults(index)
    assert len(told) == 3 and len({fault.split(" is missing")[0] for fault in told}) == 3


def test_tombstones(index):
    first, second = read_generation(index).segments
    path = Path(index.path_of("index", "segments", first.name, first.deleted.file))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    assert any(f"{first.deleted.file} was altered" in fault for fault in faults(index))
    path.unlink()
    assert any(f"{first.deleted.file} is missing" in fault for fault in faults(index))
    path.write_bytes(content)
    before = read_generation(index)
    for number, (rows, message) in enumerate(
        (
            (dataclasses.replace(write_tombstones(index, second.name, np.array([0, 1])), rows=1), "2 rows, not 1 in"),
            (write_tombstones(index, second.name, np.array([1, 3])), "has 3 rows; its tombstones name"),
        ),
        before.number + 1,
    ):
        segments = (first, dataclasses.replace(second, deleted=rows))
        commit(index, dataclasses.replace(before, number=number, segments=segments))
        assert any(message in fault for fault in faults(index))


@pytest.mark.parametrize(
    ("row", "value", "message"),
    [
        (1, np.nan, r"1 embeddings of s2 are not finite (first: pair 'pair_0021')"),
        (2, 0.0, r"1 embeddings of s2 are not of unit norm (first: pair 'pair_0022')"),
        (0, 0.3, r"1 embeddings of s2 are not zero, though their pairs have no such image (first: pair 'pair_0020')"),
    ],
)
def test_vectors_that_cannot_be(index, rows_factory, row, value, message):
    rows, vectors = rows_factory([20, 21, 22, 23], lacking={20})
    bad = vectors["s2"].copy()
    bad[row] = value
    with_segment(index, rows, vectors, bad)
    (told,) = faults(index)
    assert message in told and "`sscm index delete`" in told
    delete_pairs(index, Filter(ids=names([20 + row])))
    # What is deleted answers nothing, but a scan takes no segment with a value that is not finite.
    assert faults(index) == ([told] if np.isnan(value) else [])
    compact_index(CompactConfig(workspace=index.uri))
    assert faults(index) == []


def test_what_the_manifest_says_of_a_segment(index, rows_factory):
    name = with_segment(index, *rows_factory([20, 21]), rows_told=3, properties=("cloud", "country"))
    told = faults(index)
    assert any(f"{name} has 2 rows; its manifest says 3" in fault for fault in told)
    assert any("has properties ['country']; its manifest says ['cloud', 'country']" in fault for fault in told)
    rows, vectors = rows_factory([30, 31])
    with_segment(index, rows, {modality: values[:, :8] for modality, values in vectors.items()})
    assert any("embeddings of s1 have 8 numbers, not 16" in fault for fault in faults(index))


def test_a_pair_that_is_there_twice(index, rows_factory):
    rows, vectors = rows_factory([4, 2, 30])
    rows = rows.set_column(rows.column_names.index("archive_row"), "archive_row", pa.array([7, 8, 9], pa.int64()))
    append_segment(index, rows, vectors)  # pair 2 was deleted and may return, pair 4 is there
    (told,) = faults(index)
    assert "1 pairs are in the index more than once (pair_0004)" in told and "`sscm index delete --ids`" in told
    delete_pairs(index, Filter(ids=names([4])))
    assert faults(index) == []


def test_the_generation_is_kept_meanwhile(index, monkeypatch):
    held = []
    look = verify.find_duplicates
    monkeypatch.setattr(verify, "find_duplicates", lambda *args: held.extend(leases(index)) or look(*args))
    verified(index, 2)
    assert [(lease.generation, lease.who) for lease in held] == [(2, "sscm index verify")] and leases(index) == ()


def test_what_cannot_be_looked_at(workspace, index):
    with pytest.raises(GenerationError, match=r"the index has \[1, 2, 3\]"):
        verified(index, 9)
    index.write_bytes(b"{", "index", "generations", "3", "manifest.json")
    with pytest.raises(IntegrityError, match=r"manifest.json is not JSON"):
        verified(index)
    index.delete("index")
    with pytest.raises(GenerationError, match="there is no index in this workspace"):
        verified(index)


def test_on_an_object_store(bucket, rows_factory):
    begin(bucket, *rows_factory(list(range(6))))
    append_segment(bucket, *rows_factory([10, 11]))
    assert faults(bucket) == []
    first, second = read_generation(bucket).segments
    bucket.write_bytes(b"short", "index", "segments", first.name, "vectors_s1.npy")
    bucket.delete("index", "segments", second.name, "rows.parquet")
    told = faults(bucket)
    assert bucket.uri_of(f"index/segments/{first.name}/vectors_s1.npy has 5 bytes") in told[0]
    assert f"{second.name}/rows.parquet is missing" in told[1]
