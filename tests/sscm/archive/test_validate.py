"""What every pair must be: one fault at a time in an otherwise good pair."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import numpy as np
import pytest

from sscm.archive.validate import validate_pair
from sscm.errors import PairError


def test_good_pairs_pass(pair_factory, modalities):
    pair = pair_factory(3)
    validate_pair(pair, modalities, "row 3")
    validate_pair(dataclasses.replace(pair, images={"s1": pair.images["s1"]}), modalities, "row 3")
    some = np.array(pair.images["s2_10m"])
    some[:, 1:] = 0  # no-data in a part is data
    validate_pair(dataclasses.replace(pair, images={**pair.images, "s2_10m": some}), modalities, "row 3")


def changed(name, change):
    return lambda pair: {"images": {**pair.images, name: change(np.array(pair.images[name]))}}


def put(value):
    def change(image):
        image[1, 2, 3] = value
        return image

    return change


@pytest.mark.parametrize(
    ("change", "where", "seen", "expected"),
    [
        (lambda p: {"pair_id": ""}, "row 3", "an empty pair id", "no other pair"),
        (lambda p: {"split": "dev"}, "row 3", "split 'dev'", "one of train, validation, test"),
        (lambda p: {"datetimes": {"s3": datetime(2020, 1, 1)}}, "row 3", "modality 's3'", "['s1', 's2']"),
        (lambda p: {"datetimes": {"s1": datetime(2020, 1, 1)}}, "row 3", "without a time zone", "with its zone"),
        (lambda p: {"images": {}}, "row 3", "no image of any modality", "at least one of ['s1', 's2']"),
        (lambda p: {"images": {**p.images, "s3": p.images["s1"]}}, "row 3", "['s3']", "['s1', 's2_10m'"),
        (
            lambda p: {"images": {k: v for k, v in p.images.items() if k != "s2_20m"}},
            "row 3",
            "s2 without its band groups ['s2_20m']",
            "all of a modality's groups, or none",
        ),
        (changed("s1", lambda a: a[:, :-1]), "band group s1", "shape (2, 23, 24)", "(2, 24, 24)"),
        (changed("s1", lambda a: a[:1]), "band group s1", "shape (1, 24, 24)", "(2, 24, 24)"),
        (changed("s1", lambda a: a.astype("float64")), "band group s1", "dtype float64", "float32"),
        (changed("s2_60m", lambda a: a.astype("int16")), "band group s2_60m", "dtype int16", "uint16"),
        (changed("s1", put(np.nan)), "band group s1", "1 of 1152 values NaN or infinite, first in VH", "finite"),
        (changed("s1", put(-np.inf)), "band group s1", "1 of 1152 values NaN or infinite", "finite"),
        (changed("s2_20m", np.zeros_like), "band group s2_20m", "every pixel is no-data (0)", "some pixels with data"),
        (changed("s1", np.zeros_like), "band group s1", "every pixel of every band is 0", "which vary"),
    ],
)
def test_faults_are_named(pair_factory, modalities, change, where, seen, expected):
    pair = pair_factory(3)
    bad = dataclasses.replace(pair, **change(pair))
    with pytest.raises(PairError) as caught:
        validate_pair(bad, modalities, "row 3")
    error = caught.value
    assert where in error.where and error.where.startswith("row 3")
    assert seen in error.seen and expected in error.expected
    assert error.pair_id == (bad.pair_id or None)


def test_big_endian_pixels_pass(pair_factory, modalities):
    pair = pair_factory(1)
    swapped = pair.images["s1"].astype(">f4")
    validate_pair(dataclasses.replace(pair, images={**pair.images, "s1": swapped}), modalities, "row")
