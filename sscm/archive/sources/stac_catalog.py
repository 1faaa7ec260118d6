"""Items of a static STAC catalogue: walked by its links, or read from a file or a folder of GeoJSON.

Specification: STAC 1.1 (https://github.com/radiantearth/stac-spec); pystac brings older versions up to it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pystac
from pystac.errors import STACError

from sscm.archive.sources.folders import absolute, entries, join, local_path, read_bytes
from sscm.errors import ArchiveError

THREADS = 16
"""Small files read at a time: mostly waiting for the storage."""
ROOTS = ("catalog.json", "collection.json")
"""What a folder is walked from where it holds one of them, by the names that the specification recommends."""
_ENDINGS = (".json", ".geojson")
_CONTAINERS = ("Catalog", "Collection")
_FOLLOWED = ("child", "item")

logger = logging.getLogger(__name__)


def read_items(where: str) -> list[pystac.Item]:
    """All items below a path or URI, each once, sorted by id.

    Links are resolved from where a file was read, not from the ``self`` link that stands in it, so that a catalogue
    that was copied is read from its copy. Relative asset hrefs start from the file that the item stands in.

    Args:
        where: a catalogue, a collection, an item or an ItemCollection as a JSON file; or a folder: one with a
            ``catalog.json`` or ``collection.json`` is walked from there, of any other all items in ``.json`` and
            ``.geojson`` files are taken, at any depth. ``http(s)://`` is always a file.

    Returns:
        Items whose asset hrefs are absolute.

    Raises:
        ArchiveError: no such file, not JSON, not STAC, a link into nothing, no items.
        WorkspaceError: the storage cannot be reached.
    """
    where = absolute(where)
    with ThreadPoolExecutor(THREADS) as pool:
        items = _of_folder(where, pool) if _is_folder(where) else _of_files([where], pool, required=True)
    if not items:
        raise ArchiveError(
            f"{where}: no items in it; expected a STAC catalogue or collection with links to items, an ItemCollection, "
            "or a folder of items. What an API finds is first saved as an ItemCollection"
        )
    unique = {json.dumps([item.id, _hrefs(item)]): item for item in items}  # two catalogues may link to one item
    return sorted(unique.values(), key=lambda item: item.id)


def _is_folder(where: str) -> bool:
    local = local_path(where)
    if local is not None:
        return os.path.isdir(local)
    return not where.startswith(("http://", "https://")) and not where.endswith(_ENDINGS)


def _of_folder(folder: str, pool: ThreadPoolExecutor) -> list[pystac.Item]:
    try:
        found = entries(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArchiveError(f"{folder}: no such folder; expected a STAC catalogue, or a folder of items") from error
    roots = [entry.name for entry in found if entry.name in ROOTS]
    if roots:
        return _of_files([join(folder, roots[0])], pool, required=True)
    files = [join(folder, e.name) for e in found if not e.is_folder and e.name.lower().endswith(_ENDINGS)]
    items = _of_files(files, pool, required=False)
    for entry in found:
        if entry.is_folder:
            items += _of_folder(join(folder, entry.name), pool)
    return items


def _of_files(hrefs: Iterable[str], pool: ThreadPoolExecutor, required: bool) -> list[pystac.Item]:
    """Items of files and of what they link to, level by level, so that the files of a level are read at once."""
    items: list[pystac.Item] = []
    seen: set[str] = set()
    level = list(dict.fromkeys(hrefs))
    while level:
        seen.update(level)
        following: list[str] = []
        for href, document in zip(level, pool.map(_read_json, level), strict=True):
            if _is_item(document):
                items.append(_item(document, href))
            elif document.get("type") == "FeatureCollection" and isinstance(document.get("features"), list):
                items += [_item(feature, href) for feature in document["features"] if _is_item(feature)]
                if any(link.get("rel") == "next" for link in document.get("links", [])):
                    logger.warning("%s is one page of a search; the pages after it are not read", href)
            elif document.get("type") in _CONTAINERS or ("stac_version" in document and "links" in document):
                following += _links(document, href)
            elif required:
                keys = sorted(document)[:10]
                raise ArchiveError(
                    f"{href}: JSON with keys {keys}; expected a STAC catalogue, collection, item or ItemCollection"
                )
        level = [href for href in dict.fromkeys(following) if href not in seen]
        required = True  # what is linked to must be STAC; what merely lies in a folder need not
    return items


def _read_json(href: str) -> dict[str, Any]:
    try:
        document = json.loads(read_bytes(href))
    except FileNotFoundError as error:
        raise ArchiveError(
            f"{href}: no such file; expected a STAC catalogue, or what one links to: copy it whole, with its items"
        ) from error
    except OSError as error:
        raise ArchiveError(f"{href}: it cannot be read ({error}); check the rights to it") from error
    except ValueError as error:
        raise ArchiveError(f"{href}: not JSON ({error}); copy or download it again") from error
    if not isinstance(document, dict):
        raise ArchiveError(f"{href}: a JSON {type(document).__name__}; expected a JSON object")
    return document


def _is_item(document: Any) -> bool:
    return isinstance(document, dict) and document.get("type") == "Feature" and "assets" in document


def _item(document: dict[str, Any], href: str) -> pystac.Item:
    # Without links pystac asks nothing of the network, and every relative href starts from the file itself.
    whole = {"stac_version": "1.0.0", **document, "links": []}
    try:
        item = pystac.read_dict(whole, href=href)
        if not isinstance(item, pystac.Item):
            raise ValueError(f"a {type(item).__name__}")
        item.set_self_href(href)
        item.make_asset_hrefs_absolute()
    except (STACError, AttributeError, KeyError, TypeError, ValueError) as error:
        name = document.get("id", "?")
        raise ArchiveError(
            f"{href}: item {name} is not valid STAC ({error!r}); expected id, geometry, assets and "
            "properties with a datetime"
        ) from error
    return item


def _links(document: dict[str, Any], href: str) -> list[str]:
    links = [link for link in document.get("links", []) if isinstance(link, dict) and link.get("rel") in _FOLLOWED]
    return [pystac.utils.make_absolute_href(str(link.get("href", "")), href) for link in links]


def _hrefs(item: pystac.Item) -> list[str]:
    return [urlsplit(asset.href)._replace(query="").geturl() for asset in item.assets.values()]
