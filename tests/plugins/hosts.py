"""A cluster of separate hosts on one machine, and what befalls hosts.

A host is a set of Linux namespaces: a network of its own (an address, ports, a cable to a bridge that can be pulled),
process numbers of its own (so that all of it dies at once, as when power fails), a name, and a ``/tmp`` and a
``/dev/shm`` of its own. Its first process starts Ray again whenever it ended, after killing what was left, as a
container's restart or systemd does. Hosts share the processors, the memory, and nothing else that Ray uses. Wants root.

Everything dies with the process that made it. Namespaces and bridges, which do not, are taken away at the end, or,
where that was not reached, by whoever makes hosts next.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.plugins.raylets import until

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
NETWORK = ipaddress.ip_network("198.51.100.0/24")  # RFC 5737: it is nobody's
PREFIX = "sscm"
STORE_BYTES = 120_000_000
ENVIRONMENT = {
    # That a host is lost is noticed within seconds, and yet not wherever a busy machine is slow to answer.
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_worker_niceness": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # hosts share a memory that is not theirs to watch
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "60",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}
"""Environment of every host."""
SILENT = '{"grpc_client_keepalive_time_ms": 10000, "grpc_client_keepalive_timeout_ms": 10000}'
"""Ray's settings of a head, which all that joins it takes over, as ``ray_cluster.yaml`` has them."""


def why_not() -> str | None:
    """Why there can be no hosts here, or None where there can."""
    if os.geteuid() != 0:
        return "network namespaces want root"
    if missing := [name for name in ("ip", "unshare", "nsenter", "setpriv") if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)} (Debian: iproute2, util-linux)"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return f"no network namespaces: {made.stderr.strip()}" if made.returncode else None


