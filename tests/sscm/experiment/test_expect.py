"""Is it the archive that an experiment is about?"""

import pytest

from sscm.archive.manifest import read_manifest
from sscm.errors import ArchiveError
from sscm.experiment.expect import missing_names, require_expected
from sscm.experiment.spec import Expectation


def write_lists(folder, train, test):
    folder.mkdir(exist_ok=True)
    (folder / "train.csv").write_text("".join(f"{name}\n" for name in train))
    (folder / "test.csv").write_text("".join(f"{name}\n" for name in test))
    return str(folder)


def test_the_right_archive_passes(archive, tmp_path):
    lists = write_lists(tmp_path / "l", [f"pair_{n:04d}" for n in range(96)], ["pair_0128"])
    expect = Expectation(train=96, validation=32, test=48, lists=lists)
    require_expected(archive, read_manifest(archive), expect, "small")
    assert not archive.exists("experiments", "small", "missing_pairs.json")


def test_counts_and_missing_names_are_told(archive, tmp_path):
    lists = write_lists(tmp_path / "l", ["pair_0000", "pair_0128", "absent"], [])
    with pytest.raises(ArchiveError) as caught:
        require_expected(archive, read_manifest(archive), Expectation(train=100, lists=lists), "small")
    assert "split train has 96 pairs, expected 100" in str(caught.value)
    assert "2 of 3 names" in str(caught.value) and "pair_0128, absent" in str(caught.value)
    told = archive.read_json("experiments", "small", "missing_pairs.json")
    assert [(each["name"], each["split"]) for each in told] == [("pair_0128", "train"), ("absent", "train")]


def test_names_in_another_split_are_missing():
    assert missing_names({"a": "train", "b": "test"}, {"a": "train", "b": "train"}) == ["b"]
