"""Split files and lists of BigEarthNet version 1."""

from __future__ import annotations

import pytest

from sscm.archive.sources.bigearthnet_splits import read_splits
from sscm.errors import ArchiveError


@pytest.mark.parametrize(
    "text",
    [
        "patch,split\na,train\nb,val\nc,test\n",
        "split,patch\ntrain,a\nvalidation,b\ntest,c\n",
        "a,train\nb,val\n\nc,test\n",
    ],
)
def test_tables(tmp_path, text):
    path = tmp_path / "s.csv"
    path.write_text(text)
    assert read_splits(str(path)) == {"a": "train", "b": "validation", "c": "test"}


def test_folder_of_lists(tmp_path):
    (tmp_path / "train.csv").write_text("a,a1\nb,b1\n")
    (tmp_path / "val.txt").write_text("c\n")
    (tmp_path / "README.md").write_text("lists")
    assert read_splits(str(tmp_path)) == {
        "a": "train",
        "a1": "train",
        "b": "train",
        "b1": "train",
        "c": "validation",
    }


def test_published_lists_of_ben14k(shared_data):
    splits = read_splits(str(shared_data / "ben14k-split"))
    optical = [split for name, split in splits.items() if name.startswith("S2")]
    assert [optical.count(split) for split in ("train", "validation", "test")] == [7761, 3508, 3563]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("a\nb\n", "first line 'a'; expected two columns"),
        ("patch,split\na,dev\n", "row 1: 'a,dev'; expected one of train, validation, test"),
        ("a,train\na,test\n", "a is in train and in test"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(ArchiveError, match=message):
        read_splits(str(path))


def test_nothing_there(tmp_path):
    with pytest.raises(ArchiveError, match="no such file"):
        read_splits(str(tmp_path / "none.csv"))
    with pytest.raises(ArchiveError, match="no lists in this folder"):
        read_splits(str(tmp_path))
