import dataclasses
from xml.etree import ElementTree

import numpy as np
import pytest

from sscm.evaluation import metrics
from sscm.evaluation.collection import Collection, partner_ranks_of
from sscm.evaluation.protocols import Direction
from sscm.evaluation.recall_curves import STEPS, curve_ks, recall_curve, recall_panel

CROSS = Direction("s1", "s2")


def images(count=50, seed=0, prefix="p"):
    rng = np.random.default_rng(seed)
    vectors = {name: rng.normal(size=(count, 8)).astype(np.float32) for name in ("s1", "s2")}
    return Collection(
        ids=[f"{prefix}{i}" for i in range(count)],
        vectors={name: v / np.linalg.norm(v, axis=1, keepdims=True) for name, v in vectors.items()},
        present={name: np.ones(count, bool) for name in vectors},
    )


def test_a_curve_is_recall_at_each_k():
    ranks = np.array([3, 1, 1, 40, 7])
    ks = curve_ks(40)
    assert recall_curve(ranks, ks) == pytest.approx([metrics.recall_at(ranks, int(k)) for k in ks])
    assert ks[0] == 1 and ks[-1] == 40 and len(curve_ks(10**6)) <= STEPS


def test_panel():
    found = images()
    panel = recall_panel({"trained": (found, found), "sibling": (found, found)}, CROSS, "A → B")
    ranks, searched = partner_ranks_of(found, found, CROSS)
    assert searched == 50
    root = ElementTree.fromstring(panel.svg)
    words = root.attrib["aria-label"]
    assert words.startswith("Partner recall by number of answers, A → B: trained ")
    assert f"{metrics.recall_at(ranks, 10):.1%} at 10" in words and "chance 2.0% at 1, 20.0% at 10" in words
    assert "sibling" in panel.svg


def test_no_panel_without_partners():
    assert recall_panel({"trained": (images(prefix="q"), images(prefix="a"))}, CROSS, "A → B") is None
    found = images()
    present = {**found.present, "s2": np.zeros(50, bool)}
    assert partner_ranks_of(found, dataclasses.replace(found, present=present), CROSS) is None
