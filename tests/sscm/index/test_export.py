"""Exports: what is in the index is in the files, other programs read them, and a failure leaves nothing half-done."""

import dataclasses
import errno
import json
import re
from pathlib import Path

import duckdb
import geopandas
import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from sscm.cli import main
from sscm.config import ExportConfig, IndexConfig
from sscm.errors import ConfigError, GenerationError, IntegrityError, WorkspaceError
from sscm.index import export, pins, segment
from sscm.index.build import build_index
from sscm.index.export import export_index
from sscm.index.generation import Generation, SegmentInfo, commit, open_segments, read_generation
from sscm.index.search import IndexReader
from sscm.index.segment import ROWS, write_segment
from sscm.index.tombstones import write_tombstones
from sscm.model import bundle as bundle_module
from sscm.workspace import open_workspace

DIMENSION = 128
LACKING = frozenset({4, 9, 25})
DOCUMENT = Path(__file__).parents[3] / "docs" / "export.md"


def unit_vectors(numbers, lacking=frozenset()):
    """Modality → float32 [n, 128], unit norm, the same for the same number; zeros where a pair lacks s2."""
    vectors = {name: np.zeros((len(numbers), DIMENSION), np.float32) for name in ("s1", "s2")}
    for place, number in enumerate(numbers):
        value = np.random.default_rng(number).standard_normal((3, DIMENSION))
        for name, own in (("s1", value[1]), ("s2", value[2])):
            if name == "s1" or number not in lacking:
                vectors[name][place] = (value[0] + own) / np.linalg.norm(value[0] + own)
    return vectors


@pytest.fixture
def make(rows_factory):
    """Commit a generation: workspace, number, pair numbers of each segment, rows deleted of each."""

    def generation(workspace, number, *segments, deleted=(), change=lambda rows: rows):
        infos = []
        for place, numbers in enumerate(segments):
            rows, _ = rows_factory(list(numbers), lacking=LACKING)
            name, files = write_segment(workspace, change(rows), unit_vectors(list(numbers), LACKING))
            gone = write_tombstones(workspace, name, np.array(deleted[place], np.int64)) if deleted else None
            sources = {f"shards/{place}.parquet": "0" * 64}
            infos.append(SegmentInfo(name=name, rows=len(rows), files=files, sources=sources, deleted=gone))
        made = Generation(
            number=number,
            segments=tuple(infos),
            modalities=("s1", "s2"),
            dimension=DIMENSION,
            bundle="small",
            fingerprint="f" * 64,
            simulated=True,
            created="2026-01-01T00:00:00+00:00",
            code_version="0",
        )
        commit(workspace, made)
        return made

    return generation


@pytest.fixture
def index(workspace, make):
    """A workspace of one test with 40 pairs in two segments, of which pairs 4, 9 and 25 have no s2."""
    make(workspace, 1, range(0, 40, 2), range(1, 40, 2))
    return workspace


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out" / "embeddings.parquet"


def exported(workspace, target, **settings):
    """Export a workspace's index."""
    return export_index(str(target), ExportConfig(workspace=workspace.uri, **settings))


def ids(*numbers):
    return [f"pair_{number:04d}" for number in numbers]


def files_of(folder):
    """Path → content of all files in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_over(folder):
    """Names of hidden files and folders."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_one_file_has_all_that_is_in_the_index(index, target):
    report = exported(index, target)
    table = pq.read_table(target)
    assert (report.generation, report.rows, report.bytes) == (1, 40, target.stat().st_size)
    assert report.files == (target.as_uri(),)
    assert report.collection == (target.parent / "embeddings.collection.json").as_uri()
    assert table["pair_id"].to_pylist() == ids(*range(0, 40, 2), *range(1, 40, 2))
    assert table.column_names == [
        *("pair_id", "split", "labels", "geometry", "bbox", "s1_datetime", "s2_datetime", "has_s1", "has_s2"),
        *("archive_file", "archive_row", "country", "embedding_s1", "embedding_s2"),
    ]
    assert table["country"].unique().to_pylist() == ["Serbia"]
    assert table.schema.field("embedding_s1").type.list_size == DIMENSION
    stored = open_segments(index, read_generation(index))
    for name in ("split", "labels", "geometry", "bbox", "s1_datetime", "has_s2", "archive_file", "archive_row"):
        assert table[name].to_pylist() == [value for part in stored for value in part.rows[name].to_pylist()]
    for name in ("s1", "s2"):
        vectors = np.concatenate([part.vectors(name) for part in stored])
        for row, value in enumerate(table[f"embedding_{name}"].to_pylist()):
            has = table[f"has_{name}"][row].as_py()
            np.testing.assert_array_equal(vectors[row] if has else np.zeros(DIMENSION), value or np.zeros(DIMENSION))
            assert (value is not None) == has
    assert table["embedding_s2"].null_count == len(LACKING)
    assert sorted(path.name for path in target.parent.iterdir()) == ["embeddings.collection.json", "embeddings.parquet"]


