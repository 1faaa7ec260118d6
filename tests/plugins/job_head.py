"""A Ray head that ``ray start`` runs, with a dashboard that takes jobs, beside whatever Ray else runs here."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

RAY = Path(sys.executable).with_name("ray")


def ports(count):
    """TCP ports of this machine that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    found = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return found


@contextlib.contextmanager
def job_head(cpus, folder, token=False, **environment):
    """A head in the foreground; ended by its own process group, with all that runs on it.

    Args:
        cpus: logical CPUs.
        folder: where its log goes, and the token of this cluster alone.
        token: whether whoever submits a job must have the token.
        environment: of the head, beside ours without what is Ray's.

    Yields:
        The address for jobs, the environment of whoever submits one, and the folder of its session.

    Raises:
        RuntimeError: it did not start.
    """
    port, dashboard, client, agent, metrics = ports(5)
    told = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST"))}
    told |= {"PATH": f"{RAY.parent}:{told['PATH']}", "HOME": str(folder), **environment}
    if token:
        told["RAY_AUTH_MODE"] = "token"
        subprocess.run(
            [str(RAY), "get-auth-token", "--generate"], env=told, check=True, capture_output=True, timeout=60
        )
    session = Path(tempfile.mkdtemp(prefix="sscm-", dir="/tmp"))  # Ray's sockets want a short path
    words = [RAY, "start", "--head", "--block", "--num-cpus", cpus, "--object-store-memory", 300_000_000]
    words += ["--port", port, "--dashboard-port", dashboard, "--ray-client-server-port", client]
    words += ["--dashboard-agent-listen-port", agent, "--metrics-export-port", metrics]
    words += ["--temp-dir", session, "--disable-usage-stats"]
    log = Path(folder) / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(word) for word in words], env=told, stdout=output, stderr=output, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{dashboard}"
            _wait_for(address, process, log)
            yield address, told, session
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)
            shutil.rmtree(session, ignore_errors=True)


def _wait_for(address, process, log):
    """Until the head takes jobs."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"ray start ended with {process.returncode}: {log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/api/version", timeout=5).status_code in (200, 401):
                return
        time.sleep(0.2)
    raise RuntimeError(f"no head at {address} after 120 s: {log.read_text()[-2000:]}")
