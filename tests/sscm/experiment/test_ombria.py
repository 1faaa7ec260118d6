"""Tiles and weak land cover of the OMBRIA benchmark."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def ombria():
    """The benchmark as a module."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "ombria.py"
    spec = importlib.util.spec_from_file_location("ombria", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_land_cover_of_known_pixels(ombria):
    water, vegetation, other, nodata = (20, 10, 90), (60, 200, 50), (100, 100, 100), (0, 0, 0)
    tile = np.array([[water, vegetation], [other, nodata]], np.uint8)
    assert ombria.land_cover(tile) == {"water": 0.25, "vegetation": 0.25, "other": 0.25, "s2_nodata": 0.25}


def test_formula_gives_the_fractions_of_whole_images(ombria, shared_data):
    with (shared_data / "ombria" / "index.csv").open() as file:
        rows = list(csv.DictReader(file))[::100]
    for row in rows:
        found = ombria.land_cover(np.asarray(Image.open(shared_data / "ombria" / row["s2"])))
        assert {name: float(row[f"{name}_fraction"]) for name in found} == pytest.approx(found, abs=6e-5)


def test_tiles_have_labels_of_their_own(ombria, tmp_path):
    optical = np.zeros((256, 256, 3), np.uint8)
    optical[:128, :128] = (20, 10, 90)  # water
    optical[:128, 128:] = (60, 200, 50)  # vegetation
    optical[128:] = (100, 100, 100)
    optical[128:, 128:137] = (20, 10, 90)  # less than a tenth of that tile
    radar = np.arange(256 * 256, dtype=np.uint32).reshape(256, 256).astype(np.uint8)
    Image.fromarray(optical).save(tmp_path / "s2.png")
    Image.fromarray(radar).save(tmp_path / "s1.png")
    (tmp_path / "index.csv").write_text("pair_id,s1,s2\nombria_0721,s1.png,s2.png\n")
    config = ombria.write_tiles(tmp_path, tmp_path / "source")
    with Path(config.table).open() as file:
        rows = {row["pair_id"]: row for row in csv.DictReader(file)}
    assert {key: row["labels"] for key, row in rows.items()} == {
        "ombria_0721_0_0": "water",
        "ombria_0721_0_1": "vegetation",
        "ombria_0721_1_0": "other",
        "ombria_0721_1_1": "other",
    }
    assert {row["split"] for row in rows.values()} == {"test"}
    assert float(rows["ombria_0721_1_1"]["water_fraction"]) == pytest.approx(9 / 128, abs=1e-6)
    tile = np.asarray(Image.open(tmp_path / "source" / rows["ombria_0721_1_0"]["s1"]))
    np.testing.assert_array_equal(tile, radar[128:, :128])


@pytest.mark.parametrize(
    ("number", "split"), [("0680", "train"), ("0681", "validation"), ("0720", "validation"), ("0721", "test")]
)
def test_splits_go_by_blocks(ombria, number, split):
    assert ombria.split_of(f"ombria_{number}") == split
