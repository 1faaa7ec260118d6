"""Asking the HTTP service: search by an image file or by an indexed item, from Python or the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sscm.errors import ServiceError

URL = "http://127.0.0.1:8000"
"""Where `sscm serve` listens by default."""
TIMEOUT_S = 30.0
"""Longest wait for an answer, seconds: above the service's own deadline, whose message says more."""
ATTEMPTS = 4
"""Requests in all where the service is overloaded or just starting."""
FIRST_WAIT_S = 0.25
"""Seconds before the second request; doubled each time, unless the service says how long to wait."""
LONGEST_WAIT_S = 5.0
"""Longest wait before another request, whatever the service says."""

_PASSING = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)


def search_image(
    files: Sequence[str | Path],
    *,
    modality: str,
    target: str,
    url: str = URL,
    limit: int = 10,
    filters: Mapping[str, Any] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Find the images of one modality that are most similar to an image of another.

    Args:
        files: the image: GeoTIFFs (one, or one a band with names that end in ``_B02.tif``), an ``.npz`` with an array a
            band group, an ``.npy``, or a PNG for 8-bit modalities.
        modality: what the image is of.
        target: modality searched.
        url: where the service is.
        limit: answers wanted.
        filters: ``bbox``, ``intersects``, ``datetime``, ``ids``, ``labels``, ``split``; what is left out does not
            restrict.
        timeout_s: longest wait for one answer, seconds.

    Returns:
        GeoJSON FeatureCollection of STAC Items, best first; each has ``properties.score``, a cosine similarity.

    Raises:
        ServiceError: a file cannot be read, no service answers, or it refuses; the message says why.
    """
    try:
        uploads = [("files", (Path(file).name, Path(file).read_bytes())) for file in files]
    except OSError as error:
        raise ServiceError(f"cannot read {error.filename}: {error.strerror}") from error
    if not uploads:
        raise ServiceError("no file given; expected the image to search by")
    form = {"modality": modality, "target": target, "limit": str(limit)}
    if filters:
        form["filters"] = json.dumps(dict(filters))
    return _ask(lambda client: client.post("/v1/search/image", files=uploads, data=form), url, timeout_s)


def search_id(
    pair_id: str,
    *,
    modality: str,
    target: str,
    url: str = URL,
    limit: int = 10,
    filters: Mapping[str, Any] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Find the images of one modality that are most similar to an indexed image; see :func:`search_image`.

    Args:
        pair_id: the indexed pair whose image of ``modality`` is the example.
        modality: which of its images.
        target: modality searched. Where it is the same, the pair itself is left out.
        url: where the service is.
        limit: answers wanted.
        filters: as for :func:`search_image`.
        timeout_s: longest wait for one answer, seconds.
    """
    body = {**(filters or {}), "id": pair_id, "modality": modality, "target": target, "limit": limit}
    return _ask(lambda client: client.post("/v1/search", json=body), url, timeout_s)


def print_answers(collection: Mapping[str, Any], console: Console | None = None) -> None:
    """Print answers as a table: rank, id, score, labels, time, place.

    Args:
        collection: what a search returned.
        console: where to; the standard output by default.
    """
    console = console or Console()
    about = collection["sscm"]
    title = f"{collection['numberReturned']} of {collection['numberMatched']:,} {about['target']} images"
    table = Table(title=title, title_justify="left")
    table.add_column("", justify="right")
    table.add_column("id")
    table.add_column("score", justify="right")
    for name in ("labels", "time", "place"):
        table.add_column(name)
    for rank, item in enumerate(collection["features"], start=1):
        properties = item["properties"]
        table.add_row(
            str(rank),
            escape(item["id"]),
            f"{properties['score']:.4f}",
            escape(", ".join(properties.get("labels") or ())),
            properties.get("datetime") or "",
            _place(item.get("bbox")),
        )
    console.print(table)
    if about.get("simulated"):
        console.print("The images are simulated: nothing here was observed.")
    if not about.get("complete", True):
        console.print("Some index shards did not answer: there may be better answers. Ask again in a moment.")


def _place(bbox: Sequence[float] | None) -> str:
    """The middle of a footprint, degrees."""
    if not bbox:
        return ""
    west, south, east, north = bbox
    latitude, longitude = (south + north) / 2, (west + east) / 2
    return (
        f"{abs(latitude):.3f}° {'N' if latitude >= 0 else 'S'}, {abs(longitude):.3f}° {'E' if longitude >= 0 else 'W'}"
    )


def _ask(request: Callable[[httpx.Client], httpx.Response], url: str, timeout_s: float) -> dict[str, Any]:
    """Send a request, again where the service is overloaded or not up yet, a bounded number of times."""
    try:
        client = httpx.Client(base_url=url, timeout=timeout_s)
    except (httpx.InvalidURL, ValueError) as error:
        raise ServiceError(f"{url!r} is no URL ({error}); expected one like {URL}") from error
    with client:
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            wait = FIRST_WAIT_S * 2**attempt
            try:
                response = request(client)
            except httpx.ConnectError as error:
                if last:
                    raise ServiceError(f"no server answers at {url}; start one with `sscm serve`") from error
            except httpx.TimeoutException as error:
                raise ServiceError(f"{url} did not answer within {timeout_s:g} s; ask again, or for less") from error
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise ServiceError(f"{url}: {error}; expected an sscm service, such as {URL}") from error
            else:
                if response.status_code not in _PASSING or last:
                    return _told(response, url)
                wait = _wished(response, wait)
            time.sleep(min(wait, LONGEST_WAIT_S))
    raise ServiceError(f"no server answers at {url}; start one with `sscm serve`")


def _wished(response: httpx.Response, wait: float) -> float:
    """Seconds that the service wants to be left alone, or those given where it does not say."""
    told = response.headers.get("Retry-After", "")
    return float(told) if told.isdigit() else wait


def _told(response: httpx.Response, url: str) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and response.is_success and "features" in body:
        return body
    if isinstance(body, dict) and "detail" in body:
        raise ServiceError(f"{url} answered {response.status_code}: {body['detail']}")
    raise ServiceError(
        f"{url} answered {response.status_code} with {response.text[:80]!r}, not as an sscm service does; "
        "check the URL, or start a service with `sscm serve`"
    )
