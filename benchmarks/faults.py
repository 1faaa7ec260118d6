"""What a cluster of separate hosts survives, and what its users see meanwhile.

Hosts are Linux network namespaces on a bridge (``tests/plugins/hosts.py``), each with one Ray node: a head without
work, two for ingest and training, three for serving. They share the processors of this machine, and of storage nothing
but S3 (moto, in memory, on the bridge). What is done to them is what happens to machines: power is cut (the host falls
silent and comes back empty), the cable is pulled, a process is killed. ``--json`` has all rows. Parts:

* ``work``: a host is lost under an ingest; one of two under a training, and comes back; its driver is killed;
* ``serve``: under a small load, a serving host is lost; another is cut off for 5 s, and for 60 s;
* ``head``: under the load the head is lost, whose knowledge lies in Redis (``apt-get install redis-server``); and once
  more where it lies nowhere.

Run as root: ``python benchmarks/faults.py [--only work serve] [--folder DIR] [--json FILE]``; ``pip install -e
".[dev]"``. It takes about a quarter of an hour. Logs of all hosts are kept in ``--folder``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import httpx
from stream import Row

from sscm.archive.manifest import read_manifest
from sscm.archive.order import pieces_of
from sscm.archive.windows import read_pieces
from sscm.client import Client
from sscm.errors import SscmError
from sscm.storage import filesystem
from sscm.workspace import Workspace, open_workspace
from tests.plugins.hosts import BIN, Host, Hosts, hosts, why_not
from tests.plugins.raylets import until

PARTS = ("work", "serve", "head")
DATA, SERVE = ("data1", "data2"), ("serve1", "serve2", "serve3")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
URI = "s3://drill/workspace"
MODEL = ("--backbone", "resnet10t", "--image-size", 32, "--dimension", 16)
SERVED = ("--shards", 2, "--replicas", 2, "--gateways", 3, "--encoders", 2, "--threads", 1)
PATIENCE_S = 600.0
"""Longest wait for a recovery."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request of the load: when it was sent, how long it took, seconds; what became of it."""

    at: float
    seconds: float
    verdict: str


class Load:
    """A few clients that ask a gateway for what is known, until they are told to stop.

    Three of them send each request once; a fourth is :class:`sscm.client.Client`, which asks again as it does.

    Args:
        url: the gateway's.
        known: id of a query → ids of its answers.
    """

    def __init__(self, url: str, known: dict[str, list[str]]) -> None:
        self.url, self.known = url, known
        self.plain: list[Asked] = []
        self.client: list[Asked] = []
        self._end = threading.Event()
        works = [*[lambda n=n: self._ask(n) for n in range(3)], self._search]  # type: ignore[misc]
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        time.sleep(3)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, seed: int) -> None:
        chance = random.Random(seed)
        with httpx.Client(base_url=self.url, timeout=15) as http:
            while not self._end.is_set():
                query = chance.choice(sorted(self.known))
                begun = time.monotonic()
                verdict = "broken"
                with contextlib.suppress(httpx.TransportError):
                    response = http.post("/v1/search", json=body(query))
                    verdict = str(response.status_code)
                    if response.status_code == 200:
                        verdict = judged(response.json(), self.known[query])
                self.plain.append(Asked(at=begun, seconds=time.monotonic() - begun, verdict=verdict))
                self._end.wait(0.1)

    def _search(self) -> None:
        chance = random.Random(99)
        with Client(self.url) as client:
            while not self._end.is_set():
                query = chance.choice(sorted(self.known))
                begun = time.monotonic()
                try:
                    found = client.search(**body(query))
                    verdict = "ok" if [hit.id for hit in found] == self.known[query] else "other answers"
                    verdict = verdict if found.complete else "incomplete"
                except SscmError as error:
                    verdict = f"{error}"
                self.client.append(Asked(at=begun, seconds=time.monotonic() - begun, verdict=verdict))
                self._end.wait(0.3)

    def since(self, fault: float) -> tuple[str, float]:
        """What clients saw since a fault, and seconds from it to the end of the last answer that was not right."""
        asked = [one for one in self.plain if one.at + one.seconds > fault]
        bad = [one for one in asked if one.verdict != "ok"]
        searches = [one for one in self.client if one.at + one.seconds > fault]
        unhappy = [one for one in searches if one.verdict != "ok"]
        counts = ", ".join(f"{count} × {what}" for what, count in Counter(one.verdict for one in bad).most_common())
        for one in unhappy[:3]:
            print(f"    sscm.client after {one.at - fault:.1f} s: {one.verdict}")
        saw = (
            f"{len(asked)} requests: {counts or 'all right'}; longest {max(one.seconds for one in asked):.1f} s; "
            f"sscm.client: {len(searches)} searches, {len(unhappy) or 'none'} failed, "
            f"longest {max((one.seconds for one in searches), default=0):.1f} s"
        )
        return saw, max((one.at + one.seconds - fault for one in bad), default=0.0)


