"""The API's description is one that tools can read, and says what bodies and answers are."""

from __future__ import annotations

import asyncio

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from serve.api import BatchRequest, SearchRequest
from serve.gateway import Gateway
from serve.guard import Rules
from serve.routes import build_api
from tests.plugins.service import Local, compose

JSON = "application/json"
GEOJSON = "application/geo+json"
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def document():
    gateway = Gateway(
        coordinator=Local(None), encoders={}, shards=[], deadline_s=1, max_upload_bytes=10, rules=Rules(local=True)
    )
    api = build_api(gateway)
    first = api.openapi()
    assert api.openapi() == first  # the second time as the first
    return first


def operations(document):
    return [
        (method, path, operation) for path, found in document["paths"].items() for method, operation in found.items()
    ]


def posts(document):
    """Those that take a body: path → media type → its description."""
    return {
        path: operation["requestBody"]["content"]
        for method, path, operation in operations(document)
        if method == "post" and path != "/v1/admin/reload"
    }


def resolved(document, schema):
    """A schema with what it refers to beside it, as a validator wants it."""
    return {**schema, "components": document["components"]}


def examples(document, content):
    """Examples of a body: its own, or those of its schema."""
    if "example" in content:
        return [content["example"]]
    name = content["schema"]["$ref"].rpartition("/")[2]
    return document["components"]["schemas"][name]["examples"]


def test_it_is_openapi_3_1(document):
    assert document["openapi"].startswith("3.1.")
    errors = list(OpenAPIV31SpecValidator(document).iter_errors())
    assert errors == []


def test_every_body_has_a_schema_and_examples_that_fit_it(document):
    forms = {"/v1/search/image", "/v1/embed"}
    bodies = posts(document)
    assert set(bodies) == {"/v1/search", "/v1/search/batch"} | forms
    for path, content in bodies.items():
        [(media_type, body)] = content.items()
        assert media_type == ("multipart/form-data" if path in forms else JSON)
        given = examples(document, body)
        assert given
        for example in given:
            jsonschema.validate(example, resolved(document, body["schema"]), cls=jsonschema.Draft202012Validator)
    for model, path in ((SearchRequest, "/v1/search"), (BatchRequest, "/v1/search/batch")):
        for example in examples(document, bodies[path][JSON]):
            model.model_validate(example)


def test_a_body_that_does_not_fit_its_schema_is_told_from_one_that_does(document):
    schema = resolved(document, posts(document)["/v1/search/batch"][JSON]["schema"])
    good = {"id": "a", "modality": "s1", "target": ["s1", "s2"], "filter-lang": "cql2-text", "filter": "id = 'a'"}
    jsonschema.validate({"searches": [good]}, schema, cls=jsonschema.Draft202012Validator)
    for wrong in ({**good, "colour": 1}, {**good, "limit": 0}, {**good, "target": []}, {"id": "a"}, 3):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"searches": [wrong]}, schema, cls=jsonschema.Draft202012Validator)


def test_answers_are_told_with_their_media_types(document):
    for method, path, operation in operations(document):
        answers = operation["responses"]
        assert "422" not in answers  # it is a 400
        for status, answer in answers.items():
            media_types = set(answer.get("content", {}))
            if (path, status) == ("/readyz", "503"):
                assert media_types == {JSON}  # it tells each part
            elif int(status) >= 400:
                assert media_types == {PROBLEM}, (method, path, status)
        good = set(answers["200"]["content"])
        if path.endswith(("/similar", "/search", "/image", "/items", "/items/{pair_id}")):
            assert good == {GEOJSON}, path
        if path in ("/livez", "/metrics"):
            assert good == {"text/plain"}
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])


def test_what_the_examples_ask_for_is_answered(document, indexed):
    async def run():
        service = await compose(indexed.workspace, shards=2)
        transport = httpx.ASGITransport(build_api(service.gateway))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                return [
                    (example, await http.post(path, json=example))
                    for path, content in posts(document).items()
                    if JSON in content
                    for example in examples(document, content[JSON])
                ]
        finally:
            service.stop()

    answers = asyncio.run(run())
    assert len(answers) == 3
    for example, response in answers:
        assert response.status_code == 200, response.text
        for result in response.json().get("results", [response.json()]):
            assert result["features"], example
