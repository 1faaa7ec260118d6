"""The API's description: everything that its page loads comes from this service."""

from __future__ import annotations

import asyncio
import re

import httpx
from fastapi import FastAPI

from serve.reference import add_reference, describe_keys


def get(*paths, keys=False):
    api = FastAPI(docs_url=None, redoc_url=None)
    add_reference(api)

    @api.get("/v1/model")
    async def model():
        return {}

    @api.get("/livez")
    async def livez():
        return {}

    if keys:
        describe_keys(api)

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://gateway") as http:
            return [await http.get(path) for path in paths]

    return asyncio.run(run())


def test_the_page_loads_nothing_from_elsewhere():
    [page] = get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert all(not re.match(r"\w+://|//", place) for place in loaded)
    assert "<script>" not in page.text  # its policy would not let it run
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "http" not in policy
    files = get(*(f"/{place}" for place in loaded if not place.startswith("data:")))
    assert [file.status_code for file in files] == [200] * 3
    kinds = [file.headers["content-type"].partition(";")[0] for file in files]
    assert kinds == ["text/css", "text/javascript", "text/javascript"]
    style, bundle, start = files
    assert "http" not in style.text.replace("http://www.w3.org", "")
    assert "SwaggerUIBundle" in bundle.text
    assert "openapi.json" in start.text


def test_the_vendored_files_come_with_their_licence():
    from serve import reference

    folder = reference.Path(reference.__file__).parent / "web" / "vendor" / "swagger"
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert (folder / "swagger-ui-bundle.js.LICENSE.txt").exists()


def test_keys_are_described_where_they_are_wanted():
    [plain] = get("/openapi.json")
    assert "security" not in plain.json()
    described, again = get("/openapi.json", "/openapi.json", keys=True)
    assert described.json() == again.json()
    assert described.json()["security"] == [{"bearer": []}, {"header": []}]
    assert described.json()["components"]["securitySchemes"]["header"]["name"] == "X-API-Key"
    assert described.json()["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in described.json()["paths"]["/v1/model"]["get"]
