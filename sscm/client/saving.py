"""Answers kept in a folder: a GeoJSON file, and the images found beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sscm.client.answers import Answers, Hit
from sscm.client.synchronous import Client
from sscm.errors import WorkspaceError

ANSWERS = "answers.geojson"
"""Name of the file of all answers."""


def require_empty(folder: Path) -> None:
    """Check that a folder holds nothing: pictures of another search would be taken for answers of this one.

    Raises:
        WorkspaceError: it holds something, or is no folder.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise WorkspaceError(f"{folder} is not empty; expected a new or empty folder to save to")
    except OSError as error:
        raise WorkspaceError(f"cannot save to {folder}: {error.strerror}; expected a folder") from error


def save_answers(answers: Answers[Hit], folder: Path, client: Client) -> int:
    """Write answers as GeoJSON, and the picture of each image found.

    Args:
        answers: what a search returned.
        folder: where to; made if it is not there.
        client: client of the service that answered.

    Returns:
        How many answers have no picture. In the GeoJSON, the pictures written are named relative to it, and what else
        the service named, by its whole URL.

    Raises:
        ServiceError: the service does not answer any more.
        WorkspaceError: the folder cannot be written.
    """
    features, missing = [], 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for rank, hit in enumerate(answers, start=1):
            asset = f"preview_{hit.target}"
            assets = {name: _whole(about, client.url) for name, about in dict(hit.stac.get("assets") or {}).items()}
            if asset in assets:
                name = f"{rank:04d}_{re.sub(r'[^A-Za-z0-9._-]', '_', hit.id)[:100]}_{hit.target}.jpg"
                (folder / name).write_bytes(client.preview(hit.id, hit.target))
                assets[asset]["href"] = f"./{name}"
            else:
                missing += 1
            links = [_whole(link, client.url) for link in hit.stac.get("links") or ()]
            features.append({**hit.stac, "assets": assets, "links": links})
        collection = {**answers.collection, "features": features, "links": []}
        (folder / ANSWERS).write_text(json.dumps(collection, indent=1), "utf-8")
    except OSError as error:
        raise WorkspaceError(f"cannot save to {folder}: {error.strerror}") from error
    return missing


def _whole(about: Mapping[str, Any], url: str) -> dict[str, Any]:
    """A link or an asset with the service's URL before its path."""
    href = str(about.get("href", ""))
    return {**about, "href": f"{url}{href}" if href.startswith("/") else href}
