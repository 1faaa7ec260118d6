"""What serves the page: its files, whole and unaltered, and the policy that it is sent with."""

from __future__ import annotations

import asyncio
import gzip
import json
import re

import httpx
import pytest
from fastapi import FastAPI

from serve.pages import WEB, page_policy, page_routes
from sscm.errors import ConfigError

TILES = "https://{s}.tiles.example.org/{z}/{x}/{y}.png"


def get(*paths, tiles=None, attribution=None, **headers):
    api = FastAPI(docs_url=None, redoc_url=None)
    api.include_router(page_routes(tiles, attribution))

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://gateway") as http:
            return [await http.get(path, headers=headers) for path in paths]

    return asyncio.run(run())


def test_the_page_loads_only_its_own_files_and_holds_neither_script_nor_style():
    [page] = get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    loaded = re.findall(r'(?:src|href)="(page/[^"]*)"', page.text)
    assert len(loaded) >= 9
    assert all(file.status_code == 200 for file in get(*(f"/{place}" for place in loaded)))
    assert "://" not in page.text
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page.text)  # its policy lets none of it run


def test_every_module_is_served_that_another_imports():
    modules = sorted((WEB / "scripts").glob("*.js"))
    imported = {name for module in modules for name in re.findall(r'from "\./([\w.]+)"', module.read_text())}
    files = get(*(f"/page/scripts/{name}" for name in sorted(imported)))
    assert [file.headers["content-type"].partition(";")[0] for file in files] == ["text/javascript"] * len(imported)
    assert {module.name for module in modules} == imported | {"main.js"}  # and none lies there for nothing


@pytest.mark.parametrize("encoding", ["gzip, br", "identity"])
def test_files_come_as_they_are_whatever_the_encoding(encoding):
    place = "vendor/world-atlas/countries-50m.json"
    [file] = get(f"/page/{place}", **{"Accept-Encoding": encoding})
    assert file.content == (WEB / place).read_bytes()
    assert file.headers.get("content-encoding") == ("gzip" if "gzip" in encoding else None)
    assert file.headers["vary"] == "Accept-Encoding"
    assert len(gzip.compress(file.content)) < 300_000  # what a browser waits for


def test_a_file_is_not_sent_again_to_who_has_it():
    place = "/page/scripts/main.js"
    [first] = get(place)
    assert first.headers["cache-control"] == "no-cache"
    [again] = get(place, **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    [other] = get(place, **{"If-None-Match": '"another"'})
    assert other.status_code == 200


@pytest.mark.parametrize("place", ["none.js", "../pages.py", "%2e%2e/pages.py", "scripts", "vendor/swagger/LICENSE"])
def test_nothing_else_is_served(place):
    assert get(f"/page/{place}")[0].status_code == 404


def test_vendored_files_come_with_their_licences():
    folders = [folder for folder in (WEB / "vendor").iterdir() if folder.is_dir()]
    assert {"leaflet", "topojson", "world-atlas"} <= {folder.name for folder in folders}
    for folder in folders:
        assert len((folder / "LICENSE").read_text()) > 500


def test_the_policy_lets_pictures_come_from_a_tile_server_and_from_nowhere_else():
    assert "img-src 'self' data: blob:;" in page_policy()
    hosts = " ".join(f"https://{part}.tiles.example.org" for part in "abc")
    assert page_policy(TILES).replace(f" {hosts}", "") == page_policy()
    assert page_policy("http://tiles.test:8080/{z}/{x}/{y}").count("http://tiles.test:8080") == 1
    assert page_policy("/tiles/{z}/{x}/{y}.png") == page_policy()
    page, settings = get("/", "/page/settings.json", tiles=TILES, attribution="© whom it may concern")
    assert page.headers["content-security-policy"] == page_policy(TILES)
    assert json.loads(settings.content) == {"tiles": TILES, "attribution": "© whom it may concern"}


@pytest.mark.parametrize(
    ("tiles", "complaint"),
    [
        ("https://tiles.example.org/{z}/{x}.png", r"lacks \{y\}"),
        ("tiles.example.org/{z}/{x}/{y}.png", "is no http or https URL"),
        ("//tiles.example.org/{z}/{x}/{y}.png", "is no http or https URL"),
        ("ftp://tiles.example.org/{z}/{x}/{y}.png", "is no http or https URL"),
        ("https://*;script-src */{z}/{x}/{y}.png", "is no http or https URL"),
        ("https://me:secret@tiles.example.org/{z}/{x}/{y}.png", "is no http or https URL"),
    ],
)
def test_templates_that_cannot_be_are_refused(tiles, complaint):
    with pytest.raises(ConfigError, match=complaint):
        page_routes(tiles)
