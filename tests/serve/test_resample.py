"""Resampling is the encoder's, and pixels without data leave their neighbours alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from serve.plane import Plane
from serve.resample import as_group, resampled
from sscm.errors import QueryError
from sscm.sensors import Band, BandGroup, Modality

RNG = np.random.default_rng(0)


def group_of(dtype="uint16", nodata=0.0, size=(24, 20)):
    group = BandGroup(
        name="x", bands=(Band(name="VV"),), height=size[0], width=size[1], dtype=dtype, unit="DN", nodata=nodata
    )
    return group, Modality(name="some", title="Some", groups=(group,))


def fitted(pixels, dtype="uint16", nodata=0.0, size=(24, 20), marked=None):
    group, modality = group_of(dtype, nodata, size)
    result = as_group([Plane(band="VV", pixels=pixels, where="x.tif, band VV", nodata=marked)], group, modality)
    assert result.shape == group.shape and result.dtype == group.numpy_dtype
    return result[0]


@pytest.mark.parametrize("size", [(31, 23), (23, 30), (13, 10), (55, 77), (90, 9)])
def test_resampling_is_that_of_the_encoder(size):
    values = RNG.normal(-14, 4, size).astype(np.float32)
    expected = F.interpolate(
        torch.from_numpy(values)[None, None], size=(24, 20), mode="bilinear", align_corners=False, antialias=True
    )
    np.testing.assert_allclose(resampled(values, (24, 20)), expected[0, 0].numpy(), atol=1e-4)
    if max(size) <= 20:  # enlarging needs no antialias
        plain = F.interpolate(torch.from_numpy(values)[None, None], size=(24, 20), mode="bilinear", align_corners=False)
        np.testing.assert_allclose(resampled(values, (24, 20)), plain[0, 0].numpy(), atol=1e-4)


@pytest.mark.parametrize("times", [(2, 2), (4, 1), (3, 4)])
def test_a_band_written_out_at_a_finer_grid_comes_back_as_it_was(times):
    native = RNG.integers(1, 10_000, (24, 20)).astype(np.uint16)
    finer = native.repeat(times[0], axis=0).repeat(times[1], axis=1)
    np.testing.assert_array_equal(fitted(finer), native)


def test_the_declared_size_is_not_touched():
    native = RNG.integers(0, 10_000, (24, 20)).astype(np.uint16)
    np.testing.assert_array_equal(fitted(native), native)


@pytest.mark.parametrize("size", [(48, 40), (31, 23), (12, 17), (24, 33)])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_no_data_does_not_bleed(size, dtype):
    pixels = np.full(size, 5000).astype(dtype)
    hole = np.zeros(size, bool)
    hole[: size[0] // 3, size[1] // 2 :] = True
    pixels[hole] = 0
    result = fitted(pixels, dtype)
    assert set(np.unique(result)) == {0, 5000}
    share = (result == 0).mean()
    assert abs(share - hole.mean()) < 0.1


@pytest.mark.parametrize("size", [(24, 20), (31, 23)])
def test_what_a_file_marks_and_nan_become_the_groups_no_data(size):
    pixels = np.full(size, 700, np.int16)
    pixels[:12] = -9999
    marked = fitted(pixels, marked=-9999.0)
    assert set(np.unique(marked)) == {0, 700}
    floats = np.where(pixels < 0, np.nan, pixels).astype(np.float64)
    np.testing.assert_array_equal(fitted(floats), marked)


def test_a_mean_that_happens_to_be_the_value_of_no_data_is_data():
    pixels = np.where(np.indices((48, 40)).sum(axis=0) % 2, 1, -1)
    assert set(np.unique(fitted(pixels.astype(np.int16), "int16"))) == {1}
    floats = fitted(pixels.astype(np.float32), "float32")
    assert 0 not in floats and np.abs(floats).max() < 1e-30


def test_whole_numbers_are_rounded_and_stay_in_range():
    pixels = np.full((31, 23), 65535, np.uint16)
    assert (fitted(pixels) == 65535).all()
    assert set(np.unique(fitted(np.tile([[10, 11], [10, 10]], (24, 20)).astype(np.uint8)))) == {10}  # 10.25


@pytest.mark.parametrize("size", [(24, 20), (31, 23)])
def test_without_a_value_for_no_data_there_must_be_none(size):
    pixels = np.full(size, -12.0, np.float32)
    assert (fitted(pixels, "float32", None) == -12).all()
    for bad, mark in ((np.nan, None), (np.inf, None), (-9999, -9999.0)):
        pixels[3, 4:6] = bad
        with pytest.raises(QueryError, match=f"2 of {pixels.size} pixels are NaN.*; fill them before asking, or cut"):
            fitted(pixels, "float32", None, marked=mark)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_pixels_are_refused_where_nan_is_no_data(value):
    pixels = np.full((24, 20), 3.0)
    pixels[0, 0] = value
    with pytest.raises(QueryError, match="1 of 480 pixels are NaN or infinite"):
        fitted(pixels)


@pytest.mark.parametrize(
    ("pixels", "seen"),
    [
        (np.full((31, 23), 0.5), "float64 with values 0.5 to 0.5"),
        (np.full((31, 23), -3, np.int16), "int16 with values -3 to -3"),
        (np.full((31, 23), 70_000, np.int32), "int32 with values 70000 to 70000"),
    ],
)
def test_values_that_the_dtype_cannot_hold_are_refused(pixels, seen):
    with pytest.raises(QueryError, match=f"x.tif, band VV: dtype {seen} is not uint16; expected DN as uint16"):
        fitted(pixels)


def test_an_image_without_data_is_refused_also_when_little_is_left_of_it():
    pixels = np.zeros((48, 40), np.uint16)
    pixels[::4, ::4] = 9
    with pytest.raises(QueryError, match="every pixel is 0, no data"):
        fitted(pixels)
