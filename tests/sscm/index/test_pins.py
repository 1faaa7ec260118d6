"""Pins: while their holder lives a generation is kept, and no longer."""

import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from sscm.errors import ConflictError, GenerationError, IntegrityError, WorkspaceError
from sscm.index import pins
from sscm.index.append import append_segment
from sscm.index.generation import read_generation
from sscm.index.pins import Pin, leases, pinned, reading, writing
from tests.plugins.growing import begin


@pytest.fixture
def index(workspace, rows_factory):
    """Two generations."""
    begin(workspace, *rows_factory([1, 2]))
    append_segment(workspace, *rows_factory([3]))
    return workspace


def pinning_threads():
    return [thread for thread in threading.enumerate() if thread.name == "index-pin"]


def test_what_a_pin_says(index):
    before = datetime.now(UTC)
    with Pin(index, 2, "a reader") as pin:
        (file,) = index.names("index", "pins")
        assert file.startswith("2-") and file == pin.lease.file
        about = index.read_json("index", "pins", file)
        assert (about["generation"], about["who"], about["host"]) == (2, "a reader", socket.gethostname())
        assert before + timedelta(seconds=599) < datetime.fromisoformat(about["expires"])
        assert leases(index) == (pin.lease,) and pin.lease.alive
        assert pin.lease.holder == f"a reader ({socket.gethostname()}, process {about['process']})"
    assert leases(index) == () and index.names("index", "pins") == []
    pin.release()  # nothing happens the second time
    with writing(index, "a writer"):
        (lease,) = leases(index)
        assert lease.generation is None and lease.file.startswith("write-")
    assert leases(index) == () and pinning_threads() == []


def test_a_lease_is_renewed_while_its_holder_lives(index):
    with Pin(index, 1, "a reader", lease_s=0.6) as pin:
        deadline = time.monotonic() + 20
        while leases(index)[0].expires == pin.lease.expires:
            assert time.monotonic() < deadline, "never renewed"
            time.sleep(0.02)
        (renewed,) = leases(index)
        assert datetime.fromisoformat(renewed.expires) > datetime.fromisoformat(pin.lease.expires)
        assert (renewed.file, renewed.since, renewed.who) == (pin.lease.file, pin.lease.since, "a reader")
    assert leases(index) == ()
    time.sleep(0.3)
    assert leases(index) == (), "given back and written again"


def test_storage_that_fails_for_a_moment_does_not_end_the_renewal(index, monkeypatch):
    write, failed = pins._write, []

    def failing(workspace, lease):
        if len(failed) < 2:
            failed.append(lease)
            raise WorkspaceError("for a moment")
        write(workspace, lease)

    with Pin(index, 1, "a reader", lease_s=0.3) as pin:
        monkeypatch.setattr(pins, "_write", failing)
        deadline = time.monotonic() + 20
        while leases(index)[0].expires == pin.lease.expires:
            assert time.monotonic() < deadline, "never renewed"
            time.sleep(0.02)
    assert len(failed) == 2 and leases(index) == ()


def test_a_lease_runs_out(index):
    pin = Pin(index, 1, "a reader")
    about = index.read_json("index", "pins", pin.lease.file)
    pin.release()
    for shift, alive in ((-1, False), (60, True)):
        expires = (datetime.now(UTC) + timedelta(seconds=shift)).isoformat()
        index.write_json({**about, "expires": expires}, "index", "pins", "1-lost.json")
        (lease,) = leases(index)
        assert lease.alive is alive


def test_what_is_no_pin_is_passed_over(index):
    sound = {"generation": 1, "who": "w", "host": "h", "process": 1, "since": "2026-01-01T00:00:00+00:00"}
    far = "2999-01-01T00:00:00+00:00"
    for name, value in {
        "1-a.json": {**sound, "expires": "soon"},
        "1-b.json": {**sound, "expires": 5},
        "1-c.json": sound,
        "1-d.json": {**sound, "expires": far, "more": 1},
        "1-e.json": ["?"],
        "1-f.txt": {**sound, "expires": far},
        "1-g.json": {**sound, "expires": "2999-01-01T00:00:00"},  # of which time zone?
        ".1-h.json.1-2.part": {**sound, "expires": far},
    }.items():
        index.write_bytes(json.dumps(value).encode(), "index", "pins", name)
    index.write_bytes(b"{", "index", "pins", "1-i.json")
    assert [lease for lease in leases(index) if lease.alive] == []
    index.write_json({**sound, "expires": far}, "index", "pins", "1-j.json")
    assert [lease.file for lease in leases(index)] == ["1-j.json"]


