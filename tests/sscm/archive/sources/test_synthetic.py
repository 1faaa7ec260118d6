"""The simulated archive: the same bytes for the same seed, ground that both sensors see, labels of what lies there."""

import hashlib
import itertools
import json
import math
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import shapely

from sscm.archive.sources.base import PairRef
from sscm.archive.sources.bigearthnet_labels import CORINE_OF_CLASS
from sscm.archive.sources.simulated_scene import UNSEEN_REGIONS, UNSEEN_SEASON
from sscm.archive.sources.synthetic import LABEL_SHARE, SyntheticSource
from sscm.archive.validate import validate_pair
from sscm.config import SyntheticConfig
from sscm.errors import PairError


def digest(pair):
    parts = [pair.pair_id, pair.split, pair.geometry.hex(), *pair.labels, *map(str, pair.datetimes.values())]
    parts += [f"{key}={value}" for key, value in pair.properties.items()]
    data = hashlib.sha256("|".join(parts).encode())
    for name in sorted(pair.images):
        data.update(pair.images[name].tobytes())
    return data.hexdigest()


def read_all(source, refs):
    return [pair for ref in refs for pair in source.read(ref)]


@pytest.fixture(scope="module")
def source():
    return SyntheticSource(SyntheticConfig(pairs=1500, seed=7))


@pytest.fixture(scope="module")
def pairs(source):
    """Every fifth of the pairs of 60 scenes: 300 pairs."""
    return read_all(source, source.plan()[::5])


def test_same_seed_gives_the_same_bytes_in_any_order(source, pairs):
    again = pickle.loads(pickle.dumps(SyntheticSource(SyntheticConfig(pairs=1500, seed=7))))
    chosen = list(again.plan()[::5])[:12]
    backwards = {pair.pair_id: digest(pair) for pair in read_all(again, reversed(chosen))}
    assert backwards == {pair.pair_id: digest(pair) for pair in pairs[:12]}


