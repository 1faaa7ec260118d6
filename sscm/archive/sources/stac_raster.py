"""Rasters of STAC assets: opened where they lie, on disk, in a bucket or behind HTTP, and read a window at a time."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import rasterio
from rasterio._err import CPLE_BaseError  # what GDAL reports; rasterio has no public name for it
from rasterio.env import setenv
from rasterio.errors import RasterioError

from sscm.archive.sources.folders import local_path
from sscm.errors import PairError
from sscm.workspace import open_workspace

RETRIES = "6"
"""Times that GDAL asks again after a passing fault: half a minute in all, as a restarting store takes."""
_CREDENTIALS = {
    "key": "AWS_ACCESS_KEY_ID",
    "secret": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
    "profile": "AWS_PROFILE",
}
_PREFIXES = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/", "abfs": "/vsiaz/"}


def gdal_settings(href: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Settings with which GDAL reads from where our own file system reads: same endpoint, a few tries, no hanging.

    ``AWS_ENDPOINT_URL`` (or ``AWS_ENDPOINT_URL_S3``) and the storage options of a bucket, which GDAL does not know,
    become what it does know. What the environment sets for GDAL itself is left as it is.

    Args:
        href: path or URI of what is read.
        environment: by default that of the process.

    Raises:
        ConfigError: storage options that cannot be used.
    """
    env = os.environ if environment is None else environment
    settings = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # without it GDAL lists the folder of every file
        "GDAL_HTTP_MAX_RETRY": RETRIES,
        "GDAL_HTTP_RETRY_DELAY": "0.5",  # seconds, about doubled each time
        "GDAL_HTTP_CONNECTTIMEOUT": "10",
        "GDAL_HTTP_LOW_SPEED_TIME": "30",  # seconds below the limit after which a transfer is given up
        "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    }
    if not href.startswith("s3://"):
        return {name: value for name, value in settings.items() if name not in env}
    options = open_workspace(href).storage_options
    endpoint = options.get("endpoint_url") or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    if endpoint:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        settings["AWS_S3_ENDPOINT"] = f"{parts.netloc}{parts.path.rstrip('/')}"
        settings["AWS_HTTPS"] = "NO" if parts.scheme == "http" else "YES"
        # other servers than Amazon's rarely have a name for each bucket
        settings["AWS_VIRTUAL_HOSTING"] = "TRUE" if parts.netloc.endswith("amazonaws.com") else "FALSE"
    if options.get("anon"):
        settings["AWS_NO_SIGN_REQUEST"] = "YES"
    if options.get("requester_pays"):
        settings["AWS_REQUEST_PAYER"] = "requester"
    settings = {name: value for name, value in settings.items() if name not in env}
    # Credentials that are given for this bucket go before those of the environment, as in our own file system.
    return settings | {name: str(options[option]) for option, name in _CREDENTIALS.items() if options.get(option)}


def gdal_path(href: str) -> str:
    """What GDAL calls a path or URI.

    Raises:
        PairError: GDAL cannot read from there.
    """
    local = local_path(href)
    if local is not None:
        return local
    scheme, _, rest = href.partition("://")
    if scheme in ("http", "https"):
        return f"/vsicurl/{href}"
    if scheme not in _PREFIXES:
        raise PairError(
            shown(href), f"scheme {scheme!r}", f"a path, http(s)://, {', '.join(f'{s}://' for s in _PREFIXES)}"
        )
    return _PREFIXES[scheme] + rest


def shown(href: str) -> str:
    """A URI as it may be shown: the query of a signed one is a secret."""
    return href.partition("?")[0]


@contextlib.contextmanager
def open_raster(href: str) -> Iterator[Any]:
    """Open a georeferenced GeoTIFF or JPEG 2000 file; what GDAL raises in the block becomes a PairError too.

    Args:
        href: path or URI.

    Yields:
        A ``rasterio.DatasetReader`` with a reference system and a transform.

    Raises:
        PairError: no such file, not reachable, of another format, damaged, or without georeference.
    """
    path = gdal_path(href)
    if local_path(href) is not None and not os.path.isfile(path):
        raise PairError(shown(href), "no such file", "the file that the item's asset names")
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(rasterio.Env())
            setenv(**gdal_settings(href))  # Env itself refuses keys
            # no other driver: a VRT, say, could name any file of the machine
            driver = "JP2OpenJPEG" if urlsplit(href).path.lower().endswith(".jp2") else "GTiff"
            file = stack.enter_context(rasterio.open(path, driver=driver))
            if file.crs is None or file.transform.is_identity:
                kind = "only ground control points: radar geometry" if file.gcps[0] else "no georeference"
                raise PairError(
                    shown(href), kind, "a reference system and a transform, such as terrain-corrected (RTC) files"
                )
            yield file
    except (RasterioError, CPLE_BaseError, OSError) as error:
        cause = re.sub(r"\?\S*", "?…", str(error.__cause__ or error))
        remedy = "a whole GeoTIFF or JPEG 2000 file, and rights to it (AWS_* variables for s3://)"
        raise PairError(shown(href), f"it cannot be read ({cause})", remedy) from error
