"""A service of a workspace under load from ``wrk``: what the benchmarks of the service share."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import httpx
import numpy as np
from search import written

from sscm.config import ModelConfig
from sscm.index.generation import commit
from sscm.model.about import read_about
from sscm.model.bundle import make_bundle, make_encoders, save_bundle
from sscm.sensors import sentinel1, sentinel2
from sscm.workspace import Workspace, open_workspace

K = 10
"""Answers of a search."""
SECONDS = 8
"""Of one round of one load."""

LUA = """
local bodies, kind = {}, "%(kind)s"
for line in io.lines("%(bodies)s") do bodies[#bodies + 1] = line end
local n = math.random(#bodies)
request = function()
  n = n %% #bodies + 1
  return wrk.format("POST", nil, {["Content-Type"] = kind}, bodies[n])
end
"""
LUA_FILE = """
local file = io.open("%(bodies)s", "rb")
local body = file:read("*a")
request = function()
  return wrk.format("POST", nil, {["Content-Type"] = "%(kind)s"}, body)
end
"""


@dataclass(frozen=True)
class Load:
    """What ``wrk`` saw: requests a second, percentiles in milliseconds, answers and sockets that failed."""

    rate: float
    p50: float
    p99: float
    failed: int


def load(url: str, clients: int, seconds: float = SECONDS, script: Path | None = None) -> Load:
    """Ask a URL, each of so many clients as soon as it has an answer."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--latency", "--timeout", "20s"]
    command += ["-s", str(script)] if script else []
    told = subprocess.run([*command, url], check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1])
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", told)
    failed = (int(bad[1]) if bad else 0) + (sum(map(int, broken.groups())) if broken else 0)
    return Load(rate, _ms(told, "50%"), _ms(told, "99%"), failed)


def _ms(told: str, percentile: str) -> float:
    value, unit = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)\b", told).groups()
    return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def make_index(folder: Path, pairs: dict[str, np.ndarray]) -> Workspace:
    """A workspace with an index of given embeddings, and a model of resnet18 at 120 pixels."""
    workspace = open_workspace(str(folder))
    modalities, config = (sentinel1(), sentinel2()), ModelConfig(dimension=pairs["s2"].shape[1])
    known = read_about(open_workspace("demo")).statistics
    bundle = make_bundle(
        "enlarged",
        config=config,
        modalities=modalities,
        statistics=known,
        encoders=make_encoders(modalities, known, config),
        split="none",
        simulated=True,
        record={},
    )
    save_bundle(workspace, bundle)
    generation = written(folder, pairs)
    commit_with(workspace, generation, bundle.fingerprint)
    return workspace


def commit_with(workspace: Workspace, generation: Any, fingerprint: str) -> None:
    """The same generation as made by a model that there is."""
    commit(workspace, dataclasses.replace(generation, number=generation.number + 1, fingerprint=fingerprint))


@contextlib.contextmanager
def service(folder: Path, *options: str) -> Iterator[str]:
    """``sscm serve`` in a process of its own; its URL."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("sscm")), "serve", "--workspace", str(folder), "--port", str(port)]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            wait(lambda: httpx.get(f"{url}/readyz", timeout=5).status_code == 200, process, log.name)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait(holds: Any, process: subprocess.Popen[bytes], log: str) -> None:
    """Wait until something holds, for two minutes at most."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if holds():
                return
        time.sleep(0.2)
    raise RuntimeError(f"it did not start; see {log}:\n{Path(log).read_text()[-2000:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scripts(folder: Path, asked: np.ndarray) -> dict[str, Path]:
    """Scripts for ``wrk``: searches of ours and of the peer, by the same vectors."""
    made = {}
    for name in ("ours", "chroma"):
        lines = []
        for vector in asked:
            numbers = [round(float(value), 6) for value in vector]
            if name == "ours":
                body: dict[str, Any] = {"vector": numbers, "modality": "s1", "target": "s2", "limit": K}
            else:
                body = {"query_embeddings": [numbers], "n_results": K, "include": ["distances"]}
            lines.append(json.dumps(body))
        (folder / f"{name}.txt").write_text("\n".join(lines))
        made[name] = folder / f"{name}.lua"
        made[name].write_text(LUA % {"kind": "application/json", "bodies": folder / f"{name}.txt"})
    return made
