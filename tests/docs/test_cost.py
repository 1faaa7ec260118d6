"""The table of costs is what the script makes, and its numbers are what they are said to be."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from tests.docs.commands import ROOT

SCRIPT = ROOT / "benchmarks/cost.py"


@pytest.fixture(scope="module")
def cost():
    spec = importlib.util.spec_from_file_location("cost", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cost"] = module  # dataclasses look there for the types of their fields
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cost"]


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def values(lines):
    return {line.name.replace("*", ""): line.value for line in lines}


def test_the_page_shows_what_the_script_prints():
    page = (ROOT / "docs/scale.md").read_text()
    _, _, rest = page.partition("<!-- made by: python benchmarks/cost.py --markdown -->\n")
    shown, _, _ = rest.partition("<!-- end -->")
    assert shown.strip() == run("--markdown").stdout.strip(), (
        "docs/scale.md is old: python benchmarks/cost.py --markdown"
    )


def test_rates_are_those_of_the_pages():
    scale, gpu = (ROOT / "docs/scale.md").read_text(), (ROOT / "docs/gpu.md").read_text()
    assert "| ResNet-50 | 4,322 | 3,729 |" in gpu
    for measured in ("| 290,017 / 289,867 |", "| 1,152 | 1,238 |", "| 15,368 pairs/s |", "1,117 pairs/s", "**7,823**"):
        assert measured in scale, measured


def test_it_is_quantities_times_rates_and_prices(cost):
    a = cost.Assumptions(train_pairs=1000, epochs=10, gpu_rate=10, scaling=0.5, gpus=4, gpu_hour=3, core_hour=0)
    a = replace(a, thousand_gets=0)
    train = values(cost.train(a))
    assert train["GPUs, H200"] == pytest.approx(10_000 / 5 / 3600)
    assert train["cost on H200s"] == pytest.approx(10_000 / 5 / 3600 * 3)
    serve = values(
        cost.serve(replace(a, serve_pairs=64e6, index_bytes=1000, shards=64, node_bytes=8e9, node_share=0.5))
    )
    assert (serve["a shard"], serve["shards a node"], serve["nodes"]) == (1.0, 4, 32)  # 64 × 2 replicas / 4
    assert serve["nodes, a month"] == 32 * a.serve_node_month
    with pytest.raises(SystemExit, match="does not fit"):
        cost.serve(replace(a, shards=1))


def test_every_number_is_an_argument_and_says_where_it_is_from(cost, tmp_path):
    names = [field.name for field in fields(cost.Assumptions)]
    arguments = [word for number, name in enumerate(names) for word in (f"--{name.replace('_', '-')}", number + 1)]
    file = tmp_path / "cost.json"
    done = run(*arguments, "--node-bytes", 1e30, "--json", file)
    assert done.returncode == 0, done.stderr
    told = json.loads(file.read_text())
    assert told["assumptions"] == {**{name: n + 1 for n, name in enumerate(names)}, "node_bytes": 1e30}
    assert all(row["unit"] is not None and row["how"] for row in told["rows"])
    for field in fields(cost.Assumptions):
        about = field.metadata
        assert about["source"], field.name
        if "$" in about["text"]:
            assert about["source"].startswith("EXAMPLE"), f"{field.name}: a price is an example"
    assert run("--gpu-hour", 0).returncode == 2
