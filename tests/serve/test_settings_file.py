"""Settings go into a Serve config file and come back; Ray takes the file."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve.settings_file import config_of, read_settings, to_yaml
from sscm.config import ServeConfig
from sscm.errors import ConfigError

SETTINGS = ServeConfig(
    workspace="s3://bucket/archive",
    port=8111,
    host="0.0.0.0",
    shards=4,
    replicas=2,
    max_gateways=3,
    deadline_s=3.5,
    keys="keys.json",
    cors_origins="https://map.example.org",
    log_format="text",
)


def test_settings_come_back(tmp_path):
    (tmp_path / "serve.yaml").write_text(to_yaml(SETTINGS))
    assert read_settings(tmp_path / "serve.yaml") == SETTINGS


def test_ray_takes_the_file():
    schema = ServeDeploySchema.model_validate(yaml.safe_load(to_yaml(SETTINGS)))
    (application,) = schema.applications
    assert application.import_path == "serve.app:build_app"
    assert config_of(application.args) == dataclasses.replace(SETTINGS, host="127.0.0.1", port=8000)
    assert (schema.http_options.host, schema.http_options.port) == ("0.0.0.0", 8111)


def test_a_local_workspace_is_named_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load(to_yaml(ServeConfig()))
    assert document["applications"][0]["args"] == {"workspace": str(tmp_path / "workspace")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "cannot be read as YAML"),
        ("applications: []", "no application, or several, with import_path serve.app:build_app"),
        ("- 1", "no application"),
        ("applications: [{import_path: 'serve.app:build_app', args: {shrads: 2}}]", r"unknown settings \['shrads'\]"),
        ("applications: [{import_path: 'serve.app:build_app', args: {shards: two}}]", "shards: .*seen 'two'"),
        ("applications: [{import_path: 'serve.app:build_app', args: {shards: 0}}]", "expected at least 1"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    (tmp_path / "serve.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_settings(tmp_path / "serve.yaml")


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"serve.yaml: cannot be read .*`sscm serve --write"):
        read_settings(tmp_path / "serve.yaml")
