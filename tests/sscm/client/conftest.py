"""A real HTTP server that answers as told, and what an sscm service would answer."""

from __future__ import annotations

import copy
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

ANSWER = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "stac_version": "1.1.0",
            "id": "p[1]",
            "geometry": {"type": "Polygon", "coordinates": [[[-1, -3], [-0.5, -3], [-0.5, -2], [-1, -3]]]},
            "bbox": [-1.0, -3.0, -0.5, -2.0],
            "properties": {
                "score": 0.98765,
                "target": "s2",
                "labels": ["Pastures"],
                "datetime": "2018-06-01T10:00:00Z",
                "country": "Serbia",
            },
            "assets": {
                "preview_s1": {"href": "/v1/items/p%5B1%5D/preview/s1", "type": "image/jpeg"},
                "preview_s2": {"href": "/v1/items/p%5B1%5D/preview/s2", "type": "image/jpeg"},
            },
            "links": [{"rel": "self", "href": "/v1/items/p%5B1%5D"}],
        },
        {
            "type": "Feature",
            "id": "p/2",
            "geometry": None,
            "properties": {"score": 0.5, "target": "s1", "labels": None, "datetime": None},
            "assets": {},
            "links": [],
        },
    ],
    "numberMatched": 1234,
    "numberReturned": 2,
    "links": [],
    "sscm": {
        "generation": 7,
        "model": {"name": "small", "fingerprint": "ab"},
        "target": ["s2", "s1"],
        "simulated": True,
        "complete": False,
    },
}
CUT_OFF = "cut off"
"""In place of an answer: the connection ends in the middle of one."""


class Server:
    """Gives its answers in turn, the last one for ever, and keeps what it was asked.

    An answer is status, body (JSON or bytes) and headers; or :data:`CUT_OFF`; or seconds of silence.
    """

    def __init__(self):
        self.answers, self.asked = [(200, ANSWER, {})], []
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                outer.connections += 1

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append((self.command, self.path, dict(self.headers), body))
                answer = outer.answers[0] if len(outer.answers) == 1 else outer.answers.pop(0)
                if answer == CUT_OFF:
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"type"')
                    self.close_connection = True
                    return
                if isinstance(answer, float):
                    time.sleep(answer)
                    self.close_connection = True
                    return
                status, body, headers = answer
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def headers(self, name):
        return [headers.get(name) for _, _, headers, _ in self.asked]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("SSCM_API_KEY", raising=False)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def answer():
    """A FeatureCollection to change."""
    return copy.deepcopy(ANSWER)


@pytest.fixture
def cut_off():
    return CUT_OFF


@pytest.fixture
def nobody():
    """A URL that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def deaf():
    """URL of a server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
