"""Which file system a URI is on, and with what options: endpoint, region, credentials, timeouts.

Options come, later ones over earlier ones, from

1. the defaults below (S3 only: timeouts, few retries by the client itself, no cache of listings);
2. ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL`` and ``AWS_REGION``, ``AWS_DEFAULT_REGION``;
3. fsspec's own configuration (``FSSPEC_S3='{"anon": true}'``, ``FSSPEC_S3_ANON=true``, ``~/.config/fsspec``);
4. :data:`VARIABLE`: JSON, or the path of a JSON file, that maps a protocol or the beginning of a URI to options, the
   longer key over the shorter: ``{"s3": {"anon": true}, "s3://mine/": {"anon": false, "profile": "me"}}``;
5. what the caller of :func:`sscm.workspace.open_workspace` gives.

2 to 5 are found when a workspace is opened and travel inside it to the workers. Credentials of the other ``AWS_*``
variables, of profiles and of roles do not travel: each machine finds its own, which may be short-lived.
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fsspec
import fsspec.config

from sscm.errors import ConfigError, WorkspaceError

VARIABLE = "SSCM_STORAGE_OPTIONS"
"""Environment variable with options by protocol or URI."""

S3 = ("s3", "s3a")

S3_CONFIG: Mapping[str, Any] = {
    # A store within reach accepts in milliseconds; beyond this its address is dead and another attempt finds another.
    "connect_timeout": 5,
    # Seconds without a byte after which a request is given up: it bounds a body that stalls half-way.
    "read_timeout": 15,
    # Spares a large upload from being sent anew for one part; longer faults are sscm.retries' to sit out.
    "retries": {"mode": "standard", "total_max_attempts": 2},
}
"""Settings of botocore's client, each over-ruled by ``config_kwargs``."""
S3_OPTIONS: Mapping[str, Any] = {
    "use_listings_cache": False,  # other writers' files must be seen
    "max_concurrency": 4,  # parts in memory and on the way at a time
}
"""Options of s3fs, each over-ruled by an option of the same name."""
PART_BYTES = 16 * 2**20
"""Bytes of a part of a large upload: four of them are in memory; a shard is ten to twenty."""

_SHOWN = frozenset(
    {
        *("anon", "endpoint_url", "region_name", "profile", "use_ssl", "verify", "requester_pays", "max_concurrency"),
        *("connect_timeout", "read_timeout", "signature_version", "addressing_style", "use_listings_cache"),
    }
)


