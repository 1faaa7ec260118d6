"""Memory, disk, object store, open files and niceness of a node."""

import dataclasses

import pytest

from sscm.cluster.machine import Machine, judge_machine

GB = 10**9
GOOD = Machine(
    versions={},
    environment={},
    niceness=0,
    open_files=65536,
    memory_bytes=16 * GB,
    used_memory_bytes=4 * GB,
    memory_threshold=0.95,
    temporary="/tmp/ray",
    disk_bytes=100 * GB,
    free_disk_bytes=50 * GB,
    disk_threshold=0.95,
    shm_bytes=8 * GB,
    store_folder="/dev/shm",
    interface="eth0",
)


def judged(object_store=4 * GB, **changes):
    return {found.check: found for found in judge_machine("a", dataclasses.replace(GOOD, **changes), object_store)}


def test_a_good_machine_is_well():
    found = judged()
    assert list(found) == ["memory", "disk", "object store", "open files", "niceness"]
    assert {(finding.status, finding.remedy) for finding in found.values()} == {("ok", "")}


@pytest.mark.parametrize(
    ("changes", "check", "status", "seen"),
    [
        ({"used_memory_bytes": 14 * GB}, "memory", "warning", "2.0 of 16.0 GB free; 1.2 GB more"),
        ({"used_memory_bytes": 15.5 * GB}, "memory", "failed", "above 95% in use Ray kills workers"),
        ({"used_memory_bytes": 9 * GB, "memory_threshold": 0.5}, "memory", "failed", "above 50% in use"),
        ({"free_disk_bytes": 9 * GB}, "disk", "warning", "4.0 GB more of spilled objects"),
        ({"free_disk_bytes": 5 * GB}, "disk", "failed", "Ray spills no objects"),
        ({"store_folder": "/tmp/ray"}, "object store", "warning", "4.0 GB in /tmp/ray, which is a disk"),
        ({"shm_bytes": GB}, "object store", "failed", "4.0 GB in a /dev/shm of 1.0 GB"),
        ({"shm_bytes": GB, "store_folder": None}, "object store", "failed", "/dev/shm of 1.0 GB"),
        ({"open_files": 1024}, "open files", "warning", "1,024 a process"),
        ({"open_files": 1023}, "open files", "failed", "1,023 a process"),
        ({"niceness": 15}, "niceness", "warning", "workers run at 15"),
    ],
)
def test_what_is_short_is_told_with_its_remedy(changes, check, status, seen):
    found = judged(**changes)
    assert [name for name, finding in found.items() if finding.status != "ok"] == [check]
    assert found[check].status == status and seen in found[check].seen and found[check].remedy


def test_a_store_that_does_not_fit_is_told_the_size_that_would():
    assert "--shm-size=4.4gb" in judged(shm_bytes=GB)["object store"].remedy
