"""Storage options: where they come from, which wins, and what is said of those that cannot be."""

import json

import fsspec.config
import pytest

from sscm.errors import ConfigError, WorkspaceError
from sscm.storage import PART_BYTES, S3_CONFIG, filesystem, is_marker, options_for, upload_options
from sscm.workspace import open_workspace


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """An environment that says nothing of storage."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "SSCM_STORAGE_OPTIONS"):
        monkeypatch.delenv(name, raising=False)


def test_the_usual_variables_say_endpoint_and_region(monkeypatch):
    assert options_for("s3://b/w") == {}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://everything")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert options_for("s3://b") == {
        "endpoint_url": "http://everything",
        "client_kwargs": {"region_name": "eu-central-1"},
    }
    assert options_for("memory://b") == {}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
    assert options_for("s3://b")["endpoint_url"] == "http://s3"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert "endpoint_url" not in options_for("s3://b")


def test_longer_keys_win_and_mappings_are_joined(monkeypatch, tmp_path):
    options = {
        "s3://mine/w": {"anon": False, "client_kwargs": {"verify": False}},
        "s3": {"anon": True, "client_kwargs": {"region_name": "x"}},
        "gs": {"token": "anon"},
    }
    monkeypatch.setenv("SSCM_STORAGE_OPTIONS", json.dumps(options))
    mine = {"anon": False, "client_kwargs": {"region_name": "x", "verify": False}}
    assert options_for("s3://mine/w") == options_for("s3://mine/w/deep") == mine
    assert options_for("s3://mine/w2") == options_for("s3://other") == options["s3"]
    assert options_for("s3://mine/w", {"anon": True})["anon"] is True
    (tmp_path / "options.json").write_text(json.dumps(options))
    monkeypatch.setenv("SSCM_STORAGE_OPTIONS", str(tmp_path / "options.json"))
    assert open_workspace("s3://mine/w/").storage_options == mine


def test_what_fsspec_is_configured_to_travels(monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True, "requester_pays": True})
    monkeypatch.setenv("SSCM_STORAGE_OPTIONS", '{"s3": {"anon": false}}')
    assert open_workspace("s3://b/w").storage_options == {"anon": False, "requester_pays": True}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"s3": {"secret": "hush"}', "not JSON, line 1"),
        ('{"s3": "hush"}', "not an object of objects"),
        ('{"s4": {}}', "'s4' is neither a protocol nor the beginning of a URI"),
        ("/no/such/hush", "cannot be read as a file"),
        ('{"s3": {"annon": "hush"}}', "'annon' is unknown to s3; did you mean anon?"),
    ],
)
def test_options_that_cannot_be(monkeypatch, value, message):
    monkeypatch.setenv("SSCM_STORAGE_OPTIONS", value)
    with pytest.raises(ConfigError) as raised:
        open_workspace("s3://b/w")
    assert message in str(raised.value) and "hush" not in str(raised.value)


def test_a_variable_of_fsspec_that_is_no_object(monkeypatch):
    monkeypatch.setenv("FSSPEC_S3", "anon=true")
    with pytest.raises(ConfigError, match=r"FSSPEC_S3: not a JSON object; expected one such as"):
        open_workspace("s3://b/w")


def test_a_package_that_is_missing(monkeypatch):
    def missing(scheme):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(WorkspaceError, match="gs://b/w: Please install gcsfs"):
        open_workspace("gs://b/w")


def test_defaults_of_the_client_yield_one_by_one():
    fs = filesystem("s3", {"config_kwargs": {"read_timeout": 99}, "max_concurrency": 2})
    assert fs.config_kwargs == {**S3_CONFIG, "read_timeout": 99} and fs.max_concurrency == 2
    assert fs.retries == 1 and not fs.dircache.use_listings_cache
    assert upload_options("s3") == {"chunksize": PART_BYTES} and upload_options("gs") == {}


def test_folder_markers():
    assert is_marker("b/folder/", "b/folder") and not is_marker("b/folder/x/", "b/folder")
    assert not is_marker("b/folder", "b/folder")
