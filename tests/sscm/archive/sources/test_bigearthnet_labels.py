"""The 43 CORINE classes and the 19 that they become."""

from __future__ import annotations

import pytest

from sscm.archive.sources.bigearthnet_labels import CLASS_OF_CORINE, CORINE_OF_CLASS, DROPPED, classes_19
from sscm.errors import PairError


def test_43_corine_classes_make_19():
    assert len(CORINE_OF_CLASS) == 19
    assert len(CLASS_OF_CORINE) == 32 and len(DROPPED) == 11
    assert not set(CLASS_OF_CORINE) & set(DROPPED)
    assert len(set(CLASS_OF_CORINE) | set(DROPPED)) == 43


def test_classes_are_ordered_and_named_once():
    corine = ["Water bodies", "Water courses", "Airports", "Rice fields", "Salines"]
    assert classes_19(corine, "x.json") == ["Arable land", "Coastal wetlands", "Inland waters"]
    assert classes_19(["Burnt areas"], "x.json") == []


def test_unknown_name():
    with pytest.raises(PairError, match=r"x.json: labels \['Lava'\]"):
        classes_19(["Lava"], "x.json")