def options_for(uri: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the environment and the caller say about the file system of a URI.

    Args:
        uri: absolute URI.
        given: the caller's options, which win.

    Raises:
        ConfigError: the environment's options are not JSON objects, or s3 knows no such option.
        WorkspaceError: the scheme is unknown, or its package is not installed.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in fsspec.available_protocols():
        raise WorkspaceError(
            f"{uri}: scheme {scheme!r} is unknown; expected a path, file://, s3:// or another fsspec protocol"
        )
    try:
        protocols = fsspec.get_filesystem_class(scheme).protocol
    except ImportError as error:
        raise WorkspaceError(f"{uri}: {error}") from error
    found: dict[str, Any] = _aws() if scheme in S3 else {}
    _require_fsspec_objects(scheme)
    for name in (protocols,) if isinstance(protocols, str) else protocols:
        found = _merge(found, fsspec.config.conf.get(name, {}))
    for _, options in sorted(_of_variable(uri, scheme), key=lambda item: len(item[0])):
        found = _merge(found, options)
    found = _merge(found, given or {})
    if scheme in S3:
        _require_known(found)
    return found


def filesystem(scheme: str, options: Mapping[str, Any]) -> Any:
    """The fsspec file system of a scheme, with options on top of the defaults (fsspec caches instances)."""
    if scheme not in S3:
        return fsspec.filesystem(scheme, **options)
    merged = {**S3_OPTIONS, **options}
    merged["config_kwargs"] = {**S3_CONFIG, **options.get("config_kwargs", {})}
    fs = fsspec.filesystem(scheme, **merged)
    fs.retries = 1  # s3fs would try each request five times, and wait for each of them
    return fs


def upload_options(scheme: str) -> dict[str, Any]:
    """What ``put_file`` is called with on the file system of a scheme."""
    return {"chunksize": PART_BYTES} if scheme in S3 else {}


def read_options(scheme: str) -> dict[str, Any]:
    """What ``cat_file`` is called with: s3fs would ask for the size before it reads, to split what is large."""
    return {"max_concurrency": 1} if scheme in S3 else {}


def remove(fs: Any, path: str) -> None:
    """Delete a file, or a folder with all that is in it.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: something is still there.
    """
    if fs.protocol != S3:
        fs.rm(path, recursive=True)
    elif fs.info(path)["type"] != "directory":
        fs.rm_file(path)
    else:
        fs.rm(path, recursive=True)
        # Many objects are deleted by one request, and s3fs does not read in its answer which were refused.
        if left := fs.find(path):
            raise PermissionError(f"{len(left)} objects are still there")


def is_marker(path: str, folder: str) -> bool:
    """Whether a name in a listing is the empty object that stands for the folder itself, as S3's web console makes."""
    return path.endswith("/") and path.rstrip("/") == folder.rstrip("/")


def masked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they may be shown: whatever is not known to be harmless is left out."""
    return {name: _shown(name, value) for name, value in options.items()}


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return masked(value)
    if name == "endpoint_url" and isinstance(value, str):
        parts = urlsplit(value)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return value if name in _SHOWN else "***"


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Options over others; those that are mappings themselves (``client_kwargs``) likewise."""
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _aws() -> dict[str, Any]:
    """Endpoint and region of the usual variables: they say what a bucket's name means, wherever it is read."""
    environ = os.environ
    found: dict[str, Any] = {}
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint and environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        found["endpoint_url"] = endpoint
    if region := environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"):
        found["client_kwargs"] = {"region_name": region}
    return found


def _of_variable(uri: str, scheme: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Entries of :data:`VARIABLE` that a URI is meant by."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return
    expected = 'expected JSON such as {"s3": {"anon": true}}, or the path of a file of it'
    if not text.startswith("{"):
        try:
            with open(text, encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise ConfigError(f"{VARIABLE}: cannot be read as a file ({error.strerror}); {expected}") from error
    try:
        value = json.loads(text)
    except ValueError as error:
        # The text itself may hold secrets: only where it breaks is told.
        where = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "somewhere"
        raise ConfigError(f"{VARIABLE}: not JSON, {where}; {expected}") from None
    if not isinstance(value, dict) or not all(isinstance(options, dict) for options in value.values()):
        raise ConfigError(f"{VARIABLE}: not an object of objects; {expected}")
    for key, options in value.items():
        if "://" not in key and key not in fsspec.available_protocols():
            raise ConfigError(f"{VARIABLE}: {key!r} is neither a protocol nor the beginning of a URI; {expected}")
        prefix = key.rstrip("/")
        if key == scheme or ("://" in key and (uri == prefix or uri.startswith(prefix + "/"))):
            yield key, options


def _require_fsspec_objects(scheme: str) -> None:
    """Tell of a variable of fsspec's that fsspec only warns of when it is imported."""
    name = f"FSSPEC_{scheme.upper()}"
    text = os.environ.get(name)
    if text is None:
        return
    try:
        holds = isinstance(json.loads(text), dict)
    except ValueError:
        holds = False
    if not holds:
        raise ConfigError(f'{name}: not a JSON object; expected one such as {{"anon": true}}')


def _require_known(options: Mapping[str, Any]) -> None:
    """s3fs takes any name, and fails with a TypeError at the first request."""
    import s3fs

    known = set(inspect.signature(s3fs.S3FileSystem.__init__).parameters) - {"self", "kwargs"}
    # What the classes above and beneath s3fs take.
    known |= {"profile", "use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache"}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(sorted(known))}"
            raise ConfigError(f"storage option {name!r} is unknown to s3; {meant}")
