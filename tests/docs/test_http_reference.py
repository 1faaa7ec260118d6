"""The page of the HTTP API is what the service's own description says."""

import importlib.util
import re

import pytest

from tests.docs.commands import ROOT

SCRIPT = ROOT / "docs/scripts/http_reference.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("http_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def document(script):
    return script.document()


def test_the_page_is_not_old(script, document):
    message = "docs/http-reference.md is old: python docs/scripts/http_reference.py"
    assert script.PAGE.read_text("utf-8") == script.page(document), message


def test_every_operation_and_schema_is_on_it(script, document):
    page = script.page(document)
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"\n### {method.upper()} {path}\n" in page
    for name, schema in document["components"]["schemas"].items():
        if not name.startswith("Body_"):
            assert f"\n### {name}\n" in page
        for field in schema.get("properties", {}):
            assert f"| `{field}`" in page, (name, field)


def test_a_change_of_the_api_changes_the_page(script, document):
    operation = document["paths"]["/v1/items"]["get"]
    other = {**operation, "parameters": operation["parameters"][1:]}
    changed = {**document, "paths": {**document["paths"], "/v1/items": {"get": other}}}
    assert script.page(changed) != script.page(document)
    unknown = {**document, "paths": {"/new": {"get": {**operation, "tags": ["new"]}}}}
    with pytest.raises(SystemExit, match="new"):
        script.page(unknown)


def test_tables_have_as_many_cells_in_each_line(script, document):
    for table in re.findall(r"(?:^\|.*\n)+", script.page(document), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