def body(query: str) -> dict[str, Any]:
    """A search for the ten optical images most like a radar image."""
    return {"id": query, "modality": "s1", "target": "s2", "limit": 10}


def judged(answer: dict[str, Any], expected: list[str]) -> str:
    """Whether an answer is what it was before the fault."""
    if not answer["sscm"]["complete"]:
        return "incomplete"
    return "ok" if [feature["id"] for feature in answer["features"]] == expected else "other answers"


class Drill:
    """The hosts, and the rows measured so far.

    Args:
        cluster: the hosts.
        store: the store's URL.
        folder: where logs go.
        pairs: pairs of the archive.
    """

    def __init__(self, cluster: Hosts, store: str, folder: Path, pairs: int) -> None:
        self.cluster, self.folder, self.pairs = cluster, folder, pairs
        self.head = cluster["head"]
        self.rows: list[Row] = []
        filesystem("s3", {"endpoint_url": store}).mkdir("drill")
        self.workspace: Workspace = open_workspace(URI, {"endpoint_url": store})
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """Print what is done, with the time."""
        print(f"{time.monotonic() - self._begun:6.1f} s  {text}", flush=True)

    def row(self, name: str, saw: str, seconds: float, lost: str) -> None:
        """Take note of a fault: what was seen, seconds to recovery, and what was lost."""
        self.say(f"{name} | {saw} | {seconds:.1f} s | {lost}")
        plain = {"name": name, "ours": seconds, "peer": None, "peer_name": "", "unit": "s"}
        self.rows.append({**plain, "ratio": None, "target": None, "met": None, "saw": saw, "lost": lost})

    def boot_head(self, redis: bool = True) -> None:
        """Boot the head, whose knowledge lies in Redis or in its own memory."""
        environment = {"RAY_REDIS_ADDRESS": f"{self.cluster.address}:6379"} if redis else {}
        self.cluster.boot_head("head", "--num-cpus=0", "--dashboard-host=0.0.0.0", **environment)

    def boot(self, names: tuple[str, ...], cpus: int, role: str) -> None:
        """Boot some hosts as nodes of a role."""
        for name in names:
            self.cluster.boot_node(name, "head", f"--num-cpus={cpus}", f"--labels=sscm/role={role}")
        for name in names:
            until(lambda name=name: self.cluster[name].up, PATIENCE_S, f"{name} is up")  # type: ignore[misc]

    def start(self, name: str, *words: object) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a command of sscm on the head, as a job of it is."""
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        return self.head.start(BIN / "sscm", *words, log=log), log

    def prepare(self) -> None:
        """An archive, a model that has seen it once, and an index."""
        words = ("ingest", "synthetic", "--pairs", self.pairs, "--pixels", 24, "--pairs-per-shard", 64)
        self.say(self.sscm(*words))
        self.say(self.sscm("train", "--name", "run", "--epochs", 1, "--batch-size", 32, *MODEL))
        self.say(self.sscm("index"))

    def sscm(self, *words: object) -> str:
        """What a command of sscm says that runs on the head."""
        return self.head.run(BIN / "sscm", *words, "--workspace", URI, seconds=PATIENCE_S).strip()

    def ids(self) -> list[str]:
        """Ids of all pairs of the archive, by its files."""
        shards = read_manifest(self.workspace).shards
        return read_pieces(self.workspace, pieces_of(shards), ["pair_id"])["pair_id"].to_pylist()

    def url(self, host: str) -> str:
        """Where a host's gateway is asked."""
        return f"http://{self.cluster[host].address}:8000"

    def replicas(self) -> dict[str, list[str]]:
        """Deployment → addresses of the hosts of its running replicas, as the head tells; empty where it does not."""
        told = self.head.environment["RAY_AUTH_TOKEN"]
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            answer = httpx.get(
                f"http://{self.head.address}:8265/api/serve/applications/",
                headers={"Authorization": f"Bearer {told}"},
                timeout=5,
            )
            deployments = answer.json()["applications"]["sscm"]["deployments"]
            return {
                name: [replica["node_ip"] for replica in about["replicas"] if replica["state"] == "RUNNING"]
                for name, about in deployments.items()
                if about["status"] == "HEALTHY"
            }
        return {}

    def whole(self, than: int = 12) -> bool:
        """Whether all replicas that there are to be run, on hosts that do."""
        running = self.replicas()
        alive = {host.address for host in self.cluster.all.values() if host.running and not host.is_cut}
        return sum(map(len, running.values())) == than and {a for found in running.values() for a in found} <= alive

    def lost(self, host: str) -> str:
        """What of the archive the service has no more: every pair is asked for by its id."""
        with httpx.Client(base_url=self.url(host), timeout=30) as http:
            told = http.get("/v1/items", params={"limit": 1}).json()["numberMatched"]
            missing = [name for name in self.ids() if http.get(f"/v1/items/{name}").status_code != 200]
        if missing or told != self.pairs:
            return f"{len(missing)} of {self.pairs} pairs, {told} told"
        return f"nothing: {told:,} of {self.pairs:,} pairs by id"