def test_a_block_keeps_what_it_reads(index):
    with pinned(index) as generation:
        assert generation == read_generation(index)
        assert [lease.generation for lease in leases(index)] == [2]
    with pinned(index, 1, "who") as generation:
        assert generation.number == 1
        assert [(lease.generation, lease.who) for lease in leases(index)] == [(1, "who")]
    with pytest.raises(KeyError), pinned(index):
        raise KeyError
    assert leases(index) == ()


def test_what_is_not_there_leaves_no_pin(index):
    with (
        pytest.raises(GenerationError, match=r"generations/7/manifest.json: .*the index has \[1, 2\]"),
        pinned(index, 7),
    ):
        pass
    index.write_bytes(b"{", "index", "generations", "2", "manifest.json")
    with pytest.raises(IntegrityError, match="not JSON"), pinned(index):
        pass
    assert leases(index) == ()
    index.delete("index")
    with pytest.raises(GenerationError, match="there is no index in this workspace"), pinned(index):
        pass
    assert index.names("index") == []


def test_a_generation_that_is_followed_and_collected_before_it_is_pinned(index, monkeypatch):
    """Between reading the number and pinning it: the next one is taken."""
    ask, asked = pins.current_number, []

    def stale(workspace):
        asked.append(None)
        if len(asked) == 1:
            workspace.delete("index", "generations", "1")
            return 1
        return ask(workspace)

    monkeypatch.setattr(pins, "current_number", stale)
    with pinned(index) as generation:
        assert generation.number == 2 and [lease.generation for lease in leases(index)] == [2]
    assert leases(index) == ()


def test_a_generation_that_is_collected_while_it_is_read(index, monkeypatch):
    """Its manifest goes between the look whether it is there and the reading: the next one is taken."""
    ask, read, asked = pins.current_number, pins.read_generation, []

    def stale(workspace):
        asked.append(None)
        return 1 if len(asked) == 1 else ask(workspace)

    def gone(workspace, number):
        if number == 1:
            raise WorkspaceError("cannot read manifest.json: there is no such file or bucket")
        return read(workspace, number)

    monkeypatch.setattr(pins, "current_number", stale)
    monkeypatch.setattr(pins, "read_generation", gone)
    with pinned(index) as generation:
        assert generation.number == 2
    with pytest.raises(WorkspaceError, match="cannot read"), pinned(index, 1):
        pass
    assert leases(index) == ()


def test_a_current_generation_that_was_lost_is_told(index):
    index.delete("index", "generations", "2")
    with pytest.raises(GenerationError, match="no such generation"), pinned(index):
        pass
    assert leases(index) == ()


def test_a_workspace_that_cannot_be_written(index, capsys):
    index.delete("index", "pins")
    index.write_bytes(b"in the way", "index", "pins")
    with pinned(index, who="a reader") as generation:
        assert generation.number == 2
    told = capsys.readouterr().err
    assert "a reader: index generation 2 is not pinned, `sscm index gc` may delete it (cannot write" in told
    assert reading(index, 1, "a reader") is None
    with pytest.raises(WorkspaceError, match="cannot write"):
        writing(index, "a writer")
    assert pinning_threads() == []


def test_a_writer_does_not_wait_for_ever(index, monkeypatch):
    monkeypatch.setattr("sscm.index.pins.COLLECTING_S", 0.3)
    with Pin(index, None, "gc", collects=True):
        with pytest.raises(ConflictError, match=r"a writer: gc \(.*\) has collected garbage for more than .* minutes"):
            writing(index, "a writer")
        assert [lease.who for lease in leases(index)] == ["gc"]
    writing(index, "a writer").release()


def test_on_an_object_store_a_pin_may_go_while_pins_are_listed(bucket, monkeypatch):
    held = [Pin(bucket, 1, "one"), Pin(bucket, 2, "two")]
    read = pins._read

    def late(workspace, name):
        if name == held[0].lease.file:
            # Another process gives it back: what ours remembers of the folder is of before.
            bucket.fs.call_s3("delete_object", Bucket=bucket.path_of().partition("/")[0], Key=f"w/index/pins/{name}")
        return read(workspace, name)

    monkeypatch.setattr(pins, "_read", late)
    assert [lease.who for lease in leases(bucket)] == ["two"]
    for pin in held:
        pin.release()
    assert bucket.names("index", "pins") == []
