"""Adding to an archive: what is new comes beside what is there, once, and readers of either go on."""

import dataclasses

import numpy as np
import pytest

from sscm.archive import ingest as ingest_module
from sscm.archive.held import read_held
from sscm.archive.ingest import ingest
from sscm.archive.manifest import read_manifest, write_manifest
from sscm.archive.schema import decode_group
from sscm.archive.sweep import sweep
from sscm.config import AppendConfig, IndexConfig, IngestConfig, ModelConfig
from sscm.errors import BandMismatchError, ConfigError, ConflictError, TooManyBadPairsError
from sscm.index.append import append_to_index
from sscm.index.build import build_index
from sscm.index.generation import open_segments, read_generation
from sscm.index.search import IndexReader
from sscm.model.bundle import make_bundle, make_encoders, save_bundle
from tests.plugins.image_table import DECLARATION, Images


@pytest.fixture
def images(tmp_path):
    found = Images(tmp_path / "images")
    found.grow(0, 20)
    return found


def config_of(workspace, **changes):
    return IngestConfig(workspace=workspace.uri, pairs_per_shard=8, pairs_per_row_group=4, **changes)


def add(images, workspace, **changes):
    return ingest(images.source, config_of(workspace, add=True, **changes))


def ids_in(workspace):
    """Ids of all pairs, sorted, as often as they occur."""
    found = []
    for shard in read_manifest(workspace).shards:
        with workspace.parquet("archive", *shard.file.split("/")) as file:
            found += file.read(columns=["pair_id"])["pair_id"].to_pylist()
    return sorted(found)


def names(first, last):
    return [f"p{number:02d}" for number in range(first, last)]


@pytest.fixture
def grown(images, workspace, ray_session):
    """An archive of twenty pairs, and ten more in the folder."""
    ingest(images.source, config_of(workspace))
    images.grow(20, 30)
    return workspace


def save_model(workspace):
    """An untrained model of the workspace's archive."""
    manifest = read_manifest(workspace)
    config = ModelConfig(backbone="resnet10t", dimension=16, image_size=32)
    encoders = make_encoders(manifest.modalities, manifest.statistics, config)
    about = {"config": config, "modalities": manifest.modalities, "statistics": manifest.statistics}
    save_bundle(workspace, make_bundle("model", encoders=encoders, split="train", simulated=False, record={}, **about))


def contents(workspace):
    return workspace.read_bytes("archive", "manifest.json"), workspace.names("archive"), times(workspace)


def times(workspace):
    folder = workspace.names("archive", "shards")
    return {name: workspace.fs.modified(workspace.path_of("archive", "shards", name)) for name in folder}


def test_what_is_new_comes_beside_what_is_there(grown, images, capsys):
    before, files = read_manifest(grown), times(grown)
    manifest = add(images, grown)
    assert manifest == read_manifest(grown)
    assert manifest.shards[: len(before.shards)] == before.shards and manifest.rows == 30
    assert manifest.rows_by_split == {"train": 22, "validation": 0, "test": 8}
    assert ids_in(grown) == names(0, 30)
    assert files.items() < times(grown).items()
    assert manifest.source == before.source and [each["rows"] for each in manifest.additions] == [10]
    train = images.pixels([number for number in range(30) if number % 4])
    assert manifest.statistics["radar/VV"].mean == pytest.approx(train.mean())
    assert manifest.statistics["radar/VV"].std == pytest.approx(train.std())
    assert manifest.statistics["radar/VV"].count == train.size
    for shard in manifest.shards[len(before.shards) :]:
        with grown.parquet("archive", *shard.file.split("/")) as file:
            rows = file.read()
        optical = decode_group(rows["optical"], manifest.group("optical"))
        for name, image in zip(rows["pair_id"].to_pylist(), optical, strict=True):
            assert np.array_equal(image, np.load(images.folder / f"o{int(name[1:])}.npy"))
    # once more: nothing
    state = contents(grown)
    capsys.readouterr()
    assert add(images, grown) == manifest
    assert "the archive holds 30 pairs of the source already; nothing added" in capsys.readouterr().err
    assert contents(grown) == state


