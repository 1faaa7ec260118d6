"""Ingest: planning and reading as pure functions, and whole ingests on Ray from files that code made."""

import dataclasses
import json

import numpy as np
import pytest

from sscm.archive.ingest import ingest
from sscm.archive.manifest import Manifest, read_manifest
from sscm.archive.plan import plan_shards
from sscm.archive.schema import decode_group
from sscm.archive.shard_file import table_statistics, write_shard
from sscm.archive.sources.base import PairRef
from sscm.archive.sources.pairs import PairsSource
from sscm.archive.writing import read_refs
from sscm.config import IngestConfig, PairsConfig
from sscm.errors import (
    ArchiveError,
    ConfigError,
    IntegrityError,
    ManifestError,
    PairError,
    TooManyBadPairsError,
    WorkspaceError,
)
from sscm.sensors import sentinel1, sentinel2

DECLARATION = """
[radar]
title = "Grey radar"
[radar.groups.radar]
bands = ["VV"]
dtype = "uint8"
unit = "digital number"
pixels = 16

[optical]
title = "Optical"
[optical.groups.optical]
bands = ["R", "G", "B"]
dtype = "uint8"
unit = "digital number"
pixels = 16
"""


class ListedSource:
    """A source of pairs held in memory."""

    name = "listed"
    simulated = False
    modalities = (sentinel1(24), sentinel2(24))
    pairs_per_ref = 1

    def __init__(self, pairs):
        self.pairs = {pair.pair_id: pair for pair in pairs}

    def describe(self):
        return {}

    def plan(self):
        return [PairRef(key=key, split=pair.split) for key, pair in self.pairs.items()]

    def read(self, ref):
        pair = self.pairs[ref.key]
        if pair.properties.get("broken"):
            raise PairError(f"{ref.key}.tif", "3 bytes", "a GeoTIFF", pair_id=ref.key)
        yield pair


@pytest.fixture
def pairs(pair_factory):
    return [pair_factory(i, "test" if i % 5 == 0 else "train") for i in range(100)]


def test_the_plan_holds_every_reference_once_and_keeps_splits_apart(pairs):
    source = ListedSource(pairs)
    plans = plan_shards(source.plan(), source, IngestConfig(pairs_per_shard=30), "0" * 64)
    assert sorted(ref.key for plan in plans for ref in plan.refs) == sorted(source.pairs)
    assert all(ref.split == plan.split for plan in plans for ref in plan.refs)
    assert [len(plan.refs) for plan in plans] == [27, 27, 26, 20]
    assert len({plan.file for plan in plans}) == len(plans)
    again = plan_shards(source.plan(), source, IngestConfig(pairs_per_shard=30), "0" * 64)
    other = plan_shards(source.plan(), source, IngestConfig(pairs_per_shard=30, shuffle_seed=1), "0" * 64)
    assert plans == again != other


def test_shards_are_about_as_large_as_the_contract_says(pairs):
    source = ListedSource(pairs)
    source.modalities = (sentinel1(120), sentinel2(120))
    refs = [PairRef(key=str(i), split="train") for i in range(5000)]
    sizes = [len(plan.refs) for plan in plan_shards(refs, source, IngestConfig(), "0" * 64)]
    assert all(512 <= size <= 4096 for size in sizes)
    assert all(128e6 < size * 275_000 < 256e6 for size in sizes)


def test_unusable_pairs_are_listed_and_the_rest_is_read(pairs):
    nan = dataclasses.replace(pairs[1], images={**pairs[1].images, "s1": np.full((2, 24, 24), np.nan, np.float32)})
    broken = dataclasses.replace(pairs[2], properties={"broken": "yes"})
    source = ListedSource([pairs[0], nan, broken, pairs[3]])
    bad: list[dict[str, str]] = []
    read = list(read_refs(source, source.plan(), bad))
    assert [pair.pair_id for _, pair in read] == ["pair_0000", "pair_0003"]
    assert [entry["pair_id"] for entry in bad] == ["pair_0001", "pair_0002"]
    assert "NaN" in bad[0]["seen"] and bad[1]["where"] == "pair_0002.tif"


def test_a_shard_tells_its_rows_and_statistics(workspace, pairs):
    modalities = (sentinel1(24), sentinel2(24))
    lacking = dataclasses.replace(pairs[0], images={"s1": pairs[0].images["s1"]})
    shard, statistics = write_shard(workspace, [*pairs[1:40], lacking], modalities, "shards/a.parquet", "train", 16)
    assert (shard.rows, shard.row_groups, shard.complete) == (40, (16, 16, 8), (16, 16, 7))
    with workspace.parquet("archive", "shards", "a.parquet") as file:
        table = file.read()
        assert file.metadata.num_row_groups == 3
    whole = table_statistics(table, modalities)
    assert statistics["s2/B8A"].mean == pytest.approx(whole["s2/B8A"].mean, rel=1e-12)
    assert statistics["s2/B8A"].count == 39 * 12 * 12
    assert table["preview_s1"][0].as_py().startswith(b"\xff\xd8")
    assert table["preview_s2"].null_count == 1