def wait_said(
    process: subprocess.Popen[bytes], log: Path, pattern: str, seconds: float = PATIENCE_S, start: int = 0
) -> re.Match[str]:
    """Wait until a command's output has something in it, from a place on.

    Raises:
        RuntimeError: it ended before, or did not say it in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended = process.poll() is not None
        if found := re.compile(pattern).search(log.read_text(errors="replace"), start):
            return found
        if ended:
            break
        time.sleep(0.05)
    raise RuntimeError(f"no {pattern!r} in {log}: {log.read_text(errors='replace')[-3000:]}")


def work(drill: Drill) -> None:
    """Ingest and training, with the loss of hosts and of the driver."""
    drill.boot(DATA, 3, "data")
    lost = drill.cluster["data2"]
    words = ("--workspace", URI, "--pairs", drill.pairs, "--pixels", 24, "--pairs-per-shard", 64)
    process, log = drill.start("ingest", "ingest", "synthetic", *words)
    shards = drill.workspace.fs
    until(lambda: any(shards.find("drill/workspace/archive")), PATIENCE_S, "a first shard")
    drill.say("ingest writes shards: data2 loses its power")
    lost.lose()
    fault = time.monotonic()
    wait_said(process, log, r"archive of (\d+) pairs")
    found = drill.ids()
    kept = "nothing" if len(set(found)) == len(found) == drill.pairs else f"{len(set(found))} of {len(found)} pairs"
    drill.row(
        "one of two hosts lost under an ingest",
        "the command goes on and ends as ever",
        time.monotonic() - fault,
        f"{kept}: {len(found):,} pairs in the shards",
    )
    lost.boot()
    train(drill, lost)


def train(drill: Drill, lost: Host) -> None:
    """A training on two hosts."""
    epochs = 36
    words = (
        *("train", "--workspace", URI, "--name", "run", "--epochs", epochs, "--batch-size", 32, *MODEL),
        *("--workers", 2, "--min-workers", 1, "--cpus-per-worker", 2),
        *("--checkpoint-minutes", 0.1, "--resize-minutes", 0.25),
    )
    # A driver that finds one node would begin with one worker.
    until(lambda: lost.up, PATIENCE_S, "two hosts to train on")
    process, log = drill.start("train", *words)
    # Ray counts a node that has just come some seconds later: the training may begin with one worker.
    wait_said(process, log, r"2 workers at step \d+[\s\S]*epoch [\s\d]+/[\s\S]*epoch [\s\d]+/")
    time.sleep(2)
    drill.say("in mid-epoch data2 loses its power")
    said = len(log.read_text())
    lost.lose()
    fault = time.monotonic()
    again = wait_said(process, log, r"1 worker at step (\d+)(: \d+ of[^\n]*)?\n", start=said)
    seconds = time.monotonic() - fault
    drill.row(
        "one of two training hosts lost in mid-epoch",
        f"the same command goes on with one worker at step {again.group(1)}{again.group(2) or ''}",
        seconds,
        told_history(drill),
    )
    lost.boot()
    fault = time.monotonic()
    again = wait_said(process, log, r"2 workers at step (\d+)(: \d+ of[^\n]*)?\n", start=again.end())
    drill.row(
        "the host comes back",
        f"two workers again from step {again.group(1)}{again.group(2) or ''}",
        time.monotonic() - fault,
        told_history(drill),
    )
    before = len(history(drill))
    until(lambda: len(history(drill)) > before + 1, PATIENCE_S, "another epoch")
    drill.say("the driver is killed")
    process.kill()
    fault = time.monotonic()
    process, log = drill.start("resumed", *words, "--resume")
    again = wait_said(process, log, r"(\d workers?) at step (\d+)", PATIENCE_S + 180)
    drill.row(
        "the training's driver killed",
        f"it ends; the same command with --resume goes on with {again.group(1)} at step {again.group(2)}",
        time.monotonic() - fault,
        told_history(drill),
    )
    wait_said(process, log, rf"model run, {epochs} epochs")
    if [epoch["epoch"] for epoch in history(drill)] != list(range(1, epochs + 1)):
        raise RuntimeError(f"epochs told: {history(drill)}")
    drill.say(f"trained: workers of the epochs {[epoch['workers'] for epoch in history(drill)]}")
    drill.say(drill.sscm("index"))
    drill.sscm("index", "verify")


def history(drill: Drill) -> list[dict[str, Any]]:
    """Metrics of the epochs that a training has told."""
    where = ("runs", "run", "metrics.json")
    return drill.workspace.read_json(*where) if drill.workspace.exists(*where) else []


def told_history(drill: Drill) -> str:
    """Whether the epochs told so far have no gap."""
    epochs = [epoch["epoch"] for epoch in history(drill)]
    kept = epochs == list(range(1, len(epochs) + 1))
    return f"nothing: epochs 1 to {len(epochs)} are told" if kept else f"epochs are missing: {epochs}"


def deploy(drill: Drill) -> float:
    """Deploy the service as the pages say; seconds until it answers on every host."""
    begun = time.monotonic()
    settings = f"/tmp/serve-{time.monotonic_ns()}.yaml"
    write = ("serve", "--workspace", URI, "--host", "0.0.0.0", "--port", 8000, *SERVED, "--write", settings)
    drill.head.run(BIN / "sscm", *write)
    drill.head.run(BIN / "serve", "deploy", settings, "--address", f"http://{drill.head.address}:8265")
    for name in SERVE:
        until(lambda name=name: ready(drill.url(name)), PATIENCE_S, f"{name} answers")  # type: ignore[misc]
    until(drill.whole, PATIENCE_S, "all replicas run")
    return time.monotonic() - begun


def ready(url: str) -> bool:
    """Whether a service says that it is ready."""
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def known_answers(drill: Drill) -> dict[str, list[str]]:
    """Answers to some queries, all parts being well."""
    chosen = random.Random(0).sample(drill.ids(), 40)
    with httpx.Client(base_url=drill.url("serve1"), timeout=30) as http:
        answers = {query: http.post("/v1/search", json=body(query)).json() for query in chosen}
    if not all(answer["sscm"]["complete"] for answer in answers.values()):
        raise RuntimeError("answers are incomplete before any fault")
    return {query: [feature["id"] for feature in answer["features"]] for query, answer in answers.items()}


def places(drill: Drill) -> str:
    """Which host has how many replicas of what."""
    names = {host.address: host.name for host in drill.cluster.all.values()}
    return "; ".join(
        f"{name} on {', '.join(sorted(names.get(address, address) for address in found))}"
        for name, found in sorted(drill.replicas().items())
    )


def under_load(
    drill: Drill, known: dict[str, list[str]], name: str, fault: Callable[[], None], after: Callable[[float], str]
) -> None:
    """Do something to a host while clients ask; ``after`` waits until all is as before, and tells what it took."""
    with Load(drill.url("serve1"), known) as load:
        begun = time.monotonic()
        fault()
        more = after(begun)
        time.sleep(5)
        saw, seconds = load.since(begun)
    drill.row(name, f"{saw}; {more}", seconds, drill.lost("serve1"))
    drill.say(places(drill))


def served(drill: Drill) -> dict[str, list[str]]:
    """A service on three hosts; what it answers."""
    if not drill.workspace.exists("index", "generations"):
        drill.boot(DATA, 3, "data")
        drill.prepare()
    for name in DATA:
        drill.cluster[name].lose()
    drill.boot(SERVE, 2, "serve")
    drill.say(f"deployed after {deploy(drill):.0f} s: {places(drill)}")
    return known_answers(drill)


def draining(drill: Drill, known: dict[str, list[str]] | None = None) -> None:
    """A host of the service is taken away in order, as a scale-down or a spot machine's notice does."""
    known = known or served(drill)
    host = drill.cluster["serve2"]
    if not any(host.address in found for found in drill.replicas().values()):
        raise SystemExit("serve2 has no replica that could be lost")

    def notice() -> None:
        words = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "scale-down")
        host.run(BIN / "ray", "drain-node", "--address=head:6379", *words, "--deadline-remaining-seconds=120")

    def gone(begun: float) -> str:
        def left() -> bool:
            return drill.whole() and not any(host.address in found for found in drill.replicas().values())

        until(left, PATIENCE_S, "all replicas run on the others")
        moved = time.monotonic() - begun
        time.sleep(5)
        host.lose()
        return f"all replicas run elsewhere after {moved:.0f} s, and five seconds later it is switched off"

    under_load(drill, known, "a serving host drained, then switched off", notice, gone)
    host.boot()
    until(lambda: host.up, PATIENCE_S, "serve2 is a node again")


