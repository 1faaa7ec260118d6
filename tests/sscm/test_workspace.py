import errno
import os
import pickle

import pytest

from sscm.errors import IntegrityError, WorkspaceError
from sscm.storage_errors import storage_errors
from sscm.workspace import Workspace, file_sha256, open_workspace


def test_paths_and_uris_name_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_workspace("w").uri == open_workspace(f"file://{tmp_path}/w").uri == f"file://{tmp_path}/w"
    assert open_workspace("w").path_of("a", "b") == f"{tmp_path}/w/a/b"
    assert not open_workspace("s3://bucket/w").is_local


def test_unknown_scheme_is_named():
    with pytest.raises(WorkspaceError, match="'gopher' is unknown"):
        open_workspace("gopher://x/y")


def test_written_bytes_are_read_back_and_described(workspace):
    stored = workspace.write_bytes(b"abc", "a", "b.bin")
    assert workspace.read_bytes("a", "b.bin") == b"abc"
    assert stored.bytes == workspace.size("a", "b.bin") == 3
    assert stored.sha256 == file_sha256(open_path(workspace, "a", "b.bin"))
    assert workspace.names("a") == ["b.bin"]
    assert workspace.names("nowhere") == []


def open_path(workspace, *parts):
    from pathlib import Path

    return Path(workspace.path_of(*parts))


def test_a_failed_write_leaves_the_old_file_and_no_litter(workspace):
    workspace.write_bytes(b"old", "file")

    def half(path):
        path.write_bytes(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WorkspaceError, match="the disk is full; free some space"):
        workspace.write_file(half, "file")
    assert workspace.read_bytes("file") == b"old"
    assert workspace.names() == ["file"]


def test_a_really_full_device_is_named():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with pytest.raises(WorkspaceError, match="disk is full"), storage_errors("write", "/dev/full"):
        with open("/dev/full", "wb") as device:
            device.write(b"x" * 100_000)


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "w").write_text("not a folder")
    with pytest.raises(WorkspaceError, match="cannot write"):
        open_workspace(str(tmp_path / "w")).require_writable()


def test_missing_and_broken_files_are_told_apart(workspace):
    with pytest.raises(WorkspaceError, match="no such file"):
        workspace.read_json("absent.json")
    workspace.write_bytes(b"{", "broken.json")
    with pytest.raises(IntegrityError, match="is not JSON"):
        workspace.read_json("broken.json")
    workspace.write_bytes(b"PAR1 but not really", "broken.parquet")
    with pytest.raises(IntegrityError, match="not a whole Parquet file"):
        workspace.parquet("broken.parquet")
    with pytest.raises(WorkspaceError, match="no such file"):
        workspace.parquet("absent.parquet")


def test_workspaces_travel_between_processes():
    there = pickle.loads(pickle.dumps(Workspace("s3://b/w", {"anon": True})))
    assert there.storage_options == {"anon": True}


def test_options_are_not_shown():
    options = {"key": "AKIA", "secret": "hush", "client_kwargs": {"aws_session_token": "hush", "region_name": "x"}}
    shown = repr(Workspace("s3://b/w", {**options, "endpoint_url": "http://me:hush@host:9000/p?t=hush", "anon": False}))
    assert "hush" not in shown and "AKIA" not in shown
    assert "'region_name': 'x'" in shown and "http://host:9000/p" in shown and "'anon': False" in shown
