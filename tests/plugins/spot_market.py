"""A cloud for the autoscaler: nodes are raylets of this machine, and some types are refused, as spot capacity is."""

import os
import time
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler._private.node_launcher import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

REFUSED = "SSCM_TEST_REFUSED"
"""Environment variable: names of node types of which there are none, with commas between."""
ASKED = "SSCM_TEST_ASKED"
"""Environment variable: file that takes a line for each request: seconds, node type, how many, and whether given."""


class SpotMarket(FakeMultiNodeProvider):
    """Ray's own provider of raylets, which refuses types as AWS does where it has no capacity."""

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: Any, labels: Any
    ) -> None:
        """Start nodes, or raise what Ray's provider for AWS raises."""
        name = tags[TAG_RAY_USER_NODE_TYPE]
        refused = name in os.environ.get(REFUSED, "").split(",")
        with Path(os.environ[ASKED]).open("a") as file:
            file.write(f"{time.time():.1f} {name} {count} {'refused' if refused else 'given'}\n")
        if refused:
            raise NodeLaunchException(
                "InsufficientInstanceCapacity",
                f"There is no Spot capacity available that matches your request for {name}.",
                None,
            )
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