def serving(drill: Drill) -> None:
    """The service on three hosts, under a small load."""
    known = served(drill)
    lost, cut = drill.cluster["serve2"], drill.cluster["serve3"]

    def whole(begun: float) -> str:
        until(drill.whole, PATIENCE_S, "all replicas run again")
        return f"all replicas run after {time.monotonic() - begun:.0f} s"

    under_load(drill, known, "a serving host lost", lost.lose, whole)
    lost.boot()
    until(lambda: lost.up, PATIENCE_S, "serve2 is a node again")
    drill.say("serve2 is back, as a node without work: Serve moves nothing to it that runs elsewhere")

    def blink() -> None:
        cut.cut()
        threading.Timer(5, cut.heal).start()

    before = cut.starts
    under_load(drill, known, "a serving host cut off for 5 s", blink, lambda begun: (time.sleep(20), whole(begun))[1])
    drill.say(f"its Ray was started {cut.starts - before} times meanwhile")

    def back(begun: float) -> str:
        until(drill.whole, PATIENCE_S, "all replicas run on the others")
        apart = time.monotonic() - begun
        time.sleep(max(0.0, 60 - apart))
        cut.heal()
        healed = time.monotonic()
        until(lambda: cut.starts > before and cut.up, PATIENCE_S, "its Ray is started again")
        return (
            f"all replicas run elsewhere after {apart:.0f} s; its Ray ended by itself and was a node again "
            f"{time.monotonic() - healed:.0f} s after it was healed"
        )

    before = cut.starts
    under_load(drill, known, "a serving host cut off for 60 s", cut.cut, back)
    draining(drill, known)  # what serve3 had has moved to this one


