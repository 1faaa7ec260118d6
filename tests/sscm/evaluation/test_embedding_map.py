import dataclasses
from xml.etree import ElementTree

import numpy as np
import pytest

from sscm.evaluation.collection import Collection
from sscm.evaluation.embedding_map import PAIRS, main_classes, map_panels, sample_pairs
from sscm.evaluation.exhibits import make_exhibits
from sscm.evaluation.protocols import choose_protocol

TITLES = {"s1": "Sentinel-1", "s2": "Sentinel-2"}


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    vectors = {name: rng.normal(size=(30, 8)).astype(np.float32) for name in TITLES}
    labels = rng.random((30, 3)) < 0.5
    return Collection(
        ids=[f"p{i}" for i in range(30)],
        vectors={name: v / np.linalg.norm(v, axis=1, keepdims=True) for name, v in vectors.items()},
        present={name: np.ones(30, bool) for name in TITLES},
        labels=labels,
        classes=("forest", "town", "water"),
    )


def test_maps_before_and_after_in_both_colourings(images):
    panels = map_panels({"Before training": images, "After training": images}, TITLES, 0)
    assert [p.title for p in panels] == [
        "Before training, by modality",
        "After training, by modality",
        "Before training, by class",
        "After training, by class",
    ]
    for panel in panels:
        assert ElementTree.fromstring(panel.svg).attrib["aria-label"].startswith("Map of 30 pairs")
    assert "Sentinel-1" in panels[0].svg and "partners" in panels[0].svg and "forest" in panels[2].svg
    bare = dataclasses.replace(images, labels=None, classes=())
    assert len(map_panels({"After training": bare}, TITLES, 0)) == 1
    few = dataclasses.replace(images, present={**images.present, "s2": np.arange(30) < 5})
    assert map_panels({"After training": few}, TITLES, 0) == []


def test_pairs_are_complete_and_the_seeds(images):
    some = dataclasses.replace(images, present={**images.present, "s2": np.arange(30) % 2 == 0})
    assert sample_pairs(some, list(TITLES), 0).tolist() == list(range(0, 30, 2))
    many = dataclasses.replace(images, present={name: np.ones(PAIRS + 50, bool) for name in TITLES})
    assert len(sample_pairs(many, list(TITLES), 1)) == PAIRS
    assert np.array_equal(sample_pairs(many, list(TITLES), 1), sample_pairs(many, list(TITLES), 1))


def test_main_class_is_the_largest_or_the_rarest(images):
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    named = dataclasses.replace(images, labels=labels)
    assert main_classes(named, np.arange(3)) == ["town", "forest", ""]
    cover = np.array([[0.2, 0.8], [0.6, 0.4], [np.nan, np.nan]])
    covered = dataclasses.replace(named, cover=cover, cover_classes=("bog", "ice"))
    assert main_classes(covered, np.arange(3)) == ["ice", "bog", ""]


def test_exhibits(images):
    shown = {"trained": (images, images), "untrained": (images, images)}
    found = make_exhibits(shown, TITLES, choose_protocol(None), 0)
    assert [(e.heading.split()[0], len(e.panels), e.columns) for e in found] == [
        ("Partner", 2, 2),
        ("Maps", 4, 2),
        ("Confusion", 2, 1),
    ]
    other = dataclasses.replace(images, ids=[f"a{i}" for i in range(30)], labels=None)
    (maps,) = make_exhibits({"trained": (images, other)}, TITLES, choose_protocol("csmae"), 0)
    assert maps.heading.startswith("Maps") and maps.columns == 1
