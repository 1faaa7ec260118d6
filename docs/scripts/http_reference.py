"""The page of the HTTP API, made of the OpenAPI document that a gateway serves.

Run: ``python docs/scripts/http_reference.py``; it writes ``docs/http-reference.md``. A test says when that is old.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serve.gateway import Gateway
from serve.guard import Rules
from serve.reference import describe_keys
from serve.routes import build_api

PAGE = Path(__file__).resolve().parents[1] / "http-reference.md"
SCHEMAS = "#/components/schemas/"
GROUPS = {"search": "Search", "items": "Items", "about": "About", "operation": "Operation"}
HEAD = """# HTTP reference

<!-- Made by: python docs/scripts/http_reference.py -->

Made of the OpenAPI {openapi} document that a service of version {version} answers at `/openapi.json`; its `/docs` lets
you try each route. With words and examples: [search](search.md), [uploads](uploads.md), [clients](client.md). Where the
service has keys, one is sent as `Authorization: Bearer KEY` or `X-API-Key: KEY`; only `/livez` and `/readyz` want none
([keys, limits and logs](access.md)).
"""


def document() -> dict[str, Any]:
    """The OpenAPI document of a gateway that asks for keys."""
    gateway = Gateway(
        coordinator=None, encoders={}, shards=[], deadline_s=10, max_upload_bytes=64_000_000, rules=Rules()
    )
    api = build_api(gateway)
    describe_keys(api)
    return api.openapi()


def page(spec: dict[str, Any]) -> str:
    """The page."""
    operations = [
        (method.upper(), path, operation)
        for path, found in spec["paths"].items()
        for method, operation in found.items()
    ]
    common = set.intersection(*(set(operation["responses"]) for _, _, operation in operations)) - {"200"}
    parts = [HEAD.format(openapi=spec["openapi"], version=spec["info"]["version"])]
    for tag, title in GROUPS.items():
        parts.append(f"## {title}\n")
        for method, path, operation in operations:
            if operation["tags"] == [tag]:
                parts += _operation(method, path, operation, spec, common)
    unknown = {operation["tags"][0] for _, _, operation in operations} - set(GROUPS)
    if unknown:
        raise SystemExit(f"operations of groups {sorted(unknown)}: name them in {__file__}")
    parts += _problems(operations, common)
    parts.append("## Schemas\n")
    for name, schema in sorted(spec["components"]["schemas"].items()):
        if not name.startswith("Body_"):
            parts += _schema(name, schema)
    return "\n".join(parts).rstrip() + "\n"


def _operation(method: str, path: str, operation: dict[str, Any], spec: dict[str, Any], common: set[str]) -> list[str]:
    parts = [f"### {method} {path}\n", operation.get("description", "") + "\n"]
    parameters = operation.get("parameters", ())
    if parameters:
        rows = [
            (f"`{p['name']}`", p["in"] + (", required" if p.get("required") else ""), _type(p["schema"]), _text(p))
            for p in parameters
        ]
        parts += _table(("parameter", "in", "type", ""), rows)
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        name = schema.get("$ref", "").removeprefix(SCHEMAS)
        if name.startswith("Body_"):  # a form has no name that anyone would use
            parts.append(f"Body, `{media}`:\n")
            parts += _fields(spec["components"]["schemas"][name])
        else:
            parts.append(f"Body, `{media}`: {_type(schema)}\n")
        if "example" in content:
            parts += [f"For example:\n\n```json\n{json.dumps(content['example'], indent=2)}\n```\n"]
    rows = []
    for status, response in sorted(operation["responses"].items()):
        if status in common:
            continue
        for media, content in response.get("content", {"": {}}).items():
            said = response["description"].replace("Successful Response", "")
            kind = _type(content["schema"]) if content.get("schema") else ""
            rows.append((status, f"`{media}`" if media else "", kind, said))
    return parts + _table(("status", "answer", "type", ""), rows)


def _problems(operations: list[tuple[str, str, dict[str, Any]]], common: set[str]) -> list[str]:
    answers = operations[0][2]["responses"]
    parts = ["## Problems\n", f"Every route may answer these, as `application/problem+json`: {_link('Problem')}.\n"]
    return parts + _table(("status", ""), [(status, answers[status]["description"]) for status in sorted(common)])


def _schema(name: str, schema: dict[str, Any]) -> list[str]:
    parts = [f"### {name}\n", schema.get("description", "").strip() + "\n"]
    parts += _fields(schema)
    for example in schema.get("examples", ()):
        parts += [f"For example:\n\n```json\n{json.dumps(example, indent=2)}\n```\n"]
    return parts


def _fields(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required", ())
    rows = [
        (f"`{name}`" + (", required" if name in required else ""), _type(about), _text(about))
        for name, about in schema.get("properties", {}).items()
    ]
    return _table(("field", "type", ""), rows) if rows else []


def _text(about: dict[str, Any]) -> str:
    schema = about.get("schema", about)
    parts = [about.get("description") or next((s["description"] for s in _some(schema) if "description" in s), "")]
    if schema.get("default") not in (None, [], {}):
        parts.append(f"default `{schema['default']}`")
    limits = {"minimum": "≥", "maximum": "≤", "minItems": "at least", "maxItems": "at most"}
    parts += [f"{word} {found[key]:g}" for found in _some(schema) for key, word in limits.items() if key in found]
    parts += [f"e.g. `{example}`" for example in schema.get("examples", ())[:2] if not isinstance(example, dict | list)]
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _some(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [schema, *schema.get("anyOf", ())]


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _link(schema["$ref"].removeprefix(SCHEMAS))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"] if one.get("type") != "null"))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if schema.get("items") else "list"
    if "contentMediaType" in schema or schema.get("format") == "binary":
        return "file"
    return str(schema.get("type", "any JSON"))


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |" for row in rows]
    return ["\n".join(lines) + "\n"]


if __name__ == "__main__":
    PAGE.write_text(page(document()), "utf-8")
