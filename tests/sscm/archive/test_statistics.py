import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscm.archive.statistics import (
    BandStatistics,
    _of_histogram,
    _of_pixels,
    group_statistics,
    merge_statistics,
)
from sscm.sensors import sentinel1, sentinel2


def of(pixels, group):
    return group_statistics(np.asarray(pixels), group)


def test_equal_to_numpy_without_no_data():
    rng = np.random.default_rng(0)
    group = sentinel2(12).groups[0]
    images = rng.integers(0, 5, (7, *group.shape)).astype(np.uint16)
    found = of(images, group)
    for band, name in enumerate(group.band_names):
        pixels = images[:, band][images[:, band] != 0].astype(float)
        assert found[name].count == pixels.size
        assert found[name].mean == pytest.approx(pixels.mean(), rel=1e-12)
        assert found[name].std == pytest.approx(pixels.std(), rel=1e-12)
        assert (found[name].minimum, found[name].maximum) == (pixels.min(), pixels.max())


@pytest.mark.parametrize("nodata", [None, 0.0, 7.0, -1.0, 0.5, 65_535.0, 100_000.0])
def test_small_whole_numbers_counted_are_as_summed(nodata):
    pixels = np.random.default_rng(0).integers(0, 65_536, 200_000).astype(np.uint16)
    counted, summed = _of_histogram(pixels, nodata), _of_pixels(pixels, nodata)
    assert (counted.count, counted.minimum, counted.maximum) == (summed.count, summed.minimum, summed.maximum)
    assert counted.mean == pytest.approx(summed.mean, rel=1e-14)
    assert counted.m2 == pytest.approx(summed.m2, rel=1e-12)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_merged_parts_equal_the_whole(sizes, seed):
    rng = np.random.default_rng(seed)
    group = sentinel1(6).groups[0]
    parts = [rng.normal(-12, 5, (size, *group.shape)).astype(np.float32) for size in sizes]
    merged: dict[str, BandStatistics] = {}
    for part in parts:
        merged = merge_statistics(merged, of(part, group))
    whole = of(np.concatenate(parts), group)
    for name in group.band_names:
        assert merged[name].count == whole[name].count
        assert merged[name].mean == pytest.approx(whole[name].mean, rel=1e-9)
        assert merged[name].std == pytest.approx(whole[name].std, rel=1e-9)


def test_nothing_valid_counts_nothing_and_survives_json():
    group = sentinel2(12).groups[0]
    found = of(np.zeros((2, *group.shape), np.uint16), group)["B02"]
    assert found == BandStatistics() == BandStatistics.from_json(found.to_json())
    assert found.std == 0.0
