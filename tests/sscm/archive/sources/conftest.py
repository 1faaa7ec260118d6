"""What tests of several sources share."""

import pytest

from tests.plugins.stac import add_s1, add_s2


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    """Folder, Sentinel-2 item and Sentinel-1 item of an image that no test changes."""
    folder = tmp_path_factory.mktemp("scene")
    return folder, add_s2(folder), add_s1(folder)
