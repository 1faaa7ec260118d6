"""`sscm cluster check` on a cluster of three nodes, one of which has everything otherwise than the rest."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from sscm import runtime
from tests.plugins.raylets import SSCM, raylets, until

pytestmark = pytest.mark.ray

OPEN_FILES = 900
MOUNTS = shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"]).returncode == 0
"""Whether a node may have mounts of its own here."""


@contextlib.contextmanager
def odd_node(cluster, folder, mounted):
    """A node with little of what the others have: variables, keys, open files, a package; and mounts of its own.

    Yields:
        Another node, that was started meanwhile and is like the rest.
    """
    shadow = folder / "shadow" / "s3fs-0.1.dist-info"
    shadow.mkdir(parents=True)
    (shadow / "METADATA").write_text("Metadata-Version: 2.1\nName: s3fs\nVersion: 0.1\n")
    lacking = {*runtime.NODE_ENVIRONMENT, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    environment = {name: value for name, value in os.environ.items() if name not in lacking} | {
        "PYTHONPATH": str(shadow.parent),
        "RAY_worker_niceness": "7",
        "GLOO_SOCKET_IFNAME": "nosuch0",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    mounts = "".join(f"mount -t tmpfs {flags} tmpfs {path} && " for path, flags in mounted.items())
    script = f"""
        {mounts} ulimit -n {OPEN_FILES} &&
        exec {SSCM.with_name("ray")} start --address={cluster.address} --num-cpus 2 --num-gpus 1 --block \
            --object-store-memory 100000000
    """
    words = ["unshare", "-m", "sh", "-c", script] if mounted else ["sh", "-c", script]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            other = cluster.add_node(num_cpus=2, object_store_memory=200_000_000)
            until(lambda: len(alive(cluster)) == 3 or process.poll() is not None, 60, "the odd node is there")
            assert process.poll() is None, (folder / "log").read_text()
            yield other
        finally:
            process.terminate()  # `ray start --block` ends what it started
            process.wait(30)


def alive(cluster):
    return [node["NodeID"] for node in cluster.global_state.node_table() if node["Alive"]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Workspaces in folders, the last two of which are other ones on the odd node."""
    home = tmp_path_factory.mktemp("folders")
    (home / "file").write_text("")
    for name in ("apart", "readonly"):
        (home / name).mkdir()
    return home


@pytest.fixture(scope="module")
def cluster(folders, store_credentials, tmp_path_factory):
    """Three nodes; and the end of the odd one's id."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in runtime.NODE_ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ACCESS_KEY_ID", store_credentials["key"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", store_credentials["secret"])
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        mounted = {folders / "apart": "", folders / "readonly": "-o ro"} if MOUNTS else {}
        with raylets(0) as (made, [head]), odd_node(made, tmp_path_factory.mktemp("odd"), mounted) as other:
            [odd] = set(alive(made)) - {head.node_id, other.node_id}
            yield made, odd[-6:]


@pytest.fixture(scope="module")
def check(cluster, store_url, behind):
    """What a check of that cluster and a bucket said: exit code, JSON, table."""
    bucket = f"sscm-{uuid.uuid4().hex[:12]}"
    behind.mkdir(bucket)
    words = ["--json", "-", "--workspace", f"s3://{bucket}/w", "--workers", "2", "--gpu"]
    done = subprocess.run(
        [SSCM, "cluster", "check", *words],
        env={**os.environ, "RAY_ADDRESS": cluster[0].address, "AWS_ENDPOINT_URL": store_url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout, done.stderr
    behind.invalidate_cache()
    return done, json.loads(done.stdout), behind.find(bucket)


def of(found, check, odd):
    """Findings of a check: those of the odd node, and those of others."""
    rows = [row for row in found["findings"] if row["check"] == check]
    return [row for row in rows if odd in row["node"]], [row for row in rows if odd not in row["node"]]


@pytest.mark.parametrize(
    ("check_name", "status", "seen", "remedy"),
    [
        ("versions", "failed", "s3fs 0.1, elsewhere 20", "install the same s3fs everywhere"),
        ("open files", "failed", f"{OPEN_FILES} a process", "ulimit -n 65536"),
        ("niceness", "warning", "workers run at 7", "RAY_worker_niceness=0"),
        ("environment", "warning", "RAY_SERVE_ENABLE_HA_PROXY is not set", "RAY_SERVE_ENABLE_HA_PROXY=1"),
        ("GPUs", "failed", "Ray counts 1, torch 0; driver none", ""),
        ("workspace", "failed", "credentials", "AWS_ACCESS_KEY_ID"),
        ("all-reduce, gloo", "failed", "nosuch0", "GLOO_SOCKET_IFNAME="),
    ],
)
def test_the_odd_node_is_named_with_what_is_wrong(check, cluster, check_name, status, seen, remedy):
    theirs, others = of(check[1], check_name, cluster[1])
    assert {row["status"] for row in theirs} == {status}
    assert seen in theirs[0]["seen"] and remedy in theirs[0]["remedy"]
    if check_name != "all-reduce, gloo":  # of which all must be there
        assert others and {row["status"] for row in others} == {"ok"}


def test_what_is_well_is_well_and_nothing_is_left(check, cluster):
    done, found, left = check
    assert done.returncode == 1 and found["format"] == 1 and len(found["nodes"]) == 3
    for name in ("answer", "memory", "disk", "object store", "clock", "connections"):
        theirs, others = of(found, name, cluster[1])
        assert [row["status"] for row in theirs + others] == ["ok"] * 3, theirs + others
    [budget] = [row for row in found["findings"] if row["check"] == "training"]
    assert budget["status"] == "failed" and "make 6" in budget["seen"]
    assert left == []
    assert found["seconds"] < 60
    assert "remedy" in done.stderr and "nosuch0" in done.stderr  # the table


@pytest.fixture(scope="module")
def asked(cluster, check, folders, store_url, free_ports):
    """What workspaces.py said."""
    dead, silent = free_ports
    workspaces = {
        "dead": ("s3://bucket/w", dead),
        "silent": ("s3://bucket/w", silent),
        "absent": ("s3://sscm-nowhere/w", store_url),
        "file": (str(folders / "file" / "w"), ""),
        "fresh": (str(folders / "fresh" / "w"), ""),
        "apart": (str(folders / "apart"), ""),
        "readonly": (str(folders / "readonly"), ""),
        "unknown": ("nothing://w", ""),
    }
    told = json.dumps({"workspaces": workspaces, "odd": cluster[1]})
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("workspaces.py"), told],
        env={**os.environ, "RAY_ADDRESS": cluster[0].address},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def free_ports():
    """URLs of a port that nothing listens on, and of one where somebody takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as dead:
        urls = [f"http://127.0.0.1:{server.getsockname()[1]}" for server in (dead, silent)]
        dead.close()
        yield urls


