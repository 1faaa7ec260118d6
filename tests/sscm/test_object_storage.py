"""Workspaces in an object store that misbehaves: what passes is sat out, what does not is named in time."""

import json
import pickle
import random
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sscm import cli, retries, storage, workspace
from sscm.archive.manifest import read_manifest
from sscm.archive.order import pieces_of
from sscm.archive.sources.folders import Entry, entries, read_bytes
from sscm.archive.windows import read_pieces, stream_columns
from sscm.errors import IntegrityError, WorkspaceError
from sscm.workspace import open_workspace
from tests.plugins.object_store import SECRET

DATA = bytes(range(256)) * 300
ROWS = 400


def write_table(path):
    """Four row groups of three columns of 20 kB each."""
    rng = np.random.default_rng(0)
    columns = {name: pa.array([rng.bytes(200) for _ in range(ROWS)]) for name in ("a", "b", "c")}
    pq.write_table(pa.table(columns), path, row_group_size=ROWS // 4, compression="none", use_dictionary=False)


@pytest.fixture
def filled(remote):
    """A bucket with a file, a folder and a table in it."""
    remote.write_bytes(DATA, "folder", "file")
    remote.write_file(write_table, "table.parquet")
    return remote


def read_group(workspace):
    with workspace.parquet("table.parquet") as file:
        return file.read_row_group(1, columns=["a", "c"]).num_rows


OPERATIONS = {
    "read_bytes": (lambda w: w.read_bytes("folder", "file"), DATA),
    "write_bytes": (lambda w: w.write_bytes(DATA, "folder", "new").bytes, len(DATA)),
    "write_file": (lambda w: w.write_file(lambda path: path.write_bytes(DATA), "folder", "new").bytes, len(DATA)),
    "parquet": (read_group, ROWS // 4),
    "names": (lambda w: w.names("folder"), ["file"]),
    "exists": (lambda w: (w.exists("folder", "file"), w.exists("folder", "none")), (True, False)),
    "size": (lambda w: w.size("folder", "file"), len(DATA)),
    "delete": (lambda w: w.delete("folder"), None),
}
FAULTS = {
    "throttled": {"kind": "status", "status": 503, "times": 3},
    "too many": {"kind": "status", "status": 429, "times": 3},
    "broken": {"kind": "status", "status": 500, "times": 3},
    "refused for a moment": {"kind": "status", "status": 403, "times": 2},
    "reset": {"kind": "reset", "times": 3},
    "truncated": {"kind": "truncated", "times": 3},
    "stalled": {"kind": "stalled", "times": 1},
    "deaf": {"kind": "deaf", "times": 1},
    "answer lost": {"kind": "lost", "times": 3},
    "slow": {"kind": "slow", "seconds": 0.1, "times": 3},
}


@pytest.fixture
def quick(monkeypatch):
    """Short waits: these tests are about what is done, not about how long."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(retries, "LONGEST_WAIT", 0.05)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_pass(filled, proxy, quick, fault, monkeypatch):
    monkeypatch.setattr(workspace, "UPLOAD_SECONDS", 0.5)
    for name, (operation, expected) in OPERATIONS.items():
        proxy.clear()
        happened = proxy.add(**FAULTS[fault])
        assert operation(filled) == expected, name
        assert happened.done >= 1, name
        if name in ("write_bytes", "write_file"):
            proxy.clear()
            assert filled.read_bytes("folder", "new") == DATA
            filled.delete("folder", "new")


@pytest.mark.parametrize("seed", range(3))
def test_a_share_of_all_requests_fails(filled, proxy, quick, seed):
    kinds = [
        {"kind": "status", "status": 503},
        {"kind": "reset"},
        {"kind": "truncated"},
        {"kind": "lost"},
        {"kind": "status", "status": 500},
    ]
    for number, kind in enumerate(kinds):
        proxy.add(share=0.08, seed=10 * seed + number, **kind)
    rng = random.Random(seed)
    for _ in range(40):
        name = rng.choice([name for name in OPERATIONS if name != "delete"])
        operation, expected = OPERATIONS[name]
        found = operation(filled)
        assert found == expected or (name == "names" and found == ["file", "new"]), name
    assert sum(fault.done for fault in proxy.faults) > 10


def test_a_store_that_is_away_for_a_while(filled, proxy, monkeypatch):
    monkeypatch.setattr(retries, "LONGEST_WAIT", 0.3)
    for name in ("read_bytes", "write_file", "parquet"):
        operation, expected = OPERATIONS[name]
        proxy.clear()
        away = proxy.away(1.0)
        began = time.monotonic()
        assert operation(filled) == expected
        assert 0.9 < time.monotonic() - began < 4 and away.done > 2, name


def test_a_store_that_stays_away_is_named_in_time(filled, proxy, monkeypatch, caplog):
    monkeypatch.setattr(retries, "PATIENCE", 0.5)
    monkeypatch.setattr(retries, "TELL_AFTER", 0.1)
    for kind in ({"kind": "reset"}, {"kind": "status", "status": 503}, {"kind": "stalled", "method": "GET"}):
        for name in ("read_bytes", "write_bytes", "parquet", "names", "exists"):
            if kind["kind"] == "stalled" and name not in ("read_bytes", "parquet"):
                continue
            proxy.clear()
            proxy.add(**kind)
            began = time.monotonic()
            with pytest.raises(WorkspaceError, match=r"did not answer.*AWS_ENDPOINT_URL.*same command again") as raised:
                OPERATIONS[name][0](filled)
            assert not isinstance(raised.value, IntegrityError)  # the file is sound
            assert time.monotonic() - began < 2, name
    assert "storage does not answer well" in caplog.text


def test_nobody_listens(free_port, monkeypatch):
    monkeypatch.setattr(retries, "PATIENCE", 0.5)
    options = {"endpoint_url": f"http://127.0.0.1:{free_port}", "key": "k", "secret": SECRET}
    with pytest.raises(WorkspaceError, match=f"Could not connect.*{free_port}.*is up") as raised:
        open_workspace("s3://nowhere/w", options).read_bytes("x")
    assert SECRET not in str(raised.value)


def test_a_store_that_refuses_is_asked_a_few_times(filled, proxy):
    proxy.add("status", status=403)
    for name in ("read_bytes", "write_bytes", "exists", "names"):
        del proxy.requests[:]
        with pytest.raises(WorkspaceError, match=r"the store refuses.*credentials") as raised:
            OPERATIONS[name][0](filled)
        assert isinstance(raised.value.__cause__, PermissionError)
        assert len(proxy.requests) == retries.REFUSALS


def test_what_is_not_deleted_is_told(filled, proxy, quick, monkeypatch):
    proxy.add("status", status=403, method="DELETE")
    with pytest.raises(WorkspaceError, match=r"cannot delete.*the store refuses"):
        filled.delete("folder", "file")
    monkeypatch.setattr(filled.fs, "rm", lambda path, recursive: [])  # as s3fs where the answer lists refusals
    with pytest.raises(WorkspaceError, match="1 objects are still there"):
        filled.delete("folder")
    proxy.clear()
    filled.delete("folder", "file")
    filled.delete("folder", "file")
    assert not filled.exists("folder")


def test_no_credentials(proxy, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(WorkspaceError, match=r"AWS_ACCESS_KEY_ID.*anonymously"):
        open_workspace("s3://nowhere/w", {"endpoint_url": proxy.url}).read_bytes("x")


def test_missing_files_and_buckets(remote, proxy):
    assert remote.names("none") == [] and not remote.exists("none")
    with pytest.raises(WorkspaceError, match="no such file or bucket"):
        remote.read_bytes("none")
    with pytest.raises(WorkspaceError, match="no such file or bucket"):
        remote.parquet("none.parquet")
    remote.write_bytes(DATA[:100], "short.parquet")
    with pytest.raises(IntegrityError, match="not a whole Parquet file"):
        remote.parquet("short.parquet")
    with pytest.raises(WorkspaceError, match="no such file or bucket"):
        open_workspace("s3://sscm-no-such-bucket/w", remote.storage_options).write_bytes(b"", "x")
    remote.fs.touch(remote.path_of("folder") + "/")  # as the web console makes a folder
    remote.write_bytes(b"1", "folder", "a")
    assert remote.names("folder") == ["a"] and entries(remote.uri_of("folder")) == [Entry("a", False)]


def test_large_uploads_go_in_parts_whole_or_not_at_all(remote, proxy, quick, monkeypatch):
    """Parts that fail are sent again alone; a file whose upload never ends well is not there."""
    remote = open_workspace(remote.uri)
    monkeypatch.setattr(storage, "PART_BYTES", 5 * 2**20)  # the least that S3 takes
    data = random.Random(0).randbytes(11 * 2**20)

    def produce(path):
        path.write_bytes(data)

    with proxy.counted() as requests:
        remote.write_file(produce, "large")
    assert requests == {**requests, "POST": 2, "PUT": 3, "HEAD": 1}
    proxy.add("status", status=503, method="PUT", after=1, times=1)
    with proxy.counted() as requests:
        remote.write_file(produce, "large")
    assert requests["PUT"] == 4 and requests["POST"] == 2
    proxy.clear()
    proxy.add("lost", method="POST", path="uploadId", times=1)  # it is complete, and nobody knows
    remote.write_file(produce, "large")
    assert remote.size("large") == len(data)
    monkeypatch.setattr(retries, "PATIENCE", 0.2)
    proxy.add("reset", method="PUT", path="partNumber=2")
    with pytest.raises(WorkspaceError, match="cannot write"):
        remote.write_file(produce, "other")
    proxy.clear()
    assert remote.names() == ["large"]


def test_an_upload_that_lost_bytes_is_sent_again(remote, proxy, quick, monkeypatch):
    sizes = iter([5, len(DATA)])
    monkeypatch.setattr(remote.fs, "info", lambda path, **_: {"size": next(sizes)})
    with proxy.counted() as requests:
        remote.write_file(lambda path: path.write_bytes(DATA), "file")
    assert requests["PUT"] == 2


def test_requests_of_a_row_group(filled, proxy):
    """One for what the file is, one for its footer the first time, one for each run of neighbouring columns."""
    for footers in (1, 0):
        proxy.sent = 0
        with proxy.counted() as requests:
            with filled.parquet("table.parquet") as file:
                assert file.read_row_group(1, columns=["a", "b"]).num_rows == ROWS // 4
        assert (requests["HEAD"], requests["GET"]) == (1, footers + 1)
        assert proxy.sent < 50_000 + footers * 66_000  # two of twelve columns, and no more
    with proxy.counted() as requests:
        assert read_group(filled) == ROWS // 4  # two columns with another in between
    assert (requests["HEAD"], requests["GET"]) == (1, 2)
    with proxy.counted() as requests:
        assert filled.read_bytes("folder", "file") == DATA and read_bytes(filled.uri_of("folder", "file")) == DATA
    assert sum(requests[method] for method in ("HEAD", "GET")) == 2


def test_a_table_that_is_replaced(filled):
    opened = filled.parquet("table.parquet")
    filled.write_file(lambda path: pq.write_table(pa.table({"a": [1]}), path), "table.parquet")
    with filled.parquet("table.parquet") as file:  # not by the footer that is known
        assert file.read().num_rows == 1
    with opened, pytest.raises(WorkspaceError, match="replaced while it was read"):
        opened.read_row_group(1)


def test_anonymous_access_to_one_bucket(filled, proxy, monkeypatch):
    options = {"s3": {"config_kwargs": {"read_timeout": 1}}, filled.uri: {"anon": True}}
    monkeypatch.setenv("SSCM_STORAGE_OPTIONS", json.dumps(options))
    for uri, signed in ((filled.uri, False), (filled.uri + "-2", True)):
        opened = open_workspace(uri)
        del proxy.requests[:]
        try:
            opened.exists("x")
            read_bytes(f"{uri}/x")
        except (FileNotFoundError, WorkspaceError):  # a store may refuse what is not signed
            pass
        assert {request.signed for request in proxy.requests} == {signed}
        assert pickle.loads(pickle.dumps(opened)).storage_options.get("anon", False) is not signed


def test_commands_over_an_object_store(
    remote, proxy, store_credentials, ray_session, archive_factory, monkeypatch, capsys
):
    """Workers have nothing in their environment: the options travel. Nothing that is kept tells a secret."""
    bucket = remote.uri.removeprefix("s3://").partition("/")[0]
    uri = f"s3://{bucket}/by-command"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    options = {"s3": {"anon": True}, f"s3://{bucket}": {"anon": False, "endpoint_url": proxy.url, **store_credentials}}
    monkeypatch.setenv("SSCM_STORAGE_OPTIONS", json.dumps(options))
    for number, fault in enumerate(({"kind": "status"}, {"kind": "reset"}, {"kind": "truncated"})):
        proxy.add(share=0.05, seed=number, **fault)
    command = ["ingest", "synthetic", "--pairs", "12", "--pixels", "24", "--workspace", uri, "--pairs-per-shard", "6"]
    assert cli.main(command) == 0, capsys.readouterr().err
    opened = open_workspace(uri)
    manifest = read_manifest(opened)
    table = read_pieces(opened, pieces_of(manifest.shards), stream_columns(manifest.modalities))
    assert table.num_rows == 12 and len(set(table["pair_id"].to_pylist())) == 12
    assert cli.main(["index", "list", "--workspace", uri]) == 1
    assert "there is no index" in capsys.readouterr().err
    proxy.clear()
    secret = store_credentials["secret"]
    for path, data in opened.fs.cat(opened.fs.find(opened.path_of())).items():
        assert secret.encode() not in data, path
    assert secret not in repr(opened)
