"""Names of nodes."""

from sscm.cluster.nodes import HEAD, nodes_of


def told(address, node_id, **resources):
    return {"NodeManagerAddress": address, "NodeID": node_id, "Resources": resources}


def test_nodes_are_named_by_address_the_head_first():
    found = nodes_of(
        [
            told("10.0.0.10", "n1", CPU=8.0, GPU=2.0, object_store_memory=5.0),
            told("10.0.0.9", "n2"),
            told("10.0.0.20", "n3", **{HEAD: 1.0}),
        ],
        {"n1": {"GPU": 0.5}},
    )
    assert [node.name for node in found] == ["10.0.0.20 (head)", "10.0.0.9", "10.0.0.10"]
    assert (found[2].cpus, found[2].gpus, found[2].free_gpus, found[2].object_store) == (8.0, 2.0, 0.5, 5)


def test_several_at_one_address_are_told_apart():
    found = nodes_of([told("10.0.0.1", "aaaaaa111111"), told("10.0.0.1", "aaaaaa222222", **{HEAD: 1.0})], {})
    assert [node.name for node in found] == ["10.0.0.1 222222 (head)", "10.0.0.1 111111"]