@pytest.mark.parametrize("name", ["dead", "silent"])
def test_a_store_that_is_away_ends_with_a_remedy_within_the_deadline(asked, cluster, name):
    healthy = [row for row in asked["told"][name] if cluster[1] not in row["node"]]
    assert len(healthy) == 2
    for row in healthy:
        assert row["status"] == "failed" and "the store did not answer" in row["seen"]
        assert "check that it is up and that endpoint and region are right" in row["remedy"]
    assert asked["seconds"][name] < 7


def test_buckets_and_folders_that_are_not_there_are_told(asked, cluster):
    told = asked["told"]
    absent = [row for row in told["absent"] if cluster[1] not in row["node"]]
    assert {row["status"] for row in absent} == {"failed"}
    for row in absent:
        assert "no such file or bucket" in row["seen"] and "make it" in row["remedy"]
    assert len(told["file"]) == 3
    for row in told["file"]:
        assert "check the rights to it" in row["remedy"]
    [unknown] = told["unknown"]
    assert (
        unknown["status"] == "failed"
        and unknown["node"] == "this command"
        and "'nothing' is unknown" in unknown["seen"]
    )


def test_a_folder_that_was_not_there_is_tried_and_taken_away_again(asked, folders):
    assert [row["status"] for row in asked["told"]["fresh"]] == ["ok"] * 3
    assert not (folders / "fresh").exists()
    assert list((folders / "apart").iterdir()) == []


@pytest.mark.skipif(not MOUNTS, reason="mounts of a node's own want root")
def test_a_folder_that_is_another_on_one_node_is_not_shared(asked, cluster):
    rows = asked["told"]["apart"]
    assert {row["status"] for row in rows if cluster[1] in row["node"]} == {"failed"}
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(failed) == 2  # the odd node, and the one that looked for its file
    assert all("is not there" in row["seen"] and "different machines" in row["remedy"] for row in failed)


@pytest.mark.skipif(not MOUNTS, reason="mounts of a node's own want root")
def test_a_folder_that_one_node_cannot_write_is_told(asked, cluster):
    rows = {cluster[1] in row["node"]: row for row in asked["told"]["readonly"]}
    assert rows[False]["status"] == "ok"
    assert rows[True]["status"] == "failed" and "read-only" in rows[True]["seen"]


def test_nodes_that_can_sum_together(asked):
    rows = asked["told"]["sum"]
    assert [row["status"] for row in rows] == ["ok"] * 2 and "over 2 ranks" in rows[0]["seen"]
    assert [row["status"] for row in asked["told"]["connections"]] == ["ok"] * 3


def test_a_node_whose_process_hangs_is_told_of_and_holds_up_nobody(asked, cluster):
    for name, error in asked["told"]["stopped"].items():
        assert error == ("no answer within 2 s" if cluster[1] in name else None)
    assert asked["seconds"]["stopped"] < 4


def test_a_cluster_that_is_not_there_is_told_at_once(free_ports):
    address = free_ports[0].removeprefix("http://")
    done = subprocess.run(
        [SSCM, "cluster", "check"],
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Connection refused" in done.stdout and "ray status" in done.stdout