def test_several_additions_and_another_source(grown, images, tmp_path):
    add(images, grown)
    images.grow(30, 33, split="validation")
    add(images, grown)
    other = Images(tmp_path / "other")
    other.grow(31, 40, split="train")  # p31 and p32 are known from the first folder
    manifest = add(other, grown)
    assert ids_in(grown) == names(0, 40)
    assert [each["rows"] for each in manifest.additions] == [10, 3, 7]
    assert [each["table"] for each in manifest.additions][1:] == [images.source.table, other.source.table]
    assert len({shard.file for shard in manifest.shards}) == len(manifest.shards)
    # What made the archive, or the same with --add, changes nothing any more.
    assert add(images, grown) == manifest == add(other, grown)


def test_adding_to_nothing_is_an_ingest(images, workspace, ray_session):
    manifest = add(images, workspace)
    assert ids_in(workspace) == names(0, 20) and manifest.additions == ()
    assert ingest(images.source, config_of(workspace)) == manifest


def test_without_the_word_a_grown_source_is_refused_and_the_way_told(grown, images):
    with pytest.raises(ConfigError, match="--add to add the pairs that it does not hold, or --replace"):
        ingest(images.source, config_of(grown))
    with pytest.raises(ConfigError, match="exclude one another"):
        config_of(grown, add=True, replace=True)


def test_a_killed_addition_goes_on_where_it_stopped(grown, images, monkeypatch):
    before = grown.read_bytes("archive", "manifest.json")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            add(images, grown)
    assert grown.read_bytes("archive", "manifest.json") == before
    written, receipts = times(grown), grown.names("archive", "receipts")
    new = sorted(set(written) - {shard.file.split("/")[1] for shard in read_manifest(grown).shards})
    assert len(receipts) == len(new) == 2
    grown.delete("archive", "receipts", receipts[0])  # as if it had been killed before the second shard
    manifest = add(images, grown)
    assert {shard.file for shard in manifest.shards} == {f"shards/{name}" for name in written}
    assert times(grown)[new[1]] == written[new[1]] and times(grown)[new[0]] > written[new[0]]
    assert ids_in(grown) == names(0, 30) and "receipts" not in grown.names("archive")


def test_unusable_pairs_are_tried_again_and_do_not_add_up(grown, images, capsys):
    path = images.folder / "o25.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(TooManyBadPairsError, match=r"1 of 30 pairs .*o25\.npy"):
        add(images, grown)
    assert read_manifest(grown).rows == 20
    manifest = add(images, grown, max_bad=0.05)
    assert (manifest.rows, manifest.bad_pairs) == (29, 1)
    capsys.readouterr()
    assert add(images, grown, max_bad=0.05) == manifest  # one of thirty, not one of one
    assert "29 pairs of the source already, and 1 that are new cannot be used; nothing added" in capsys.readouterr().err
    path.write_bytes(whole)
    manifest = add(images, grown)
    assert (manifest.rows, manifest.bad_pairs) == (30, 0) and ids_in(grown) == names(0, 30)
    assert grown.read_json("archive", "bad_pairs.json") == []


def test_tiles_of_a_scene_are_not_read_again(tmp_path, workspace, ray_session, monkeypatch):
    images = Images(tmp_path / "scenes", side=48)
    images.declare(DECLARATION, pixels=False)
    images.tile = 24
    images.grow(0, 3)
    ingest(images.source, config_of(workspace))
    assert read_held(workspace, read_manifest(workspace)).keys == set(names(0, 3))
    images.grow(3, 5)
    manifest = add(images, workspace)
    assert manifest.rows == 20 and len(set(ids_in(workspace))) == 20
    assert manifest.additions[0]["rows"] == 8
    assert workspace.names("archive", "keys") == sorted(f"{identity[:12]}.json" for identity in manifest.identities)
    for name in workspace.names("archive", "keys"):  # as in archives that were made before keys were kept
        workspace.delete("archive", "keys", name)
    assert add(images, workspace).rows == 20  # all of it is read, none of it kept twice
    assert len(set(ids_in(workspace))) == 20


