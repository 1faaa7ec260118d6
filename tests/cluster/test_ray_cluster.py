"""The cluster launcher's file is what Ray's own validation accepts, and says what the pages say."""

import json
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import fillout_defaults

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"


def validate(config):
    """What `ray up` does first: fill in the provider's defaults, then hold it against the schema."""
    jsonschema.validate(fillout_defaults(config), json.loads(SCHEMA.read_text()))


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_it_is_valid_against_the_schema_in_rays_wheel(config):
    validate(config)


def test_a_misspelt_field_would_be_found(config):
    config["idle_timeout_minuets"] = 5
    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate(config)


def test_the_head_takes_no_work_and_no_node_carries_keys(config):
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    for node in types.values():
        assert "IamInstanceProfile" in node["node_config"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_every_node_starts_with_the_fast_path_of_serve(config):
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = next(line for line in config[name] if "ray start" in line)
        assert "RAY_SERVE_ENABLE_HA_PROXY=1" in start and "RAY_SERVE_THROUGHPUT_OPTIMIZED=1" in start


def test_what_it_copies_is_there(config):
    for source in config["file_mounts"].values():
        assert (ROOT / source).exists(), f"{source} is copied to the nodes but is not in the project"
