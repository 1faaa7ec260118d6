"""A spot machine's notice, passed on to Ray: trainings make a checkpoint, and services move, before the machine goes.

Amazon tells a machine two minutes before, and nobody else: in its instance metadata
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html). Ray is told by
``ray drain-node``. On Kubernetes a pod's signal does as much.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from sscm.config import SpotConfig
from sscm.errors import ConfigError

ENDPOINT = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""Environment variable, as Amazon's own tools read it: where the metadata are, if elsewhere."""
USUAL = "http://169.254.169.254"
NOTICE = "latest/meta-data/spot/instance-action"
TOKEN = "latest/api/token"
TOKEN_S = 21_600
TRIES = 5
TRY_S = 20.0
"""Longest that one telling may take, seconds; the machine is there for two minutes more."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """That this machine will be taken away.

    Args:
        action: terminate, stop or hibernate.
        at: when.
    """

    action: str
    at: datetime

    @property
    def seconds(self) -> int:
        """How long it is still there."""
        return max(0, int((self.at - datetime.now(UTC)).total_seconds()))


def wait_and_tell(config: SpotConfig) -> Notice:
    """Wait for the notice, for as long as the machine runs, and tell Ray.

    Args:
        config: how often to look, and which node this is.

    Returns:
        The notice, when Ray has it.

    Raises:
        ConfigError: there are no instance metadata here, or Ray does not take the notice.
    """
    notice = wait_notice(os.environ.get(ENDPOINT, USUAL), config.every_s)
    print(f"this machine will {notice.action} in {notice.seconds} s; Ray is told", flush=True)
    tell_ray(notice, config)
    return notice


def wait_notice(endpoint: str, every_s: float) -> Notice:
    """Ask the instance metadata until they have a notice.

    Args:
        endpoint: URL of the metadata.
        every_s: seconds between two looks.

    Raises:
        ConfigError: nothing answers there, from the first.
    """
    headers: dict[str, str] = {}
    seen = False
    with httpx.Client(base_url=endpoint, timeout=5, trust_env=False) as http:
        while True:
            try:
                answer = http.get(NOTICE, headers=headers)
                if answer.status_code == httpx.codes.UNAUTHORIZED:  # no token yet, or one that is too old
                    told = http.put(TOKEN, headers={"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)})
                    headers = {"X-aws-ec2-metadata-token": told.raise_for_status().text}
                    answer = http.get(NOTICE, headers=headers)
                seen = True
                if answer.status_code == httpx.codes.OK:
                    body = answer.json()
                    return Notice(action=body["action"], at=datetime.fromisoformat(body["time"]))
            except httpx.HTTPError as error:
                if not seen:
                    raise ConfigError(
                        f"no instance metadata at {endpoint} ({error}): this is no machine of Amazon's, or a container "
                        "that does not reach them; the launch template wants HttpPutResponseHopLimit: 2"
                    ) from error
            time.sleep(every_s)


def tell_ray(notice: Notice, config: SpotConfig) -> None:
    """Have Ray drain this node: nothing new is placed on it, and what runs there is told.

    Raises:
        ConfigError: Ray did not take it, however often it was told.
    """
    words = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", config.address]
    words += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", f"spot {notice.action}"]
    if config.node_id is not None:
        words += ["--node-id", config.node_id]
    said = ""
    for attempt in range(TRIES):
        deadline = ["--deadline-remaining-seconds", str(notice.seconds)]
        try:
            done = subprocess.run([*words, *deadline], capture_output=True, text=True, timeout=TRY_S)
        except subprocess.TimeoutExpired:
            said = f"no answer within {TRY_S:g} s"
        else:
            if done.returncode == 0:
                return
            said = (done.stderr or done.stdout).strip()[-500:]
        time.sleep(attempt)
    raise ConfigError(f"Ray at {config.address} was not told: {said}")
