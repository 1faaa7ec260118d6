"""Items of catalogues, collections, ItemCollections and folders, and what is said where there are none."""

from __future__ import annotations

import json
import shutil

import pystac
import pytest

from sscm.archive.sources.stac_catalog import read_items
from sscm.errors import ArchiveError
from tests.plugins.stac import TAKEN, make_item

SQUARE = {"type": "Polygon", "coordinates": [[[13, 47], [14, 47], [14, 48], [13, 48], [13, 47]]]}


def item_of(name, href="B02.tif"):
    item = make_item(name, SQUARE, TAKEN, "sentinel-2-l2a", {})
    item.add_asset("B02", pystac.Asset(href))
    return item


def nested(folder):
    """A catalogue with a collection of two items, one item of its own, and a link around in a circle."""
    extent = pystac.Extent(
        pystac.SpatialExtent([[13, 47, 14, 48]]), pystac.TemporalExtent.from_dict({"interval": [[None, None]]})
    )
    collection = pystac.Collection("optical", "Optical images", extent)
    catalog = pystac.Catalog("all", "All images")
    catalog.add_child(collection)
    catalog.add_item(item_of("c"))
    collection.add_items([item_of("b"), item_of("a")])
    catalog.normalize_hrefs(str(folder))
    catalog.save(pystac.CatalogType.ABSOLUTE_PUBLISHED)
    path = folder / "optical" / "collection.json"
    document = json.loads(path.read_text())
    document["links"].append({"rel": "child", "href": "../catalog.json"})
    path.write_text(json.dumps(document))
    return folder


def relative(folder):
    """The catalogue with relative links to children and items; its self links still name where it was made."""
    for path in folder.rglob("*.json"):
        document = json.loads(path.read_text())
        for link in document["links"]:
            if link["rel"] in ("child", "item"):
                link["href"] = link["href"].replace(str(path.parent), ".")
        path.write_text(json.dumps(document))


@pytest.mark.parametrize("start", ["", "catalog.json", "optical/collection.json"])
def test_links_are_followed_once(tmp_path, start):
    items = read_items(str(nested(tmp_path) / start))
    assert [item.id for item in items] == ["a", "b", "c"]
    assert items[0].assets["B02"].href == str(tmp_path / "optical" / "a" / "B02.tif")
    assert [item.collection_id for item in items[:2]] == ["optical", "optical"]


def test_a_copy_is_read_from_the_copy(tmp_path):
    relative(nested(tmp_path / "made"))
    shutil.move(tmp_path / "made", tmp_path / "copied")
    items = read_items(str(tmp_path / "copied"))
    assert [item.assets["B02"].href for item in items] == [
        str(tmp_path / "copied" / place / "B02.tif") for place in ("optical/a", "optical/b", "c")
    ]


def test_item_collection(tmp_path, caplog):
    features = [item_of("b").to_dict(), item_of("a", "s3://bucket/a/B02.tif").to_dict()]
    links = [{"rel": "next", "href": "https://example.com/next"}]
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, "links": links}))
    items = read_items(str(path))
    assert [item.assets["B02"].href for item in items] == ["s3://bucket/a/B02.tif", str(tmp_path / "B02.tif")]
    assert "one page of a search" in caplog.text


def test_folder_of_items(tmp_path):
    for name, ending in (("x/a", "json"), ("b", "geojson")):
        path = tmp_path / f"{name}.{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(item_of(path.stem).to_dict()))
    (tmp_path / "x" / "about.json").write_text('{"author": "somebody"}')
    (tmp_path / "x" / "B02.tif").write_bytes(b"")
    assert [item.id for item in read_items(str(tmp_path))] == ["a", "b"]
    assert [item.id for item in read_items(str(tmp_path / "b.geojson"))] == ["b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", None, "c.json: no such file; expected a STAC catalogue"),
        ("c.json", "{", "not JSON"),
        ("c.json", "[]", "a JSON list; expected a JSON object"),
        ("c.json", '{"author": "somebody"}', r"JSON with keys \['author'\]; expected a STAC catalogue"),
        ("c.json", '{"type": "FeatureCollection", "features": []}', "no items in it"),
        ("c.json", '{"type": "Catalog", "links": [{"rel": "item", "href": "a.json"}]}', "a.json: no such file"),
        ("c.json", '{"type": "Feature", "assets": {}, "properties": {}}', "item . is not valid STAC .* expected id"),
        ("", None, "no items in it"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArchiveError, match=message):
        read_items(str(path))
