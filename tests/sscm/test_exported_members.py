"""Every package says what it offers: a sorted ``__all__`` whose names are there."""

import importlib

import pytest

PACKAGES = [
    "sscm",
    "sscm.archive",
    "sscm.archive.sources",
    "sscm.cluster",
    "sscm.evaluation",
    "sscm.experiment",
    "sscm.index",
    "sscm.model",
    "sscm.refresh",
    "sscm.training",
    "serve",
]


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_sorted_and_true(name):
    package = importlib.import_module(name)
    assert list(package.__all__) == sorted(package.__all__)
    assert package.__all__
    for member in package.__all__:
        assert hasattr(package, member), f"{name}.__all__ names {member}, which is not there"