def test_a_compressed_shard_reads_the_same(workspace, pairs):
    modalities = (sentinel1(24), sentinel2(24))
    lacking = dataclasses.replace(pairs[0], images={"s1": pairs[0].images["s1"]})
    files = {}
    for codec in ("none", "zstd"):
        shard, statistics = write_shard(
            workspace, [lacking, *pairs[1:40]], modalities, f"shards/{codec}.parquet", "train", 16, codec
        )
        with workspace.parquet("archive", "shards", f"{codec}.parquet") as file:
            files[codec] = (file.read(), statistics, shard.bytes)
            group = file.metadata.row_group(0)
            for column in (group.column(number) for number in range(group.num_columns)):
                packed = codec == "zstd" and column.path_in_schema in ("s1", "s2_10m", "s2_20m", "s2_60m")
                assert column.compression == ("ZSTD" if packed else "UNCOMPRESSED"), column
                assert ("BYTE_STREAM_SPLIT" in column.encodings) == packed
    plain, packed = files["none"], files["zstd"]
    assert packed[0].equals(plain[0]) and packed[1] == plain[1] and packed[2] < plain[2]
    for group in (group for modality in modalities for group in modality.groups):
        column = packed[0][group.name].combine_chunks().drop_null()
        assert np.array_equal(decode_group(column, group)[-1], pairs[39].images[group.name])


def test_no_pairs_make_no_shard(workspace):
    assert write_shard(workspace, [], (sentinel1(24),), "shards/none.parquet", "train", 16) == (None, {})
    assert not workspace.exists("archive")


def test_manifest_survives_json_and_refuses_other_formats(archive):
    manifest = read_manifest(archive)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json())), "x") == manifest
    assert manifest.rows_by_split == {"train": 96, "validation": 32, "test": 48}
    with pytest.raises(ManifestError, match="format 99"):
        Manifest.from_json({**manifest.to_json(), "format": 99}, "x")
    with pytest.raises(ManifestError, match="'shards'"):
        Manifest.from_json({k: v for k, v in manifest.to_json().items() if k != "shards"}, "x")
    with pytest.raises(ConfigError, match="no pairs of split"):
        Manifest.of_split(dataclasses.replace(manifest, shards=()), "train")


def test_no_archive_yet_and_a_cut_manifest(workspace):
    with pytest.raises(ManifestError, match="`sscm ingest` makes one"):
        read_manifest(workspace)
    workspace.write_bytes(b'{"format": 1,', "archive", "manifest.json")
    with pytest.raises(IntegrityError, match="not JSON"):
        read_manifest(workspace)