@dataclass(kw_only=True)
class Host:
    """One host.

    Args:
        name: its host name.
        space: its network namespace.
        cable: the bridge's end of its cable.
        address: its address, IPv4.
        folder: its ``/tmp``, and those of its earlier lives, and the log of its Ray; it sees this as ``/tmp/own``.
        environment: of all that runs on it.
    """

    name: str
    space: str
    cable: str
    address: str
    folder: Path
    environment: Mapping[str, str]
    ray: tuple[str, ...] = ()
    is_cut: bool = False
    _first: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False)

    @property
    def running(self) -> bool:
        """Whether it has power."""
        return self._first is not None and self._first.poll() is None

    @property
    def log(self) -> str:
        """What its Ray has said."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def up(self) -> bool:
        """Whether its Ray is up since it was last started."""
        return "Ray runtime started" in re.split("power on\n|starting ray\n", self.log)[-1]

    @property
    def starts(self) -> int:
        """How often its Ray was started."""
        return self.log.count("starting ray\n")

    def boot(self, *ray: str) -> None:
        """Give it power; its first process keeps a Ray running, started by these words or by those of the last time.

        To be called by the main thread: the host dies with the thread.
        """
        self.ray = ray or self.ray
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self.heal()
        temporary = self.folder / "tmp"
        if temporary.exists():  # it comes back as another machine would; the logs of its last life are kept beside
            temporary.rename(self.folder / f"tmp-{self.starts}")
        temporary.mkdir(parents=True)
        words = " ".join(self.ray)
        # What its programs are made of stays in its place, where that is below the /tmp that it does not see.
        shown = [path for path in (ROOT, Path(sys.prefix).resolve()) if path.is_relative_to("/tmp")]
        mounts = [(path, temporary / path.relative_to("/tmp")) for path in shown]
        for _, place in mounts:
            place.mkdir(parents=True, exist_ok=True)
        binds = "\n".join(f"mount --bind '{path}' '{place}'" for path, place in mounts)
        script = f"""
            set -e
            hostname {self.name}
            mount -t tmpfs tmpfs /dev/shm
            mount --bind {self.folder.parent}/names /etc/hosts
            mount --bind {self.folder.parent}/lookup /etc/nsswitch.conf
            mkdir {temporary}/own
            mount --bind {self.folder} {temporary}/own
            {binds}
            mount --rbind {temporary} /tmp
            cd /tmp
            set +e
            trap '' TERM
            while true; do
                echo "starting ray"
                {words}
                echo "ray ended with $?"
                kill -9 -1
                sleep 1
            done
        """
        with (self.folder / "log").open("ab") as log:
            log.write(b"power on\n")
            log.flush()
            self._first = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.space),
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "sh", "-c", script),
                ],
                env=dict(self.environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def lose(self) -> None:
        """Take its power: it falls silent, and nothing of it is left."""
        self.cut()  # nobody is told by a closed connection
        self.kill()

    def kill(self) -> None:
        """Kill all of its processes at once; its connections are closed by its kernel."""
        if self._first is not None:
            if self._first.poll() is None:
                # `unshare` dies and takes the host's first process along, and that one all others.
                self._first.kill()
            self._first.wait(30)
            until(lambda: not self._pids(), 30, f"processes of {self.name} are gone")
            self._first = None
        while self._started:
            self._started.pop().wait(30)

    def _pids(self) -> list[str]:
        found = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True)
        return found.stdout.split()

    def cut(self) -> None:
        """Pull its cable."""
        _ip("link", "set", self.cable, "down")
        self.is_cut = True

    def heal(self) -> None:
        """Put its cable back."""
        _ip("link", "set", self.cable, "up")
        self.is_cut = False

    def _entered(self, words: Sequence[object]) -> list[str]:
        if self._first is None:
            raise RuntimeError(f"{self.name} does not run")
        [inside, *_] = until(psutil.Process(self._first.pid).children, 10, f"the first process of {self.name}")
        spaces = ("--mount", "--uts", "--net", "--pid")
        # `nsenter` is the parent of what it runs: that one dies with it, and it with us.
        dies = ("setpriv", "--pdeathsig", "KILL")
        return [*dies, "nsenter", "--target", str(inside.pid), *spaces, "--", *dies, *map(str, words)]

    def start(self, *words: object, log: Path) -> subprocess.Popen[bytes]:
        """Start a command on it, which dies with it; what it says goes to a file of ours."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self._entered(words),
                env=dict(self.environment),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(self, *words: object, seconds: float = 120) -> str:
        """What a command says that runs on it.

        Raises:
            RuntimeError: it failed, or took too long.
        """
        try:
            done = subprocess.run(
                self._entered(words), env=dict(self.environment), capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{words} on {self.name}: no end after {seconds:g} s") from error
        if done.returncode:
            raise RuntimeError(f"{words} on {self.name} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def processes(self, title: str) -> list[psutil.Process]:
        """Its processes whose title has something in it."""
        found = []
        for pid in self._pids():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if title in " ".join(process.cmdline()):
                    found.append(process)
        return found


@dataclass(kw_only=True)
class Hosts:
    """Hosts on one bridge.

    Args:
        address: of the bridge, where this machine is reached from all of them.
        all: name → host.
    """

    address: str
    all: dict[str, Host]

    def __getitem__(self, name: str) -> Host:
        return self.all[name]

    def boot_head(self, name: str, *flags: str, **environment: str) -> None:
        """Boot a host as the head of a Ray cluster, in an environment of its own beside that of all."""
        host = self[name]
        host.boot(
            *(f"{key}={value}" for key, value in environment.items()),
            *(f"{BIN}/ray", "start", "--head", "--block", f"--node-ip-address={host.address}", "--port=6379"),
            *("--disable-usage-stats", f"--object-store-memory={STORE_BYTES}", f"--system-config='{SILENT}'", *flags),
        )

    def boot_node(self, name: str, head: str, *flags: str) -> None:
        """Boot a host as a node of the Ray cluster that another is the head of."""
        host = self[name]
        host.boot(
            *(f"{BIN}/ray", "start", "--block", f"--node-ip-address={host.address}"),
            *(f"--address={self[head].address}:6379", f"--object-store-memory={STORE_BYTES}", *flags),
        )


@contextlib.contextmanager
def hosts(*names: str, folder: Path, **environment: str) -> Iterator[Hosts]:
    """Hosts without power, on a bridge of their own; all is gone at the end.

    Args:
        names: their names.
        folder: where their disks and logs are.
        environment: of what runs on them, beside :data:`ENVIRONMENT`.

    Raises:
        RuntimeError: hosts cannot be made here.
    """
    if why := why_not():
        raise RuntimeError(why)
    sweep()
    own = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST", "AWS_"))}
    own["PATH"] = f"{BIN}:{own['PATH']}"
    own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **ENVIRONMENT, **environment}
    bridge = f"{PREFIX}{os.getpid()}"
    made: dict[str, Host] = {}
    try:
        with _lock():
            network = _free_network()
            gateway, *addresses = map(str, network.hosts())
            _ip("link", "add", bridge, "type", "bridge")
            _ip("addr", "add", f"{gateway}/{network.prefixlen}", "dev", bridge)
        _ip("link", "set", bridge, "up")
        known = [f"{address} {name}\n" for name, address in zip(names, addresses, strict=False)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "names").write_text("127.0.0.1 localhost\n" + "".join(known))
        (folder / "lookup").write_text("hosts: files\n")  # there is no name server to wait for
        for number, (name, address) in enumerate(zip(names, addresses, strict=False)):
            space, cable = f"{PREFIX}-{os.getpid()}-{name}", f"{bridge}v{number}"
            home = folder / name
            home.mkdir(exist_ok=True)
            host = Host(
                name=name,
                space=space,
                cable=cable,
                address=address,
                folder=home,
                environment={**own, "RAY_ADDRESS": f"{addresses[0]}:6379"},
            )
            made[name] = host
            _ip("netns", "add", space)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", cable, "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{address}/{network.prefixlen}", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", space, "link", "set", device, "up")
            _ip(
                "-n", space, "route", "add", "default", "via", gateway
            )  # Ray takes the address of the way out for its own
        yield Hosts(address=gateway, all=made)
    finally:
        for host in made.values():
            host.kill()
        _remove(os.getpid())


def sweep() -> None:
    """Take away what hosts left behind whose maker is gone."""
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    makers = re.findall(rf"^{PREFIX}-(\d+)-", spaces, re.MULTILINE) + re.findall(rf": {PREFIX}(\d+)[v:]", links)
    for maker in {int(found) for found in makers}:
        if not psutil.pid_exists(maker):
            _remove(maker)


def _remove(maker: int) -> None:
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for space in re.findall(rf"^({PREFIX}-{maker}-\S+)", spaces, re.MULTILINE):
        for pid in subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", space], capture_output=True)
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
    for link in re.findall(rf": ({PREFIX}{maker}(?:v\d+)?)[@:]", links):
        subprocess.run(["ip", "link", "del", link], capture_output=True)


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    with open("/run/lock/sscm-hosts", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free_network() -> ipaddress.IPv4Network:
    """A sixteenth of :data:`NETWORK` that no device of this machine is in."""
    told = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True).stdout
    taken = [ipaddress.ip_interface(found).network for found in re.findall(r"inet (\S+)", told)]
    for network in ipaddress.ip_network(NETWORK).subnets(new_prefix=28):
        if not any(network.overlaps(other) for other in taken):
            return network
    raise RuntimeError(f"all of {NETWORK} is in use")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
