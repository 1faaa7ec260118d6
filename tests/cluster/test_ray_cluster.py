"""The cluster launcher's file is what Ray's own validation accepts, and its nodes are what the pages say."""

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import fillout_defaults

from sscm import cli, runtime
from sscm.version import code_version
from tests.plugins.hosts import SILENT

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


def validate(config):
    """What `ray up` does first: fill in the provider's defaults, then hold it against the schema."""
    jsonschema.validate(fillout_defaults(config), json.loads(SCHEMA.read_text()))


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


@pytest.fixture
def types(config):
    return config["available_node_types"]


def start(config, name):
    (line,) = [line for line in config[name] if "ray start" in line]
    return line


def test_it_is_valid_against_the_schema_in_rays_wheel(config):
    validate(config)


def test_a_misspelt_field_would_be_found(config):
    config["idle_timeout_minuets"] = 5
    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate(config)


def test_the_head_takes_no_work_and_every_node_has_a_role(config, types):
    head = config["head_node_type"]
    assert types[head]["resources"]["CPU"] == 0
    assert {name: node["labels"]["sscm/role"] for name, node in types.items()} == {
        "head": "head",
        "data": "data",
        "gpu": "gpu",
        "gpu-on-demand": "gpu",
        "serve": "serve",
    }


def test_no_node_carries_keys(config, types):
    for name, node in types.items():
        assert "IamInstanceProfile" in node["node_config"], name
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required", name
    assert not re.search(r"AKIA|aws_secret|aws_access|ssh_private_key", json.dumps(config), re.IGNORECASE)


def test_training_is_on_spot_nodes_and_falls_back_to_the_same_on_demand(types):
    spot, demand = types["gpu"], types["gpu-on-demand"]
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in demand["node_config"]
    assert spot["node_config"]["InstanceType"] == demand["node_config"]["InstanceType"]
    assert spot["priority"] > demand["priority"]
    assert "InstanceMarketOptions" not in types["serve"]["node_config"]


def test_no_limit_is_above_the_clusters(config, types):
    assert all(node.get("max_workers", 0) <= config["max_workers"] for node in types.values())
    assert config["idle_timeout_minutes"] > 0


@pytest.mark.parametrize("name", STARTS)
def test_every_node_starts_with_the_environment_of_a_ray_of_our_own(config, name):
    given = dict(word.split("=", 1) for word in start(config, name).split() if word.startswith("RAY_"))
    assert {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"} <= given.keys()
    assert given.items() <= runtime._ENVIRONMENT.items()


def test_all_nodes_take_over_how_long_a_silent_host_is_waited_for(config):
    assert f"--system-config={SILENT}" in shlex.split(start(config, STARTS[0]))


def test_the_dashboard_which_runs_code_is_not_open(config):
    assert "--dashboard-host=127.0.0.1" in start(config, STARTS[0])


def test_the_image_is_this_version_and_commands_can_run_again(config):
    assert config["docker"]["image"] == f"REGISTRY/sscm:{code_version()}-cuda"
    commands = "\n".join(config["initialization_commands"] + config["setup_commands"])
    assert ">>" not in commands, "a second run would append again"


def test_every_node_passes_on_the_notice_of_a_spot_machine(config, monkeypatch):
    (command,) = [line for line in config["worker_start_ray_commands"] if "sscm" in line]
    words = shlex.split(command.split(">")[0].replace("$RAY_HEAD_IP", "10.0.0.1"))
    assert words[:2] == ["nohup", "sscm"] and command.endswith("&")
    taken = []
    monkeypatch.setattr("sscm.spot.wait_and_tell", taken.append)
    assert cli.main(words[2:]) == 0
    assert taken[0].address == "10.0.0.1:6379" and taken[0].node_id is None