def test_a_folder_has_a_part_for_each_segment(index, tmp_path):
    report = exported(index, tmp_path / "all" / "embeddings")
    folder = tmp_path / "all" / "embeddings"
    assert report.files == tuple((folder / f"part-0000{part}.parquet").as_uri() for part in (0, 1))
    for part in (0, 1):
        found = pq.read_table(folder / f"part-0000{part}.parquet")["pair_id"].to_pylist()
        assert found == sorted(found) == ids(*range(part, 40, 2))
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["embeddings", "embeddings.collection.json"]
    assert len(pd.read_parquet(folder)) == report.rows == 40
    assert report.bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_row_groups_are_streamed_and_of_one_size(workspace, make, target, monkeypatch):
    monkeypatch.setattr(segment, "ROW_GROUP", 7)
    make(workspace, 1, range(20), range(20, 33), deleted=[[0, 6, 7, 19], [12]])
    monkeypatch.setattr(export, "ROW_GROUP", 5)
    read = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *args, **more: read.append(args[1]) or whole(*args, **more)
    )
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    exported(workspace, target)
    monkeypatch.undo()
    assert read == [0, 1, 2, 0, 1] * 2  # once without embeddings, once with
    metadata = pq.read_metadata(target)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [5, 5, 5, 5, 5, 3]
    kept = [number for number in range(33) if number not in (0, 6, 7, 19, 32)]
    assert pq.read_table(target)["pair_id"].to_pylist() == ids(*kept)


def test_deleted_pairs_are_in_none_of_it(workspace, make, tmp_path):
    make(workspace, 1, range(10), range(10, 20), deleted=[[0, 9], list(range(10))])
    report = exported(workspace, tmp_path / "export")
    assert report.rows == 8 and len(report.files) == 1  # no part of a segment that is deleted
    table = pq.read_table(tmp_path / "export")
    assert table["pair_id"].to_pylist() == ids(*range(1, 9))
    about = json.loads((tmp_path / "export.collection.json").read_text())
    assert about["table:row_count"] == 8
    assert about["extent"]["spatial"]["bbox"][0][0] == pytest.approx(20.02)
    assert about["extent"]["temporal"]["interval"] == [["2018-06-02T00:00:00Z", "2018-07-09T00:00:00Z"]]


def test_an_earlier_generation(index, make, target):
    make(index, 2, range(3))
    assert exported(index, target).rows == 3
    assert exported(index, target, generation=1, overwrite=True).rows == 40


def test_some_modalities_and_splits(index, target):
    report = exported(index, target, modalities=["s2"], splits=["test", "validation"])
    table = pq.read_table(target)
    wanted = [number for number in (*range(0, 40, 2), *range(1, 40, 2)) if number % 3 and number not in LACKING]
    assert table["pair_id"].to_pylist() == ids(*wanted) and report.rows == len(wanted)
    assert [name for name in table.column_names if "s1" in name] == []
    assert table["embedding_s2"].null_count == 0
    about = json.loads(pq.read_metadata(target).metadata[b"stac"])
    assert about["sscm:index"]["rows_by_modality"] == {"s2": len(wanted)}
    assert set(about["sscm:index"]["rows_by_split"]) == {"test", "validation"}
    assert about["extent"]["temporal"]["interval"][0][0].startswith("2018-07")  # not of s1


