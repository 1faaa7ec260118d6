"""What Ray's autoscaler decides with the node types of ``ray_cluster.yaml``, their resources scaled down.

Its own classes for the decisions, and for the whole way a head whose cloud gives raylets of one host.
"""

import json
import re

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.autoscaler._private.util import fillout_defaults
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import LABEL_OPERATOR_IN
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

from sscm.placement import LABEL
from sscm.workspace import open_workspace
from tests.plugins.hosts import BIN, ROOT, hosts, why_not
from tests.plugins.raylets import until
from tests.plugins.spot_market import ASKED, REFUSED

HELD = {"CPU": 4, "object_store_memory": 100_000_000}
WORKER = {"CPU": 2, "GPU": 1}
MODEL = ("--backbone", "resnet10t", "--image-size", 32, "--dimension", 16)


@pytest.fixture
def config():
    """The file, as Ray's autoscaler reads it, with a cloud of ours and small nodes."""
    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    types = config["available_node_types"]
    for name, node in types.items():
        node["resources"] = HELD | ({"GPU": 1} if name.startswith("gpu") else {})
    head = types.pop(config["head_node_type"])
    types[FAKE_HEAD_NODE_TYPE] = {**head, "resources": {"CPU": 0}, "max_workers": 0}
    config |= {"head_node_type": FAKE_HEAD_NODE_TYPE, "idle_timeout_minutes": 0.1, "auth": {}, "docker": {}}
    config |= {name: [] for name in config if name.endswith("_commands")}
    config |= {"head_setup_commands": [], "worker_setup_commands": [], "cluster_synced_files": [], "file_mounts": {}}
    config["provider"] = {
        "type": "external",
        "module": "tests.plugins.spot_market.SpotMarket",
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    filled = fillout_defaults(config)
    for legacy in ("head_node", "worker_nodes"):
        filled.pop(legacy, None)
    return filled


@pytest.fixture
def launched(config):
    """What is launched for demands on an empty cluster: resources of each, a role, and what is known of the cloud."""

    def decide(demands, role, monitor=None):
        monitor = monitor or CloudResourceMonitor()
        read = AutoscalingConfig(config, skip_content_hash=True)
        wanted = [[(LABEL, LABEL_OPERATOR_IN, [role])]]
        reply = ResourceDemandScheduler().schedule(
            SchedulingRequest(
                node_type_configs=read.get_node_type_configs(),
                max_num_nodes=read.get_max_num_worker_nodes(),
                disable_launch_config_check=True,
                resource_requests=ResourceRequestUtil.group_by_count(
                    [ResourceRequestUtil.make(resources, label_selectors=wanted) for resources in demands]
                ),
                cloud_resource_availabilities=monitor.get_resource_availabilities(),
                recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
            )
        )
        return {launch.instance_type: launch.count for launch in reply.to_launch}

    return decide


def monitor_of(status, node_type="gpu"):
    """What the autoscaler remembers of a node that came to this."""
    monitor = CloudResourceMonitor()
    event = InstanceUpdateEvent(instance_id="1", new_instance_status=status, instance_type=node_type)
    monitor.notify([event])
    return monitor


@pytest.mark.parametrize("role", ["data", "gpu", "serve"])
def test_what_asks_for_a_role_gets_nodes_of_it(launched, role):
    assert launched([{"CPU": 2}] * 3, role) == {role: 2}


def test_gpus_are_spot_first_and_on_demand_where_there_are_as_many_as_there_may_be(launched):
    assert launched([WORKER] * 3, "gpu") == {"gpu": 3}
    assert launched([WORKER] * 9, "gpu") == {"gpu": 4, "gpu-on-demand": 2}


def test_no_type_grows_beyond_its_limit(launched, config):
    most = config["available_node_types"]["data"]["max_workers"]
    assert launched([{"CPU": 4}] * (most + 5), "data") == {"data": most}


def test_a_pod_that_stays_pending_makes_its_type_the_last_choice(launched):
    assert launched([WORKER], "gpu", monitor_of(Instance.ALLOCATION_TIMEOUT)) == {"gpu-on-demand": 1}


def test_a_launch_that_is_refused_does_not(launched):
    """As ray_cluster.yaml says of Ray 2.60; where this fails, on-demand nodes replace spot nodes by themselves."""
    assert launched([WORKER], "gpu", monitor_of(Instance.ALLOCATION_FAILED)) == {"gpu": 1}


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_nodes_come_for_a_training_and_go_when_it_is_done(config, tmp_path, archive_factory):
    if why := why_not():
        pytest.skip(why)
    own = tmp_path / "head"
    own.mkdir()
    archive_factory(open_workspace(str(own / "workspace")), train=64, validation=16, test=16)
    environment = {
        "RAY_enable_autoscaler_v2": "1",  # as `ray up` sets it
        **{"PYTHONPATH": str(ROOT), "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
        **{"SSCM_NODE_ROLES": "1", "SSCM_CLUSTER_GROWS": "1", REFUSED: "gpu", ASKED: "/tmp/own/asked"},
    }
    with hosts("head", folder=tmp_path, **environment) as cluster:
        head = cluster["head"]
        config["provider"]["gcs_address"] = f"{head.address}:6379"
        (own / "autoscaling.json").write_text(json.dumps(config))
        node = {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
        flags = ("--num-cpus=0", "--include-dashboard=false", "--autoscaling-config=/tmp/own/autoscaling.json")
        cluster.boot_head("head", *flags, **node)
        until(lambda: head.up, 60, "the head is up")

        def asked():
            told = (own / "asked").read_text() if (own / "asked").exists() else ""
            return [tuple(line.split()[1:]) for line in told.splitlines()]

        def start(name, *more):
            words = ("--workspace", "/tmp/own/workspace", "--name", name, "--epochs", 1, "--batch-size", 16, *MODEL)
            words = (*words, "--stream", "ray-data")
            return head.start(
                BIN / "sscm", "train", *words, "--cpus-per-worker", 1, *more, log=tmp_path / f"{name}.log"
            )

        first = start("first", "--workers", 2)
        until(lambda: first.poll() is not None, 150, "a training on an empty cluster")
        assert first.returncode == 0, (tmp_path / "first.log").read_text()
        assert asked() == [("data", "1", "given")]  # two workers, and a CPU each for their streams
        until(lambda: nodes(head) == 1, 90, "idle nodes go")

        spot = start("spot", "--gpu")
        until(lambda: asked().count(("gpu", "1", "refused")) >= 4, 60, "spot nodes are asked for")
        spot.kill()
        assert not any(name == "gpu-on-demand" for name, *_ in asked())


def nodes(host):
    """How many nodes a head knows alive."""
    told = host.run(BIN / "ray", "status").split("Pending:")[0]
    return len(re.findall(r"^ 1 ", told, re.MULTILINE))
