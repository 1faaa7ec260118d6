"""A service's settings as the YAML file that ``serve deploy`` and ``serve run`` take."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from serve.api import explain
from sscm.config import ServeConfig
from sscm.errors import ConfigError

APP = "sscm"
"""Name of the Serve application."""
BUILDER = "serve.app:build_app"
"""What makes it of its settings."""

_HEAD = """# sscm as a Ray Serve application:  serve deploy serve.yaml
# Nodes need RAY_SERVE_ENABLE_HA_PROXY=1 and RAY_SERVE_THROUGHPUT_OPTIMIZED=1 from before Ray starts; without them it
# works, more slowly. Settings that are not named are those of `sscm serve --help`.
"""


def to_yaml(config: ServeConfig) -> str:
    """A Serve config file with these settings; those that are the defaults are left out, but for the workspace."""
    defaults = ServeConfig()
    args = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in ("host", "port")
        and (field.name == "workspace" or getattr(config, field.name) != getattr(defaults, field.name))
    }
    if "://" not in config.workspace:  # nodes do not start where this was written
        args["workspace"] = os.path.abspath(config.workspace)
    document = {
        "http_options": {"host": config.host, "port": config.port},
        "applications": [{"name": APP, "route_prefix": "/", "import_path": BUILDER, "args": args}],
    }
    return f"{_HEAD}{yaml.safe_dump(document, sort_keys=False)}"


def read_settings(path: Path) -> ServeConfig:
    """The settings in a Serve config file.

    Raises:
        ConfigError: it cannot be read, is no such file, or has settings that cannot be.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error}); `sscm serve --write {path}` makes one") from error
    try:
        (application,) = [found for found in document["applications"] if found["import_path"] == BUILDER]
        settings = {**(application.get("args") or {}), **(document.get("http_options") or {})}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: no application, or several, with import_path {BUILDER}; `sscm serve --write {path}` makes one"
        ) from error
    return config_of(settings)


def config_of(args: Mapping[str, Any]) -> ServeConfig:
    """Settings of a mapping, whose values may be text.

    Raises:
        ConfigError: a setting is unknown or cannot be.
    """
    known = [field.name for field in dataclasses.fields(ServeConfig)]
    unknown = [name for name in args if name not in known]
    if unknown:
        raise ConfigError(f"unknown settings {unknown}; known are {known}")
    try:
        return TypeAdapter(ServeConfig).validate_python(dict(args))
    except ValidationError as error:
        raise ConfigError(explain(error.errors(), "settings")) from error