def test_other_modalities_and_bands_are_refused_with_both_named(grown, tmp_path):
    before = contents(grown)
    for number, (old, new, error, told) in enumerate(
        [
            ('"R", "G", "B"', '"B", "G", "R"', BandMismatchError, r"given bands .*optical:B.* known bands.*optical:R"),
            ("[radar", "[sar", ConfigError, r"has the modalities \['radar', 'optical'\]; the source has \['sar'"),
            (
                'dtype = "uint8"',
                'dtype = "uint16"',
                ConfigError,
                r"\(1, 32, 32\) uint8.*the source has it as .* uint16",
            ),
        ]
    ):
        other = Images(tmp_path / f"other{number}")
        other.declare(DECLARATION.replace(old, new))
        other.grow(50, 52)
        table = other.folder / "pairs.csv"
        table.write_text(table.read_text().replace("radar", "sar") if "sar" in new else table.read_text())
        if "sar" in new:
            other.declare(DECLARATION.replace("radar", "sar"))
        with pytest.raises(error, match=told):
            add(other, grown)
    small = Images(tmp_path / "small", side=16)
    small.grow(50, 52)
    with pytest.raises(ConfigError, match=r"\(1, 32, 32\) uint8.*\(1, 16, 16\) uint8"):
        add(small, grown)
    assert contents(grown) == before


def test_another_ingest_that_commits_meanwhile_is_not_overwritten(grown, images, monkeypatch):
    written = ingest_module.write_shards

    def overtaken(workspace, *args):
        yield from written(workspace, *args)
        manifest = read_manifest(workspace)
        write_manifest(workspace, dataclasses.replace(manifest, created="2030-01-01T00:00:00+00:00"))

    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, "write_shards", overtaken)
        with pytest.raises(ConflictError, match="another ingest committed meanwhile; run the same command again"):
            add(images, grown)
    assert read_manifest(grown).rows == 20
    assert add(images, grown).rows == 30


def test_statistics_of_a_train_split_that_comes_later(tmp_path, workspace, ray_session):
    images = Images(tmp_path / "images")
    images.grow(0, 4, split="test")
    assert ingest(images.source, config_of(workspace)).statistics["radar/VV"].mean == pytest.approx(
        images.pixels(range(4)).mean()
    )
    images.grow(4, 6, split="validation")
    everything = add(images, workspace).statistics["radar/VV"]
    assert everything.mean == pytest.approx(images.pixels(range(6)).mean())
    images.grow(6, 9, split="train")
    assert add(images, workspace).statistics["radar/VV"].mean == pytest.approx(images.pixels(range(6, 9)).mean())
    images.grow(9, 11, split="test")
    assert add(images, workspace).statistics["radar/VV"].mean == pytest.approx(images.pixels(range(6, 9)).mean())


def test_an_index_appends_what_was_added_and_finds_it(grown, images):
    save_model(grown)
    every = ("train", "test")
    build_index(IndexConfig(workspace=grown.uri, splits=every, batch_size=8))
    add(images, grown)
    generation = append_to_index(AppendConfig(workspace=grown.uri, splits=every, batch_size=8))
    assert (generation.number, generation.rows) == (2, 30)
    reader = IndexReader(open_segments(grown, generation))
    for name in names(20, 30):
        segment, row = reader.find(name)
        hits = reader.search(np.asarray(segment.vectors("radar")[row])[None], target="radar", k=1)
        assert hits[0][0].pair_id == name


def test_shards_that_an_index_shows_pictures_from_stay(grown, images, capsys):
    save_model(grown)
    build_index(IndexConfig(workspace=grown.uri, splits=("test",), batch_size=8))
    indexed = set(read_generation(grown).sources)
    replaced = ingest(images.source, config_of(grown, shuffle_seed=1, replace=True))
    kept = {f"shards/{name}" for name in grown.names("archive", "shards")}
    assert indexed and kept == indexed | {shard.file for shard in replaced.shards}
    assert f"{len(indexed)} shards of an earlier archive stay" in capsys.readouterr().err
    grown.delete("index")
    assert ingest(images.source, config_of(grown, shuffle_seed=1)) == replaced
    assert {f"shards/{name}" for name in grown.names("archive", "shards")} == {s.file for s in replaced.shards}


def test_nothing_is_swept_where_the_index_cannot_be_read(archive, capsys):
    archive.write_bytes(b"", "archive", "shards", "older.parquet")
    archive.write_json({"format": 99}, "index", "generations", "1", "manifest.json")
    sweep(archive, read_manifest(archive))
    assert "older.parquet" in archive.names("archive", "shards") and "cannot be read" in capsys.readouterr().err