@pytest.fixture
def table(tmp_path):
    """A table of 40 pairs of ``.npy`` images and their declaration."""
    rng = np.random.default_rng(0)
    lines = ["pair_id,radar,optical,split"]
    for i in range(40):
        np.save(tmp_path / f"r{i}.npy", rng.integers(1, 255, (1, 16, 16), np.uint8))
        np.save(tmp_path / f"o{i}.npy", rng.integers(1, 255, (3, 16, 16), np.uint8))
        lines.append(f"p{i:02d},r{i}.npy,o{i}.npy,{'test' if i % 4 == 0 else 'train'}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "modalities.toml").write_text(DECLARATION)
    return PairsConfig(table=str(tmp_path / "pairs.csv"), modalities=str(tmp_path / "modalities.toml"))


def config_of(workspace, **changes):
    return IngestConfig(workspace=workspace.uri, pairs_per_shard=8, pairs_per_row_group=4, **changes)


@pytest.mark.usefixtures("ray_session")
def test_an_ingest_writes_every_pair_once_and_is_not_repeated(workspace, table, tmp_path):
    manifest = ingest(PairsSource(table), config_of(workspace))
    assert manifest == read_manifest(workspace)
    assert manifest.rows_by_split == {"train": 30, "validation": 0, "test": 10}
    group = manifest.group("optical")
    ids = []
    for shard in manifest.shards:
        with workspace.parquet("archive", *shard.file.split("/")) as file:
            rows = file.read()
        ids += rows["pair_id"].to_pylist()
        for name, image in zip(rows["pair_id"].to_pylist(), decode_group(rows["optical"], group), strict=True):
            assert np.array_equal(image, np.load(tmp_path / f"o{int(name[1:])}.npy"))
    assert sorted(ids) == [f"p{i:02d}" for i in range(40)]
    train = np.concatenate([np.load(tmp_path / f"r{i}.npy").ravel() for i in range(40) if i % 4])
    assert manifest.statistics["radar/VV"].mean == pytest.approx(train.mean())
    assert manifest.statistics["radar/VV"].std == pytest.approx(train.std())
    assert workspace.names("archive") == ["bad_pairs.json", "manifest.json", "shards"]
    before = workspace.read_bytes("archive", "manifest.json")
    ingest(PairsSource(table), config_of(workspace))
    assert workspace.read_bytes("archive", "manifest.json") == before


@pytest.mark.usefixtures("ray_session")
def test_a_compressed_archive_is_another_one(workspace, table):
    plain = ingest(PairsSource(table), config_of(workspace))
    with pytest.raises(ConfigError, match="--replace"):
        ingest(PairsSource(table), config_of(workspace, codec="zstd"))
    packed = ingest(PairsSource(table), config_of(workspace, codec="zstd", replace=True))
    assert packed.rows_by_split == plain.rows_by_split and packed.statistics == plain.statistics
    with workspace.parquet("archive", *packed.shards[0].file.split("/")) as file:
        assert file.metadata.row_group(0).column(1).compression == "ZSTD"


@pytest.mark.usefixtures("ray_session")
def test_bad_pairs_stop_it_or_are_left_out_and_a_mended_source_goes_on(workspace, table, tmp_path):
    (tmp_path / "o7.npy").write_bytes(b"\x93NUMPY cut")
    with pytest.raises(TooManyBadPairsError, match=r"1 of 40 pairs .* First: .*o7\.npy"):
        ingest(PairsSource(table), config_of(workspace))
    assert workspace.read_json("archive", "bad_pairs.json")[0]["pair_id"] == "p07"
    with pytest.raises(ManifestError):
        read_manifest(workspace)
    manifest = ingest(PairsSource(table), config_of(workspace, max_bad=0.05))
    assert (manifest.rows, manifest.bad_pairs) == (39, 1)


@pytest.mark.usefixtures("ray_session")
def test_a_killed_ingest_goes_on_where_it_stopped(workspace, table):
    source, config = PairsSource(table), config_of(workspace)
    manifest = ingest(source, config)
    # What a kill after two shards leaves: no manifest, two shards with receipts, and a third without.
    receipts = {}
    for shard in manifest.shards[:2]:
        receipts[shard.file] = {"shard": dataclasses.asdict(shard), "statistics": {}, "bad": []}
    for shard in manifest.shards[3:]:
        workspace.delete("archive", *shard.file.split("/"))
    workspace.delete("archive", "manifest.json")
    statistics = {
        f"{m.name}/{b}": manifest.statistics[f"{m.name}/{b}"] for m in source.modalities for b in m.band_names
    }
    for file, receipt in receipts.items():
        receipt["statistics"] = {name: value.to_json() for name, value in statistics.items()}
        workspace.write_json(receipt, "archive", "receipts", file.split("/")[1].replace(".parquet", ".json"))
    kept = workspace.fs.modified(workspace.path_of("archive", *manifest.shards[0].file.split("/")))
    again = ingest(source, config)
    assert again.shards == manifest.shards
    assert workspace.fs.modified(workspace.path_of("archive", *again.shards[0].file.split("/"))) == kept


@pytest.mark.usefixtures("ray_session")
def test_another_archive_is_replaced_only_on_request(workspace, table):
    ingest(PairsSource(table), config_of(workspace))
    with pytest.raises(ConfigError, match="--replace"):
        ingest(PairsSource(table), config_of(workspace, shuffle_seed=1))
    files = set(workspace.names("archive", "shards"))
    replaced = ingest(PairsSource(table), config_of(workspace, shuffle_seed=1, replace=True))
    assert {f"shards/{name}" for name in workspace.names("archive", "shards")} == {s.file for s in replaced.shards}
    assert not files & set(workspace.names("archive", "shards"))


@pytest.mark.usefixtures("ray_session")
def test_a_worker_that_cannot_write_says_why(workspace, table):
    workspace.write_bytes(b"", "archive", "shards")  # a file where the folder of shards should be
    with pytest.raises(WorkspaceError, match=r"cannot write .*archive/shards/"):
        ingest(PairsSource(table), config_of(workspace))
    workspace.delete("archive", "shards")
    assert ingest(PairsSource(table), config_of(workspace)).rows == 40


def test_two_rows_of_one_id_and_none_at_all(workspace, pairs):
    source = ListedSource(pairs[:2])
    source.plan = lambda: [PairRef(key="a", split="train")] * 2
    with pytest.raises(ArchiveError, match=r"1 pair ids occur more than once \(a\)"):
        ingest(source, config_of(workspace))
    source.plan = lambda: []
    with pytest.raises(ArchiveError, match="no pairs found"):
        ingest(source, config_of(workspace))