def heads(drill: Drill) -> None:
    """The head lost, with and without a Redis that keeps what it knows."""
    known = known_answers(drill)
    starts = {name: drill.cluster[name].starts for name in SERVE}

    def back(begun: float) -> str:
        time.sleep(45)
        drill.head.boot()
        booted = time.monotonic()
        until(drill.whole, PATIENCE_S, "the new head knows all replicas")
        managed = time.monotonic() - booted
        kept = starts == {name: drill.cluster[name].starts for name in SERVE}
        found = [process for name in SERVE for process in drill.cluster[name].processes("ServeReplica:sscm:shard-")]
        found[0].kill()
        killed = time.monotonic()
        until(lambda: not drill.whole() or time.monotonic() > killed + 20, 30, "it is missed")
        until(drill.whole, PATIENCE_S, "a shard's replica is replaced")
        return (
            f"{managed:.0f} s after it was booted again the head knows all replicas; "
            f"{'no node was' if kept else 'nodes were'} started anew; a replica killed then was replaced after "
            f"{time.monotonic() - killed:.0f} s"
        )

    under_load(drill, known, "the head lost for 45 s, its state in Redis", drill.head.lose, back)

    def anew(begun: float) -> str:
        time.sleep(45)
        drill.boot_head(redis=False)
        until(lambda: drill.head.up, PATIENCE_S, "a head")
        until(
            lambda: all(drill.cluster[name].starts > starts[name] for name in SERVE),
            PATIENCE_S,
            "nodes are started anew",
        )
        deploy(drill)
        return "nodes are started anew and join the new head, which knows nothing: the service is deployed again"

    starts = {name: drill.cluster[name].starts for name in SERVE}
    under_load(drill, known, "the head lost for 45 s, its state nowhere else", drill.head.lose, anew)