def test_another_process_makes_the_same_bytes(source):
    program = (
        "import hashlib\n"
        "from sscm.archive.sources.synthetic import SyntheticSource\n"
        "from sscm.config import SyntheticConfig\n"
        "source = SyntheticSource(SyntheticConfig(pairs=1500, seed=7))\n"
        "pair = next(source.read(source.plan()[33]))\n"
        "print(hashlib.sha256(b''.join(pair.images[n].tobytes() for n in sorted(pair.images))).hexdigest())\n"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    pair = next(source.read(source.plan()[33]))
    mine = hashlib.sha256(b"".join(pair.images[name].tobytes() for name in sorted(pair.images))).hexdigest()
    assert other.stdout.strip() == mine


def test_other_seeds_and_other_pairs_differ(source, pairs):
    other = SyntheticSource(SyntheticConfig(pairs=1500, seed=8))
    hashes = {digest(pair) for pair in [*pairs[:20], *read_all(other, other.plan()[:100:5])]}
    assert len(hashes) == 40


def test_every_pair_is_valid_and_physically_plausible(source, pairs):
    for pair in pairs:
        validate_pair(pair, source.modalities, pair.pair_id)
        backscatter = pair.images["s1"]
        assert backscatter.min() >= -30
        assert backscatter.max() <= 5
        vv, vh = backscatter.mean((1, 2))
        assert vv > vh
        assert pair.images["s2_10m"].max() < 12000
    means = np.mean([pair.images["s1"].mean((1, 2)) for pair in pairs], axis=0)
    assert means == pytest.approx([-12.6, -19.3], abs=2.0)  # those of BigEarthNet


@pytest.mark.parametrize("pixels", [24, 120, 264])
def test_patches_of_any_size_have_native_resolutions(pixels):
    source = SyntheticSource(SyntheticConfig(pairs=3, pixels=pixels))
    pair = next(source.read(source.plan()[1]))
    shapes = {name: image.shape for name, image in pair.images.items()}
    fine, medium, coarse = pixels, pixels // 2, pixels // 6
    assert shapes == {
        "s1": (2, fine, fine),
        "s2_10m": (4, fine, fine),
        "s2_20m": (6, medium, medium),
        "s2_60m": (2, coarse, coarse),
    }
    assert pair.images["s1"].dtype == np.float32
    assert pair.images["s2_60m"].dtype == np.uint16


def test_labels_are_the_classes_on_the_ground(pairs):
    names = set(CORINE_OF_CLASS)
    occurring = Counter(label for pair in pairs for label in pair.labels)
    assert set(occurring) <= names
    assert sum(count >= 3 for count in occurring.values()) >= 15
    assert np.mean([len(pair.labels) for pair in pairs]) > 2
    for pair in pairs:
        cover = json.loads(pair.properties["cover"])
        assert sum(cover.values()) == pytest.approx(1, abs=2e-3)
        assert set(pair.labels) == {name for name, share in cover.items() if share >= LABEL_SHARE}


def test_water_is_dark_to_both_sensors(pairs):
    def water(pair):
        cover = json.loads(pair.properties["cover"])
        return cover.get("Marine waters", 0) + cover.get("Inland waters", 0)

    clear = [pair for pair in pairs if float(pair.properties["cloud_share"]) == 0]
    wet = [pair for pair in clear if water(pair) > 0.5]
    dry = [pair for pair in clear if water(pair) < 0.02]
    assert len(wet) >= 5
    for name, band in (("s1", 1), ("s2_10m", 3)):
        assert np.mean([p.images[name][band].mean() for p in wet]) < np.mean([p.images[name][band].mean() for p in dry])


def test_both_sensors_see_the_same_layout(pairs):
    """Edges of near infrared and of backscatter coincide within a pair, and not between pairs."""

    def edges(image):
        smooth = image.reshape(15, 8, 15, 8).mean((1, 3))
        strength = np.hypot(np.diff(smooth, axis=0)[:, :-1], np.diff(smooth, axis=1)[:-1])
        return (strength - strength.mean()) / (strength.std() + 1e-6)

    clear = [p for p in pairs if float(p.properties["cloud_share"]) == 0 and p.images["s2_10m"].min() > 0][:100]
    optical = [edges(pair.images["s2_10m"][3].astype(float)) for pair in clear]
    radar = [edges(pair.images["s1"][1].astype(float)) for pair in clear]
    own = np.mean([np.mean(a * b) for a, b in zip(optical, radar, strict=True)])
    strangers = np.mean([np.mean(a * b) for a, b in zip(optical, radar[1:] + radar[:1], strict=True)])
    assert own > 0.15
    assert abs(strangers) < 0.06


def test_times_differ_by_days_and_season_is_that_of_the_optical_image(pairs):
    for pair in pairs:
        hours = abs(pair.datetimes["s1"] - pair.datetimes["s2"]).total_seconds() / 3600
        assert 16 <= hours <= 6 * 24 + 8
        month = pair.datetimes["s2"].month
        assert pair.properties["season"] == ("winter", "spring", "summer", "autumn")[month % 12 // 3]


def test_footprints_are_patches_of_their_own(pairs):
    boxes = [shapely.from_wkb(pair.geometry) for pair in pairs]
    for box in boxes:
        west, south, east, north = box.bounds
        latitude = math.radians((south + north) / 2)
        assert (north - south) * 111_320 == pytest.approx(1200, rel=0.01)
        assert (east - west) * 111_320 * math.cos(latitude) == pytest.approx(1200, rel=0.01)
        assert -10 < west < 32
        assert 36 < south < 66
    tree = shapely.STRtree(boxes)
    assert all(len(tree.query(box, predicate="intersects")) == 1 for box in boxes)


def test_no_data_is_a_wedge_in_few_optical_images(pairs):
    shares = [np.mean(pair.images["s2_10m"] == 0) for pair in pairs]
    cut = [pair for pair, share in zip(pairs, shares, strict=True) if share > 0]
    assert 0.003 < len(cut) / len(pairs) < 0.1
    assert max(shares) < 0.5
    for pair in cut:
        fine = (pair.images["s2_10m"] == 0).all(0)
        assert np.array_equal(fine, (pair.images["s2_10m"] == 0).any(0))  # all bands lack the same pixels
        for name in ("s2_20m", "s2_60m"):
            assert np.mean(pair.images[name] == 0) == pytest.approx(fine.mean(), abs=0.03)


def test_some_images_are_cloudy_and_none_is_only_cloud(pairs):
    shares = [float(pair.properties["cloud_share"]) for pair in pairs]
    assert 0.03 < np.mean([share > 0 for share in shares]) < 0.3
    assert max(shares) < 0.95


def test_it_says_that_it_is_simulated(source, pairs):
    assert source.simulated
    assert source.describe()["simulated"] is True
    assert all(pair.properties["simulated"] == "true" for pair in pairs)


def test_splits_are_of_whole_scenes_in_the_shares_asked_for(source):
    refs = source.plan()
    scenes = {}
    for ref in refs:
        scenes.setdefault(ref.args["index"] // source.patches_per_scene, set()).add(ref.split)
    assert all(len(splits) == 1 for splits in scenes.values())
    counts = Counter(ref.split for ref in refs)
    assert counts["test"] == 300
    assert counts["validation"] == 150


@pytest.mark.parametrize(
    ("count", "test", "validation"), list(itertools.product((1, 2, 3, 10, 37), (0.0, 0.2), (0.0, 0.1)))
)
def test_small_archives_have_every_split_that_can_be(count, test, validation):
    source = SyntheticSource(SyntheticConfig(pairs=count, test=test, validation=validation))
    found = Counter(ref.split for ref in source.plan())
    assert sum(found.values()) == count
    assert found["train"] >= 1
    assert (found["test"] > 0) == (test > 0 and count >= 2)
    assert (found["validation"] > 0) == (validation > 0 and count >= 2 + (test > 0))


def test_plan_is_stable_and_keys_are_unique(source):
    refs = source.plan()
    assert refs == source.plan()
    assert len({ref.key for ref in refs}) == len(refs) == 1500
    assert refs[42].key == "sim_000042"


@pytest.mark.parametrize("index", [-1, 1500, None, "3", True])
def test_a_reference_of_another_source_is_refused(source, index):
    with pytest.raises(PairError, match=r"expected a number from 0 to 1499"):
        next(source.read(PairRef(key="stranger", split="train", args={"index": index})))


def test_an_unseen_test_split_has_country_and_season_of_its_own():
    source = SyntheticSource(SyntheticConfig(pairs=200, seed=3, pixels=24, unseen_test=True))
    found = [(pair.split == "test", pair.properties) for pair in read_all(source, source.plan()[::5])]
    assert {test for test, _ in found} == {True, False}
    for test, properties in found:
        assert (properties["region"] in UNSEEN_REGIONS) == test
        assert (properties["season"] == UNSEEN_SEASON) == test
