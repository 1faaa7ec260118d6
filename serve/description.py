"""What ``/openapi.json`` says that FastAPI cannot know: bodies that it does not read, and how answers are typed."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from serve.api import GEOJSON, PROBLEM, BatchRequest, SearchRequest

JSON = "application/json"
_BODIES: dict[str, type[BaseModel]] = {"BatchRequest": BatchRequest, "SearchRequest": SearchRequest}
_MEDIA_TYPES = {"Collection": GEOJSON, "Problem": PROBLEM}


def describe(api: FastAPI) -> None:
    """Have an application's description say what its routes do.

    Args:
        api: the application; a route names the body that it reads itself as ``x-body``.
    """
    plain = api.openapi

    def described() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for path in document["paths"].values():
            for operation in path.values():
                _describe_body(operation, schemas)
                _describe_answers(operation["responses"])
        batch = schemas["BatchRequest"]["properties"]["searches"]  # each is read by itself, so that one that is wrong
        batch["items"] = _reference("SearchRequest")  # leaves the others alone
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        return document

    api.openapi = described  # type: ignore[method-assign]


def _describe_body(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    name = operation.pop("x-body", None)
    if name is not None:
        schema = _BODIES[name].model_json_schema(ref_template=_reference("{model}")["$ref"])
        schemas.update(schema.pop("$defs", {}))
        schemas[name] = schema
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": _reference(name)}}}


def _describe_answers(responses: dict[str, Any]) -> None:
    responses.pop("422", None)  # what FastAPI finds wrong is told as a 400
    for response in responses.values():
        content = response.get("content", {})
        for told, body in list(content.items()):
            media_type = _MEDIA_TYPES.get(body.get("schema", {}).get("$ref", "").rpartition("/")[2], told)
            content[media_type] = content.pop(told)


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
