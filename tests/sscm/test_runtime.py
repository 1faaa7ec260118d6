"""The Ray of a command, as far as it can be told without starting one."""

import os
import socket

import pytest

from sscm import runtime


@pytest.fixture
def taken():
    """A port of this machine that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def test_ports_that_are_taken_are_moved_and_others_stay(monkeypatch, taken, free_port):
    monkeypatch.setattr(runtime, "_PORTS", {"SSCM_TAKEN": taken, "SSCM_FREE": free_port, "SSCM_ASKED": taken})
    monkeypatch.setenv("SSCM_TAKEN", "")  # so that it is put back afterwards
    monkeypatch.delenv("SSCM_TAKEN")
    monkeypatch.setenv("SSCM_ASKED", str(taken))
    runtime._move_ports()
    assert "SSCM_FREE" not in os.environ
    assert os.environ["SSCM_ASKED"] == str(taken)
    moved = int(os.environ["SSCM_TAKEN"])
    assert moved != taken
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", moved))