def test_properties_under_names_that_are_taken(workspace, make, target):
    def change(rows):
        items = [[("Split", "a"), ("country", "x"), ("Country", "y")], None, [("bbox", "b"), ("über 1", "z")]]
        place = rows.schema.get_field_index("properties")
        return rows.set_column(place, rows.schema.field(place), pa.array(items, rows.schema.field(place).type))

    make(workspace, 1, range(3), change=change)
    exported(workspace, target)
    table = pq.read_table(target)
    assert table["Country"].to_pylist() == ["y", None, None]
    assert table["source:country"].to_pylist() == ["x", None, None]
    assert table["source:Split"].to_pylist() == ["a", None, None]
    assert table["source:bbox"].to_pylist() == [None, None, "b"]
    assert table["über 1"].to_pylist() == [None, None, "z"]
    assert duckdb.sql(f"SELECT \"source:country\" FROM '{target}' WHERE country = 'y'").fetchall() == [("x",)]
    told = {
        column["name"]: column["description"] for column in json.loads(table.schema.metadata[b"stac"])["table:columns"]
    }
    assert told["source:bbox"] == "Property 'bbox' of the source, as text"


def test_geopandas_reads_footprints_and_their_reference_system(index, target):
    exported(index, target)
    pairs = geopandas.read_parquet(target)
    assert pairs.geometry.name == "geometry" and len(pairs) == 40
    assert pairs.crs.to_authority() == ("OGC", "CRS84") and pairs.crs.equals("EPSG:4326", ignore_axis_order=True)
    first = pairs[pairs.pair_id == "pair_0003"].iloc[0]
    assert first.geometry.bounds == pytest.approx((20.06, 44, 20.07, 44.01))
    assert first.s1_datetime == pd.Timestamp("2018-06-04", tz="UTC")
    assert first.embedding_s1.shape == (DIMENSION,) and first.embedding_s1.dtype == np.float32
    near = geopandas.read_parquet(target, bbox=(20.0, 44.0, 20.025, 44.01))
    assert sorted(near.pair_id) == ids(0, 1)
    geo = json.loads(pq.read_metadata(target).metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["columns"]["geometry"]["geometry_types"] == ["Polygon"]
    assert geo["columns"]["geometry"]["bbox"] == pytest.approx([20, 44, 20.79, 44.01])
    assert geo["columns"]["geometry"]["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]


def test_duckdb_finds_the_same_neighbours(index, tmp_path):
    exported(index, tmp_path / "embeddings")
    reader = IndexReader(open_segments(index, read_generation(index)))
    sql = f"""
        SELECT pair_id, array_cosine_similarity(embedding_{{target}}::FLOAT[128], $query::FLOAT[128]) AS score
        FROM '{tmp_path}/embeddings/*.parquet'
        WHERE embedding_{{target}} IS NOT NULL ORDER BY score DESC, pair_id LIMIT 10
    """
    for number in (0, 7, 13, 38):
        query = unit_vectors([number])["s1"]
        for name in ("s1", "s2"):
            (hits,) = reader.search(query, target=name, k=10)
            found = duckdb.execute(sql.format(target=name), {"query": query[0].tolist()}).fetchall()
            assert [pair_id for pair_id, _ in found] == [hit.pair_id for hit in hits]
            assert [score for _, score in found] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert found[0][0] == "pair_0038"


def test_rows_footprints_and_vectors_are_those_of_the_index(workspace, make, tmp_path):
    """As DuckDB and GeoPandas read them, of segments that have deleted rows."""
    make(workspace, 1, range(0, 40, 2), range(1, 40, 2), deleted=[[0, 2, 19], [4, 12]])
    exported(workspace, tmp_path / "embeddings")
    live = {}
    for part in open_segments(workspace, read_generation(workspace)):
        for row in np.flatnonzero(~part.deleted):
            pair_id = part.rows["pair_id"][row].as_py()
            vectors = {name: part.vectors(name)[row] if part.has(name)[row] else None for name in ("s1", "s2")}
            live[pair_id] = (shapely.from_wkb(part.rows["geometry"][row].as_py()), vectors)
    assert len(live) == 35 and not {"pair_0000", "pair_0004", "pair_0038", "pair_0009", "pair_0025"} & set(live)

    pairs = geopandas.read_parquet(tmp_path / "embeddings").set_index("pair_id")
    rows = duckdb.sql(f"SELECT pair_id, embedding_s1, embedding_s2 FROM '{tmp_path}/embeddings/*.parquet'").fetchall()
    assert sorted(pairs.index) == sorted(pair_id for pair_id, *_ in rows) == sorted(live)
    for pair_id, *found in rows:
        geometry, vectors = live[pair_id]
        assert pairs.geometry[pair_id].equals(geometry)
        for name, value in zip(("s1", "s2"), found, strict=True):
            read = pairs.loc[pair_id, f"embedding_{name}"]
            if vectors[name] is None:
                assert value is None and read is None
            else:
                np.testing.assert_array_equal(np.array(value, np.float32), vectors[name])
                np.testing.assert_array_equal(read, vectors[name])


def test_the_command(index, make, target, capsys):
    words = ["index", "export", str(target), "--workspace", index.uri]
    assert main(words) == 0
    said = capsys.readouterr()
    assert re.search(rf"index generation 1: 40 pairs, 0\.\d MB in {target.as_uri()}\n", said.out)
    assert "embeddings.collection.json" in said.out and "export: 40 of 40 pairs" in said.err
    assert main(words) == 1
    assert "embeddings.parquet is there already; choose another target, or --overwrite it" in capsys.readouterr().err
    make(index, 2, range(3), range(3, 9))
    assert main([*words, "--overwrite", "--modalities", "s2", "--splits", "test", "train"]) == 0
    assert pq.read_table(target)["pair_id"].to_pylist() == ids(0, 2, 3, 5, 6, 8)
    assert main(["index", "export", str(target.parent / "parts"), "--workspace", index.uri, "--generation", "2"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"generation 2: 9 pairs, 0\.\d MB in 2 files, .*/out/parts/part-00000\.parquet the first", said)
    assert main([*words[:3], "--workspace", str(target.parent / "none")]) == 1
    assert "there is no index in this workspace; `sscm index` makes one" in capsys.readouterr().err


def test_the_page_about_it_is_true(index, tmp_path, monkeypatch, capsys):
    """Every example of docs/export.md runs as it stands, and says what the index says."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    exported(index, "embeddings.parquet")
    blocks = re.findall(r"```(sql|python)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert [language for language, _ in blocks] == ["sql", "python", "python"]
    neighbours = duckdb.sql(blocks[0][1]).fetchall()
    reader = IndexReader(open_segments(index, read_generation(index)))
    (hits,) = reader.search(unit_vectors([5])["s1"], target="s2", k=10)
    assert [pair_id for pair_id, _ in neighbours] == [hit.pair_id for hit in hits]
    drawn = {}
    exec(blocks[1][1], drawn)
    assert (tmp_path / "map.png").stat().st_size > 5000 and len(drawn["pairs"]) == 37
    assert drawn["pairs"].score.idxmax() == "pair_0005"
    capsys.readouterr()
    exec(blocks[2][1], {})
    printed = capsys.readouterr().out
    recalls = []
    for number in sorted(set(range(40)) - LACKING):
        (hits,) = reader.search(unit_vectors([number])["s1"], target="s2", k=10)
        recalls.append(f"pair_{number:04d}" in [hit.pair_id for hit in hits])
    assert f"{np.mean(recalls):.0%} of 37 radar images" in printed and "Embeddings of s1 and s2 by small" in printed
    columns = re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    named = {name for cell in columns for name in re.findall(r"`(\w+)`", cell)}
    assert named <= set(pq.read_schema("embeddings.parquet").names)


def test_a_built_index_says_what_made_it(archive, small_bundle, embedded, target, capsys):
    generation = build_index(IndexConfig(workspace=archive.uri, actors=1, batch_size=16))
    capsys.readouterr()
    exported(archive, target)
    assert "not in the workspace" not in capsys.readouterr().err
    about = json.loads((target.parent / "embeddings.collection.json").read_text())
    assert about["emb:dimensions"] == 16 and about["gsd"] == 10 and about["sscm:simulated"] is True
    assert about["title"] == "Embeddings of Sentinel-1 and Sentinel-2 by small"
    model = about["sscm:model"]
    assert (model["name"], model["fingerprint"]) == ("small", small_bundle.fingerprint)
    assert (model["backbone"], model["trained_on_split"]) == ("resnet10t", "train")
    assert [m["name"] for m in model["modalities"]] == ["s1", "s2"]
    assert [band["name"] for band in model["modalities"][0]["bands"]] == ["VV", "VH"]
    red = next(band for band in model["modalities"][1]["bands"] if band["name"] == "B04")
    statistics = small_bundle.statistics["s2/B04"]
    assert (red["mean"], red["std"]) == (statistics.mean, statistics.std)
    assert red["common_name"] == "red" and red["group"] == "s2_10m" and red["data_type"] == "uint16"
    assert about["sscm:source"] == {"name": "made by tests", "files": 6, "simulated": True}
    assert about["sscm:index"]["generation"] == generation.number
    assert str(archive.path_of()) not in json.dumps(about)  # no address of the machine that wrote it
    assert export.MODEL == bundle_module.CONFIG


def test_a_model_that_is_gone_or_another_one(archive, small_bundle, embedded, target, capsys):
    build_index(IndexConfig(workspace=archive.uri, actors=1, batch_size=16))
    config = archive.read_json("models", "small", "config.json")
    archive.write_json({**config, "fingerprint": "e" * 64}, "models", "small", "config.json")
    archive.delete("archive", "manifest.json")
    for change in (lambda: None, lambda: archive.delete("models", "small")):
        change()
        capsys.readouterr()
        exported(archive, target, overwrite=True)
        assert "model small with fingerprint" in capsys.readouterr().err
        about = json.loads(pq.read_metadata(target).metadata[b"stac"])
        assert about["sscm:model"] == {"name": "small", "fingerprint": small_bundle.fingerprint}
        assert about["sscm:source"]["name"] is None and "gsd" not in about


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"generation": 7}, GenerationError, r"no such generation; the index has \[1\]"),
        ({"modalities": ["s1", "s3"]}, ConfigError, r"unknown modality 's3'; the index has \['s1', 's2'\]"),
        ({"modalities": ()}, ConfigError, "modalities: none given"),
        ({"splits": ()}, ConfigError, "splits: none given"),
    ],
)
def test_what_is_not_there(index, target, arguments, error, message):
    with pytest.raises(error, match=message):
        exported(index, target, **arguments)
    assert not target.parent.exists()


def test_no_pair_is_left(workspace, make, target):
    make(workspace, 1, [0, 3, 9], deleted=[[0]])
    with pytest.raises(ConfigError, match=r"no pairs of splits \['test'\] with .* s1 or s2; it has {'train': 2}"):
        exported(workspace, target, splits=["test"])
    with pytest.raises(GenerationError, match="there is no index"):
        exported(workspace.child("elsewhere"), str(target))
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["embeddings.parquet", "embeddings"])
def test_what_is_there_is_replaced_only_when_told(index, make, tmp_path, name):
    folder = tmp_path / "out"
    target = folder / name
    exported(index, target)
    before = files_of(folder)
    make(index, 2, range(5))
    with pytest.raises(WorkspaceError, match=f"{name} is there already; choose another target, or --overwrite it"):
        exported(index, target)
    assert files_of(folder) == before
    assert exported(index, target, overwrite=True).rows == 5
    assert pq.read_table(target).num_rows == 5
    assert json.loads((folder / "embeddings.collection.json").read_text())["table:row_count"] == 5
    assert left_over(folder) == []


@pytest.mark.parametrize("name", ["embeddings.parquet", "embeddings"])
@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_changes_nothing(index, tmp_path, monkeypatch, name, there):
    target = tmp_path / "out" / name
    if there:
        exported(index, target, splits=["train"])
    before = files_of(tmp_path / "out")
    write = pq.ParquetWriter.write_table

    def full(self, table, *args):
        write(self, table, *args)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(WorkspaceError, match="the disk is full; free some space"):
        exported(index, target, overwrite=True)
    assert files_of(tmp_path / "out") == before
    assert left_over(target.parent) == []


def test_a_target_that_cannot_be_written(index, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkspaceError, match=r"cannot write .*/file/"):
        exported(index, tmp_path / "file" / "embeddings.parquet")


@pytest.mark.parametrize("there", [False, True])
def test_a_segment_that_is_not_whole(index, target, there):
    if there:
        exported(index, target, splits=["train"])
    before = files_of(target.parent)
    path = Path(index.path_of("index", "segments", read_generation(index).segments[1].name, ROWS))
    content = path.read_bytes()
    altered = content[:999] + bytes([content[999] ^ 1]) + content[1000:]
    for changed, message in (
        (content[:-1], f"{ROWS} has {len(content) - 1} bytes; its manifest says {len(content)}"),
        (altered, f"{ROWS} (was altered|cannot be decoded)"),
        (b"PAR1" + bytes(len(content) - 4), f"{ROWS} is not a whole Parquet file"),
        (None, f"{ROWS} is missing"),
    ):
        path.write_bytes(changed) if changed else path.unlink()
        with pytest.raises(IntegrityError, match=message):
            exported(index, target, overwrite=True)
        assert files_of(target.parent) == before
        assert left_over(target.parent) == []


def test_an_index_that_cannot_be_written(index, target, monkeypatch):
    """Its generation cannot be kept from collection, and is read all the same."""

    def refuse(*_):
        raise WorkspaceError("cannot write: read-only")

    monkeypatch.setattr(pins, "_write", refuse)
    assert exported(index, target).rows == 40
    with pytest.raises(GenerationError, match="no such generation"):
        exported(index, target, generation=3, overwrite=True)


def test_the_generation_is_kept_from_collection_meanwhile(index, target, monkeypatch):
    held = []
    publish = export.Target.publish
    monkeypatch.setattr(export.Target, "publish", lambda *args: held.extend(pins.leases(index)) or publish(*args))
    exported(index, target)
    assert [(lease.generation, lease.who) for lease in held] == [(1, "sscm index export")]
    assert pins.leases(index) == ()


def test_from_and_to_an_object_store(bucket, make, monkeypatch):
    make(bucket, 1, range(10), range(10, 15))
    make(bucket, 2, range(4))
    names = {"one.parquet": ["one.collection.json", "one.parquet"]}
    names["parts"] = ["parts.collection.json", "parts/part-00000.parquet", "parts/part-00001.parquet"]
    for name, files in names.items():
        out = bucket.child(f"out-{name}")
        report = exported(bucket, out.uri_of(name), generation=1)
        assert [path.removeprefix(out.path_of() + "/") for path in out.fs.find(out.path_of())] == files
        with out.fs.open(report.files[-1], "rb") as file:
            assert pq.read_table(file)["pair_id"].to_pylist()[-5:] == ids(*range(10, 15))
        assert out.read_json(files[0])["table:row_count"] == report.rows == 15
        with pytest.raises(WorkspaceError, match="is there already"):
            exported(bucket, out.uri_of(name))
        assert exported(bucket, out.uri_of(name), overwrite=True).rows == 4
        assert len(out.fs.find(out.path_of())) == 2

    def deny(*_, **__):
        raise PermissionError("denied")

    monkeypatch.setattr(out.fs, "copy", deny)
    with pytest.raises(WorkspaceError, match=r"cannot write s3://.*/w/out-parts/parts/part-00000\.parquet"):
        exported(bucket, out.uri_of(name), overwrite=True)
    assert out.names() == []


def test_to_another_file_system(index):
    report = exported(index, "memory://folder/embeddings.parquet")
    out = open_workspace("memory://folder")
    assert out.names() == ["embeddings.collection.json", "embeddings.parquet"]
    assert dataclasses.asdict(report)["bytes"] == out.size("embeddings.parquet")
    out.delete()