@contextlib.contextmanager
def beside(*words: object, port: int, address: str, log: Path) -> Iterator[None]:
    """A server of this machine that the hosts reach; it dies with us."""
    with log.open("w") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *map(str, words)], stdout=output, stderr=output, start_new_session=True
        )
    try:
        until(lambda: _listens(address, port), 60, f"{words[0]} listens; see {log}")
        yield
    finally:
        process.kill()
        process.wait(30)


def _listens(address: str, port: int) -> bool:
    import socket

    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| fault | what a client saw | seconds to recovery | lost |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {r['name']} | {r['saw']} | {r['ours']:.1f} | {r['lost']} |" for r in rows)])


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*PARTS, "drain"), default=PARTS, help="serve has drain in it")
    parser.add_argument("--pairs", type=int, default=1200)
    parser.add_argument("--folder", type=Path, help="disks and logs of the hosts; a temporary one by default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if why := why_not():
        print(f"no drill: {why}")
        return
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="sscm-faults-"))).resolve()
    redis = shutil.which("redis-server")
    environment = {**CREDENTIALS, "SSCM_NODE_ROLES": "1", "RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(hosts("head", *DATA, *SERVE, folder=folder, **environment))
        store = f"http://{cluster.address}:5000"
        for host in cluster.all.values():
            host.environment = {**host.environment, "AWS_ENDPOINT_URL": store}
        os.environ.update(CREDENTIALS)
        own: dict[str, Any] = {"address": cluster.address}
        moto = (sys.executable, "-m", "moto.server", "-H", cluster.address, "-p", 5000)
        stack.enter_context(beside(*moto, port=5000, log=folder / "moto.log", **own))
        if redis:
            words = (redis, "--bind", cluster.address, "--port", 6379, "--save", "", "--protected-mode", "no")
            stack.enter_context(beside(*words, port=6379, log=folder / "redis.log", **own))
        drill = Drill(cluster, store, folder, arguments.pairs)
        drill.boot_head(bool(redis))
        until(lambda: drill.head.up, PATIENCE_S, "the head is up")
        for part in arguments.only:
            {"work": work, "drain": draining, "serve": serving, "head": heads}[part](drill)
    print(f"\n{table(drill.rows)}\n\nlogs: {folder}")
    if arguments.json:
        arguments.json.write_text(json.dumps(drill.rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
