"""Which nodes do what."""

import pytest
import ray

from sscm import placement, runtime
from sscm.errors import ConfigError


@pytest.fixture
def cluster(monkeypatch):
    """Sets what Ray tells of a cluster: roles of its nodes, and what it may grow to."""

    def set_up(*roles, most=None, cpus=4):
        told = [{"Alive": True, "Resources": {"CPU": cpus}, "Labels": {"sscm/role": r} if r else {}} for r in roles]
        gone = {"Alive": False, "Resources": {"CPU": cpus}, "Labels": {"sscm/role": "serve"}}
        monkeypatch.setattr(ray, "nodes", lambda: [*told, gone])
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray._private.state.state, "get_max_resources_from_cluster_config", lambda: most)

    return set_up


@pytest.fixture
def roles(monkeypatch):
    monkeypatch.setenv("SSCM_NODE_ROLES", "1")


def test_without_roles_everything_runs_anywhere(monkeypatch, cluster):
    monkeypatch.delenv("SSCM_NODE_ROLES", raising=False)
    cluster("head")
    assert placement.selector("data") is None and placement.computing(True) is None
    placement.require_node("gpu")


def test_each_role_has_its_nodes(roles, cluster):
    assert placement.computing(True) == {"sscm/role": "gpu"}
    assert placement.computing(False) == placement.selector("data") == {"sscm/role": "data"}
    cluster("head", "data")
    placement.require_node("data")
    with pytest.raises(ConfigError, match=r"no node of 2 is labelled sscm/role=serve: start one with `ray start"):
        placement.require_node("serve")
    cluster("head", most={"CPU": 100})
    placement.require_node("serve")


@pytest.mark.parametrize(
    ("replicas", "nodes", "most"),
    [(1, 3, None), (2, 1, 2), (2, 2, 1), (2, 3, 1), (3, 2, 2), (5, 2, 3)],
)
def test_replicas_share_as_few_nodes_as_can_be(cluster, replicas, nodes, most):
    cluster(*[None] * nodes)
    assert placement.most_on_a_node(replicas) == most


def test_only_nodes_that_serve_count(roles, cluster):
    cluster("head", "data", "serve", "serve")
    assert placement.most_on_a_node(4) == 2


def test_a_head_without_cpus_does_not_count(cluster):
    cluster(None, None, cpus=0)
    assert placement.most_on_a_node(2) == 2


def test_a_cluster_that_grows_gets_a_node_each(cluster):
    cluster(None, most={"CPU": 64})
    assert placement.most_on_a_node(3) == 1


def test_a_cluster_whose_autoscaler_does_not_say_so_grows_where_the_environment_says_so(roles, cluster, monkeypatch):
    cluster(None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 0.0})
    claim = runtime.TrainingClaim(workers=2, cpus_per_worker=4, gpu=True)
    monkeypatch.delenv(runtime.CLUSTER_GROWS, raising=False)
    with pytest.raises(ConfigError, match="no node of 1"):
        placement.require_node("gpu")
    assert claim.refusal([], runtime.most_resources()) is not None
    monkeypatch.setenv(runtime.CLUSTER_GROWS, "1")
    placement.require_node("gpu")
    assert placement.most_on_a_node(3) == 1
    assert claim.refusal([], runtime.most_resources()) is None
