"""Checkpoints reach the store, and come back, while it fails now and then."""

import pickle

import pyarrow.fs
import pytest

from sscm.training.run_storage import run_storage
from tests.plugins.fault_proxy import Fault


@pytest.fixture
def storage(remote):
    found = run_storage(remote)
    return pickle.loads(pickle.dumps(found["storage_filesystem"])), found["storage_path"]


@pytest.mark.parametrize("size", [0, 1_000, 20_000_000])
def test_files_are_sent_as_a_whole_through_faults(storage, proxy, tmp_path, size):
    fs, path = storage
    content = bytes(range(256)) * (size // 256)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "state.pt").write_bytes(content)
    for fault in (
        Fault("status", times=2),
        Fault("reset", method="PUT", times=1),
        Fault("lost", method="POST", times=1),
    ):
        proxy.faults = [fault]
        pyarrow.fs.copy_files(
            str(tmp_path / "in"),
            f"{path}/run/checkpoint",
            source_filesystem=pyarrow.fs.LocalFileSystem(),
            destination_filesystem=fs,
        )
        (tmp_path / "out").mkdir(exist_ok=True)
        proxy.faults = [Fault("truncated", method="GET", times=1)]
        pyarrow.fs.copy_files(
            f"{path}/run/checkpoint",
            str(tmp_path / "out"),
            source_filesystem=fs,
            destination_filesystem=pyarrow.fs.LocalFileSystem(),
        )
        assert (tmp_path / "out" / "state.pt").read_bytes() == content


def test_what_is_deleted_twice_is_gone_once(storage, proxy):
    fs, path = storage
    with fs.open_output_stream(f"{path}/run/a/b") as file:
        file.write(b"x")
    assert fs.get_file_info(f"{path}/run/a/b").size == 1
    proxy.faults = [Fault("lost", times=1, method="POST"), Fault("lost", times=1, method="DELETE")]
    fs.delete_dir(f"{path}/run/a")
    assert fs.get_file_info(f"{path}/run/a/b").type == pyarrow.fs.FileType.NotFound
