"""Both versions of BigEarthNet: real files against rasterio's reading, made folders for all that goes wrong."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from rasterio.warp import transform_bounds

from sscm.archive.sources.bigearthnet import BigEarthNetSource
from sscm.archive.validate import validate_pair
from sscm.config import BigEarthNetConfig
from sscm.errors import ArchiveError, PairError

BANDS = {
    "s1": ["VV", "VH"],
    "s2_10m": ["B02", "B03", "B04", "B08"],
    "s2_20m": ["B05", "B06", "B07", "B8A", "B11", "B12"],
    "s2_60m": ["B01", "B09"],
}


def source_of(root, **options):
    return BigEarthNetSource(BigEarthNetConfig(root=str(root), **options))


def read_all(source):
    """Pairs by id, and the errors of those that cannot be read."""
    pairs, errors = {}, {}
    for ref in source.plan():
        try:
            for pair in source.read(ref):
                validate_pair(pair, source.modalities, pair.pair_id)
                pairs[pair.pair_id] = pair
        except PairError as error:
            errors[ref.key] = error
    return pairs, errors


def assert_as_rasterio_reads(pair, root: Path):
    """Pixels band by band, dtype and footprint, against rasterio itself."""
    for group, bands in BANDS.items():
        name = pair.properties["s1_name" if group == "s1" else "s2_name"]
        assert len(pair.images[group]) == len(bands)
        for plane, band in zip(pair.images[group], bands, strict=True):
            (path,) = [p for p in root.rglob(f"{name}_{band}.tif") if "Reference" not in str(p)]
            with rasterio.open(path) as file:
                assert plane.dtype == file.dtypes[0]
                np.testing.assert_array_equal(plane, file.read(1))
                if band == "B02":
                    bounds = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    np.testing.assert_allclose(shapely.from_wkb(pair.geometry).bounds, bounds, atol=1e-6)


def test_real_v1(shared_data):
    root = shared_data / "bigearthnet-v1"
    source = source_of(root)
    pairs, errors = read_all(pickle.loads(pickle.dumps(source)))
    assert len(pairs) == 6 and not errors
    for pair in pairs.values():
        assert_as_rasterio_reads(pair, root)
        (s1_json,) = root.rglob(f"{pair.properties['s1_name']}_labels_metadata.json")
        (s2_json,) = root.rglob(f"{pair.properties['s2_name']}_labels_metadata.json")
        s1, s2 = json.loads(s1_json.read_text()), json.loads(s2_json.read_text())
        assert s1["corresponding_s2_patch"] == pair.pair_id == pair.properties["s2_name"]
        assert pair.datetimes["s1"] == datetime.strptime(s1["acquisition_time"], "%Y-%m-%dT%H:%M:%S").replace(
            tzinfo=UTC
        )
        assert pair.datetimes["s2"] == datetime.strptime(s2["acquisition_date"], "%Y-%m-%d %H:%M:%S").replace(
            tzinfo=UTC
        )
        assert pair.properties["corine"] == "; ".join(s2["labels"])
        corner = s2["coordinates"]
        assert abs(corner["lrx"] - corner["ulx"]) == 1200
    finland = pairs["S2B_MSIL2A_20170924T93020_69_24"]
    assert finland.datetimes["s1"] - finland.datetimes["s2"] > (finland.datetimes["s2"] - finland.datetimes["s2"])
    assert finland.labels == [
        "Coniferous forest",
        "Mixed forest",
        "Transitional woodland, shrub",
        "Inland wetlands",
        "Inland waters",
    ]
    assert finland.properties["tile"] == "35VPK"


def test_real_v2_with_metadata_that_pairs_its_two_patches(shared_data, tmp_path):
    root = shared_data / "bigearthnet-v2"
    (s1,) = (root / "BigEarthNet-S1").glob("*/*")
    (s2,) = (root / "BigEarthNet-S2").glob("*/*")
    row = {"patch_id": s2.name, "s1_name": s1.name, "split": "test", "country": "Austria", "labels": ["Pastures"]}
    row |= {"contains_seasonal_snow": False, "contains_cloud_or_shadow": True}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
    pairs, errors = read_all(source_of(root, metadata=str(tmp_path / "m.parquet")))
    assert not errors
    (pair,) = pairs.values()
    assert_as_rasterio_reads(pair, root)
    assert (pair.pair_id, pair.split, pair.labels) == (s2.name, "test", ["Pastures"])
    assert pair.datetimes == {
        "s1": datetime(2017, 6, 13, 16, 50, 43, tzinfo=UTC),
        "s2": datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC),
    }
    assert pair.properties["country"] == "Austria"
    assert pair.properties["contains_cloud_or_shadow"] == "true"
    assert pair.properties["contains_seasonal_snow"] == "false"


@pytest.mark.parametrize("version", ["bigearthnet_v1", "bigearthnet_v2"])
def test_made_folders_come_back_as_written(version, request, tmp_path, noise_pairs):
    written = noise_pairs(5)
    names = request.getfixturevalue(version)(tmp_path, written)
    options = {"split_file": str(tmp_path / "splits.csv")} if version == "bigearthnet_v1" else {}
    pairs, errors = read_all(source_of(tmp_path, **options))
    assert not errors and sorted(pairs) == sorted(names)
    for name, expected in zip(names, written, strict=True):
        pair = pairs[name]
        assert (pair.split, pair.labels) == (expected.split, expected.labels)
        assert pair.datetimes == {
            "s1": datetime(2017, 6, 13, 16, 50, 43, tzinfo=UTC),
            "s2": datetime(2017, 6, 13, 9, 5, 31, tzinfo=UTC),
        }
        for group in BANDS:
            np.testing.assert_array_equal(pair.images[group], expected.images[group])
        assert_as_rasterio_reads(pair, tmp_path)


def test_folder_names_do_not_matter(bigearthnet_v1, tmp_path):
    names = bigearthnet_v1(tmp_path / "a", 3)
    (tmp_path / "b").mkdir()
    for folder in ("BigEarthNet-v1.0", "BigEarthNet-S1-v1.0"):
        for patch in (tmp_path / "a" / folder).iterdir():
            patch.rename(tmp_path / "b" / patch.name)  # all patches of both sensors in one folder
    pairs, errors = read_all(source_of(tmp_path / "b"))
    assert sorted(pairs) == sorted(names) and not errors


def test_a_remote_folder(bigearthnet_v2, tmp_path):
    import fsspec

    names = bigearthnet_v2(tmp_path, 2)
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path), "/archive", recursive=True)
    try:
        remote, errors = read_all(source_of("memory://archive"))
    finally:
        fs.rm("/archive", recursive=True)
    local, _ = read_all(source_of(tmp_path))
    assert sorted(remote) == sorted(names) and not errors
    for name, pair in remote.items():
        assert pair.geometry == local[name].geometry
        for group in BANDS:
            np.testing.assert_array_equal(pair.images[group], local[name].images[group])


def test_v1_splits_without_a_file_keep_blocks_together(bigearthnet_v1, tmp_path):
    bigearthnet_v1(tmp_path, 24)
    source = source_of(tmp_path)
    blocks = {}
    for ref in source.plan():
        *_, tile, row, col = ref.args["s1"].rsplit("_", 3)
        blocks.setdefault((tile, int(row) // 10, int(col) // 10), set()).add(ref.split)
    assert all(len(splits) == 1 for splits in blocks.values())
    assert len(set.union(*blocks.values())) > 1


def test_v1_takes_only_what_the_split_file_lists(bigearthnet_v1, tmp_path):
    names = bigearthnet_v1(tmp_path, 3)
    (tmp_path / "s.csv").write_text(f"{names[1]},val\n")
    (ref,) = source_of(tmp_path, split_file=str(tmp_path / "s.csv")).plan()
    assert (ref.key, ref.split) == (names[1], "validation")
    (tmp_path / "s.csv").write_text("S2A_MSIL2A_20990101T000000_1_1,val\n")
    with pytest.raises(ArchiveError, match=r"none of its 1 names is a patch"):
        source_of(tmp_path, split_file=str(tmp_path / "s.csv")).plan()


def only(folder: Path, pattern: str) -> Path:
    return sorted(folder.rglob(pattern))[0]


def spoil_truncated(root, write):
    path = only(root, "*_B05.tif")
    path.write_bytes(path.read_bytes()[:1000])
    return path, "cannot be read", "undamaged"


def spoil_missing_band(root, write):
    path = only(root, "*_VH.tif")
    path.unlink()
    return path, "no such file", "an image file"


def spoil_size(root, write):
    path = only(root, "*_B01.tif")
    write(path, np.ones((30, 30), "uint16"), 0)
    return path, "1 band of 30 × 30 pixels", "1 band of 20 × 20 pixels"


def spoil_dtype(root, write):
    path = only(root, "*_B8A.tif")
    write(path, np.full((60, 60), 0.25, "float32"), 0)
    return path, "float32 pixels, 3600 of them without an equal in uint16 (first: 0.25)", "uint16"


def spoil_negative(root, write):
    path = only(root, "*_B12.tif")
    write(path, np.full((60, 60), -3, "int16"), 0)
    return path, "int16 pixels, 3600 of them without an equal in uint16 (first: -3)", "uint16"


def spoil_nan(root, write):
    path = only(root, "*_VV.tif")
    pixels = np.random.default_rng(0).normal(-12, 3, (120, 120)).astype("float32")
    pixels[3, 4] = np.nan
    write(path, pixels, 0)
    return "band group s1", "1 of 28800 values NaN or infinite, first in VV", "finite"


def spoil_no_data(root, write):
    for path in root.rglob("*_B0[19].tif"):
        write(path, np.zeros((20, 20), "uint16"), 0)
    return "band group s2_60m", "every pixel is no-data (0)", "some pixels with data"


@pytest.mark.parametrize("version", ["bigearthnet_v1", "bigearthnet_v2"])
@pytest.mark.parametrize(
    "spoil",
    [spoil_truncated, spoil_missing_band, spoil_size, spoil_dtype, spoil_negative, spoil_nan, spoil_no_data],
)
def test_bad_images(version, spoil, request, tmp_path, band_writer):
    (name,) = request.getfixturevalue(version)(tmp_path, 1)
    where, seen, expected = spoil(tmp_path, band_writer)
    pairs, errors = read_all(source_of(tmp_path))
    assert not pairs
    error = errors[name]
    assert error.pair_id == name
    assert str(where) in str(error) and seen in error.seen and expected in error.expected


def test_int16_without_negatives_is_taken(bigearthnet_v2, tmp_path, band_writer):
    bigearthnet_v2(tmp_path, 1)
    path = only(tmp_path / "BigEarthNet-S2", "*_B02.tif")
    band_writer(path, np.arange(14400, dtype="int16").reshape(120, 120), 0)
    (pair,) = read_all(source_of(tmp_path))[0].values()
    assert pair.images["s2_10m"].dtype == np.uint16
    np.testing.assert_array_equal(pair.images["s2_10m"][0].ravel(), np.arange(14400))


def test_v1_missing_partners(bigearthnet_v1, tmp_path):
    names = bigearthnet_v1(tmp_path, 4)
    s1 = sorted((tmp_path / "BigEarthNet-S1-v1.0").iterdir())
    partner = {json.loads(only(p, "*.json").read_text())["corresponding_s2_patch"]: p for p in s1}
    shutil.rmtree(partner[names[0]])
    shutil.rmtree(tmp_path / "BigEarthNet-v1.0" / names[1])
    pairs, errors = read_all(source_of(tmp_path))
    assert sorted(pairs) == sorted(names[2:])
    assert "no Sentinel-1 patch names it as its partner" in str(errors[names[0]])
    assert names[0] in errors[names[0]].where
    assert f"its Sentinel-2 partner {names[1]} is missing" in str(errors[names[1]])
    assert partner[names[1]].name in errors[names[1]].where


def test_v1_second_partner_and_broken_json(bigearthnet_v1, tmp_path):
    names = bigearthnet_v1(tmp_path, 3)
    files = sorted((tmp_path / "BigEarthNet-S1-v1.0").rglob("*.json"))
    about = [json.loads(path.read_text()) for path in files]
    first, second, third = (a["corresponding_s2_patch"] for a in about)
    files[1].write_text(json.dumps(about[1] | {"corresponding_s2_patch": first}))
    files[2].write_text(json.dumps(about[2])[:50])
    pairs, errors = read_all(source_of(tmp_path))
    assert list(pairs) == [first]
    assert f"a second partner of {first}" in str(errors[files[1].parent.name])
    assert "not JSON" in str(errors[files[2].parent.name]) and str(files[2]) in str(errors[files[2].parent.name])
    assert {second, third} <= set(errors) and set(names) == {first, second, third}


def test_v1_unknown_label(bigearthnet_v1, tmp_path):
    (name,) = bigearthnet_v1(tmp_path, 1)
    path = only(tmp_path / "BigEarthNet-v1.0", "*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": ["Pastures", "Lava"]}))
    _, errors = read_all(source_of(tmp_path))
    assert "labels ['Lava']" in errors[name].seen and errors[name].where == str(path)


def test_v2_missing_partners_and_second_row(bigearthnet_v2, tmp_path, caplog):
    names = bigearthnet_v2(tmp_path, 5)
    table = pq.read_table(tmp_path / "metadata.parquet").to_pylist()
    shutil.rmtree(only(tmp_path / "BigEarthNet-S1", f"{table[0]['s1_name']}"))
    shutil.rmtree(only(tmp_path / "BigEarthNet-S2", names[1]))
    shutil.rmtree(only(tmp_path / "BigEarthNet-S1", f"{table[2]['s1_name']}"))
    shutil.rmtree(only(tmp_path / "BigEarthNet-S2", names[2]))
    pq.write_table(pa.Table.from_pylist([*table, table[3]]), tmp_path / "metadata.parquet")
    with caplog.at_level(logging.WARNING):
        pairs, errors = read_all(source_of(tmp_path))
    assert sorted(pairs) == sorted(names[3:])
    assert f"Sentinel-1 partner {table[0]['s1_name']} of {names[0]} is missing" in errors[names[0]].seen
    assert f"Sentinel-2 patch {names[1]} is missing" in errors[names[1]].seen
    assert names[2] not in errors and "1 of 6 pairs" in caplog.text  # a part of the archive is no fault
    (twice,) = [error for key, error in errors.items() if "row 5" in key]
    assert f"patch_id {names[3]} a second time" in twice.seen and "metadata.parquet, row 5" in twice.where


def test_unusable_roots(bigearthnet_v1, bigearthnet_v2, tmp_path):
    with pytest.raises(ArchiveError, match="No such file"):
        source_of(tmp_path / "nowhere").plan()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match=r"0 Sentinel-1 and 0 Sentinel-2 patch folders \(in it: it is empty\)"):
        source_of(tmp_path / "empty").plan()
    bigearthnet_v1(tmp_path / "one", 2)
    shutil.rmtree(tmp_path / "one" / "BigEarthNet-S1-v1.0")
    with pytest.raises(ArchiveError, match="0 Sentinel-1 and 2 Sentinel-2"):
        source_of(tmp_path / "one").plan()
    bigearthnet_v1(tmp_path / "both", 1)
    bigearthnet_v2(tmp_path / "both", 1)
    with pytest.raises(ArchiveError, match="both versions"):
        source_of(tmp_path / "both").plan()


def test_unusable_metadata(bigearthnet_v2, tmp_path):
    bigearthnet_v2(tmp_path, 2)
    path = tmp_path / "metadata.parquet"
    good = pq.read_table(path)
    pq.write_table(good.drop_columns("s1_name"), path)
    with pytest.raises(ArchiveError, match=r"expected also \['s1_name'\]"):
        source_of(tmp_path).plan()
    pq.write_table(good.set_column(2, "split", pa.array(["train", "dev"])), path)
    with pytest.raises(ArchiveError, match="row 1: split 'dev'; expected one of train, validation, test"):
        source_of(tmp_path).plan()
    other = pa.array(["a", "b"])
    pq.write_table(good.set_column(0, "patch_id", other).set_column(4, "s1_name", other), path)
    with pytest.raises(ArchiveError, match="none of its 2 pairs lies in"):
        source_of(tmp_path).plan()
    path.write_bytes(b"PAR1 cut")
    with pytest.raises(ArchiveError, match="not a whole Parquet file"):
        source_of(tmp_path).plan()
    path.unlink()
    with pytest.raises(ArchiveError, match="no such file; BigEarthNet version 2 needs its metadata"):
        source_of(tmp_path).plan()
