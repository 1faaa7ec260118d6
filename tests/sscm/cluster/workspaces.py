"""Asks the nodes of a cluster what test_check.py wants to know; what they said, as JSON. A process of its own."""

import json
import os
import signal
import sys
import time

from sscm import runtime
from sscm.cluster.crew import crew
from sscm.cluster.network import check_all_reduce, check_connections
from sscm.cluster.nodes import alive_nodes
from sscm.cluster.storage import check_workspace

DEADLINE_S = 20.0
AWAY_S = 6.0
"""Deadline where the store is away."""


def main(workspaces, odd):
    """Workspaces by name, each a URI and an endpoint; sums without the odd node; that node with its process stopped."""
    told, seconds = {}, {}
    with runtime.ray_session():
        nodes = alive_nodes()
        with crew(nodes, DEADLINE_S) as asked:
            asked.ask(lambda node: node.devices.remote())
            told["connections"] = list(check_connections(asked))
            told["sum"] = list(check_all_reduce(asked.of(name for name in asked.names if odd not in name), "gloo", {}))
            for name, (uri, endpoint) in workspaces.items():
                os.environ["AWS_ENDPOINT_URL"] = endpoint
                asked.seconds = AWAY_S if name in ("dead", "silent") else DEADLINE_S
                began = time.monotonic()
                told[name] = list(check_workspace(asked, uri))
                seconds[name] = time.monotonic() - began
            [silent] = [name for name in asked.names if odd in name]
            pid = asked.of([silent]).ask(lambda node: node.__ray_call__.remote(lambda _: os.getpid()))[silent].value
            os.kill(pid, signal.SIGSTOP)
            asked.seconds = 2.0
            began = time.monotonic()
            answers = asked.ask(lambda node: node.now.remote())
            seconds["stopped"] = time.monotonic() - began
            told["stopped"] = {name: answer.error for name, answer in answers.items()}
    return {"told": told, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1])), default=vars))
