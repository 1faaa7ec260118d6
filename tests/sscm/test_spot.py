"""A spot machine's notice reaches Ray, from metadata as Amazon has them."""

import http.server
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from sscm import spot
from sscm.cli import main
from sscm.config import SpotConfig
from sscm.errors import ConfigError
from tests.plugins.raylets import raylets, until


class Metadata(http.server.BaseHTTPRequestHandler):
    """Instance metadata, version 2: nothing without a token, and each token is good for some requests."""

    def do_PUT(self):
        assert self.path == "/latest/api/token"
        assert 1 <= int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21_600
        self.server.tokens.append(f"token{len(self.server.tokens)}")
        self.server.uses = 0
        self._answer(200, self.server.tokens[-1])

    def do_GET(self):
        assert self.path == "/latest/meta-data/spot/instance-action"
        token = self.headers["X-aws-ec2-metadata-token"]
        self.server.uses += 1
        if token is None or token != self.server.tokens[-1] or self.server.uses > 2:
            return self._answer(401, "Unauthorized")
        self.server.looks += 1
        if self.server.looks < 5:
            return self._answer(404, "Not Found")
        at = datetime.now(UTC) + timedelta(seconds=120)
        return self._answer(200, json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"}))

    def _answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def metadata(monkeypatch):
    """A server of instance metadata that has a notice at the fifth look."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    server.tokens, server.uses, server.looks = [], 0, 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv(spot.ENDPOINT, f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_the_notice_is_waited_for_and_tokens_are_renewed(metadata):
    notice = spot.wait_notice(f"http://127.0.0.1:{metadata.server_port}", 0.01)
    assert notice.action == "terminate" and 110 < notice.seconds <= 120
    assert len(metadata.tokens) > 1


def test_where_there_are_no_metadata():
    with pytest.raises(ConfigError, match=r"no instance metadata at http://127\.0\.0\.1:9 .* HttpPutResponseHopLimit"):
        spot.wait_notice("http://127.0.0.1:9", 0.01)


def test_a_ray_that_is_not_there(monkeypatch):
    monkeypatch.setattr(spot, "TRIES", 1)
    monkeypatch.setenv("RAY_gcs_server_request_timeout_seconds", "2")
    monkeypatch.setenv("RAY_gcs_rpc_server_connect_timeout_s", "1")
    notice = spot.Notice(action="stop", at=datetime.now(UTC))
    with pytest.raises(ConfigError, match=r"Ray at 127\.0\.0\.1:9 was not told"):
        spot.tell_ray(notice, SpotConfig(address="127.0.0.1:9", node_id="f" * 56))


def test_a_ray_that_does_not_answer(monkeypatch, tmp_path):
    """Whatever hangs is given up, and told again; then the error says so."""
    told = tmp_path / "told"
    ray = tmp_path / "ray"
    ray.write_text(f"#!/bin/sh\necho told >> {told}\nexec sleep 60\n")
    ray.chmod(0o755)
    monkeypatch.setattr(spot.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(spot, "TRIES", 2)
    monkeypatch.setattr(spot, "TRY_S", 0.3)
    with pytest.raises(ConfigError, match=r"was not told: no answer within 0\.3 s"):
        spot.tell_ray(spot.Notice(action="stop", at=datetime.now(UTC)), SpotConfig(address="127.0.0.1:9"))
    assert told.read_text() == "told\ntold\n"


@pytest.mark.ray
def test_ray_drains_the_node(metadata, capsys):
    with raylets(1, 1) as (cluster, (_, node)):
        words = ["--address", cluster.address, "--node-id", node.node_id, "--every-s", "0.1"]
        assert main(["cluster", "spot", *words]) == 0
        assert "this machine will terminate in 1" in capsys.readouterr().out
        # A node on which nothing runs leaves at once.
        until(lambda: node.node_id not in cluster.global_state._live_node_ids(), 20, "the node leaves")
