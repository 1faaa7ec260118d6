"""What is exported: which rows, and under which names the columns."""

from types import SimpleNamespace

import pytest

from sscm.errors import ConfigError
from sscm.index.export_choice import Choice

INDEX = SimpleNamespace(modalities=("s1", "s2"))


def test_all_unless_some_are_named():
    assert Choice.of(INDEX, None, None) == Choice(modalities=("s1", "s2"), splits=("train", "validation", "test"))
    some = Choice.of(INDEX, ("s2", "s1", "s2"), ("test", "train"))
    assert some == Choice(modalities=("s1", "s2"), splits=("train", "test"))  # in the order of the index
    with pytest.raises(ConfigError, match=r"unknown modality 's3'; the index has \['s1', 's2'\]"):
        Choice.of(INDEX, ("s1", "s3"), None)


def test_rows_of_these_splits_that_have_any_of_these_modalities(rows_factory):
    rows, _ = rows_factory(list(range(9)), lacking={1, 3})
    for modalities, numbers in ((None, [0, 1, 3, 4, 6, 7]), (("s2",), [0, 4, 6, 7])):
        kept = Choice.of(INDEX, modalities, ("train", "validation")).kept(rows)
        assert kept["pair_id"].to_pylist() == [f"pair_{number:04d}" for number in numbers]


def test_no_two_columns_have_the_same_name_to_a_reader_that_ignores_case():
    names = Choice.of(INDEX, None, None).columns_of(["country", "Country", "COUNTRY", "Embedding_S1", "has_s2", "x"])
    assert names == {
        "COUNTRY": "COUNTRY",
        "source:Country": "Country",
        "source:Embedding_S1": "Embedding_S1",
        "source:country_": "country",
        "source:has_s2": "has_s2",
        "x": "x",
    }
    # Columns of a modality that is not exported are not in the way.
    assert Choice.of(INDEX, ("s1",), None).columns_of(["has_s2"]) == {"has_s2": "has_s2"}
