"""The commands of the pages, run: a small workspace, one Ray, a service."""

import os
import socket

import pytest

from tests.docs.laptop import STEPS, Laptop

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def laptop(tmp_path_factory, ray_session):
    """A folder to work in, beside nothing else."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    before = os.getcwd()
    found = Laptop(tmp_path_factory.mktemp("laptop"), port)
    os.chdir(found.folder)
    try:
        yield found
    finally:
        os.chdir(before)
        found.stop()


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_command_of_the_pages_does_what_they_say(laptop, step):
    laptop.run(step)
