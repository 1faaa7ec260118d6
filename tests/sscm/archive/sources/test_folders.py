"""Folders, local and behind a URI: the same names, the same bytes, the same errors."""

from __future__ import annotations

import os

import fsspec
import pytest

from sscm.archive.sources.folders import Entry, absolute, entries, join, local_path, read_bytes


@pytest.fixture(params=["local", "file", "memory"])
def folder(request, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes(b"abc")
    (tmp_path / "b" / "c.txt").write_bytes(b"")
    if request.param == "memory":
        fs = fsspec.filesystem("memory")
        fs.put(str(tmp_path), "/folders", recursive=True)
        yield "memory://folders"
        fs.rm("/folders", recursive=True)
    else:
        yield str(tmp_path) if request.param == "local" else f"file://{tmp_path}"


def test_entries_and_bytes(folder):
    assert entries(folder) == [Entry("a.txt", False), Entry("b", True)]
    assert read_bytes(join(folder, "a.txt")) == b"abc"
    assert read_bytes(join(folder, "b", "c.txt")) == b""
    with pytest.raises(FileNotFoundError):
        read_bytes(join(folder, "none.txt"))


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        entries(str(tmp_path / "none"))


def test_paths():
    assert join("/a/", "b", "c") == "/a/b/c" and join("", "b") == "b" and join("/a", "", "b") == "/a/b"
    assert join("/", "a") == "/a"
    assert join("/a", "/b/c") == "/b/c" and join("/a", "s3://x/y") == "s3://x/y"
    assert absolute("x/y") == os.path.abspath("x/y") and absolute("s3://b/x/") == "s3://b/x"
    assert local_path("file:///a") == "/a" and local_path("s3://a") is None and local_path("/a") == "/a"
