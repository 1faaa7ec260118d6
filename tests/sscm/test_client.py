"""The client against a real HTTP server that answers as told."""

from __future__ import annotations

import io
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console

from sscm import client
from sscm.client import print_answers, search_id, search_image
from sscm.errors import ServiceError

ANSWER = {
    "type": "FeatureCollection",
    "features": [
        {
            "id": "p[1]",
            "bbox": [-1.0, -3.0, -0.5, -2.0],
            "properties": {"score": 0.98765, "labels": ["Pastures"], "datetime": "2018-06-01T10:00:00Z"},
        },
        {"id": "p2", "properties": {"score": 0.5, "labels": None, "datetime": None}},
    ],
    "numberMatched": 1234,
    "numberReturned": 2,
    "sscm": {"target": "s2", "simulated": True, "complete": False},
}


class Server:
    """Gives its answers in turn, the last one for ever, and keeps what it was asked."""

    def __init__(self):
        self.answers, self.asked = [(200, ANSWER, {})], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.asked.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                status, body, headers = outer.answers[0] if len(outer.answers) == 1 else outer.answers.pop(0)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    waits = []
    monkeypatch.setattr(client.time, "sleep", waits.append)
    return waits


def test_an_image_is_sent_with_what_is_asked(server, tmp_path):
    (tmp_path / "x_VV.tif").write_bytes(b"radar")
    (tmp_path / "x_VH.tif").write_bytes(b"more radar")
    files = [tmp_path / "x_VV.tif", str(tmp_path / "x_VH.tif")]
    filters = {"labels": ["Pastures"]}
    assert search_image(files, modality="s1", target="s2", url=server.url, limit=3, filters=filters) == ANSWER
    [(path, body)] = server.asked
    assert path == "/v1/search/image"
    for part in (b'filename="x_VV.tif"', b"more radar", b"s1", b"s2", b'{"labels": ["Pastures"]}'):
        assert part in body


def test_an_id_is_sent_with_what_is_asked(server):
    found = search_id("p1", modality="s1", target="s2", url=server.url, limit=3, filters={"bbox": [1, 2, 3, 4]})
    assert found == ANSWER
    [(path, body)] = server.asked
    assert path == "/v1/search"
    assert json.loads(body) == {"id": "p1", "modality": "s1", "target": "s2", "limit": 3, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_service_is_asked_again_after_as_long_as_it_says(server, quick, status):
    server.answers = [(status, {"detail": "busy"}, {}), (status, {}, {"Retry-After": "2"}), (200, ANSWER, {})]
    assert search_id("p", modality="s1", target="s2", url=server.url) == ANSWER
    assert quick == [client.FIRST_WAIT_S, 2.0]


def test_a_service_that_stays_overloaded_is_asked_a_bounded_number_of_times(server, quick):
    server.answers = [(503, {"detail": "too many requests are waiting; try again"}, {"Retry-After": "9999"})]
    with pytest.raises(ServiceError, match="answered 503: too many requests are waiting"):
        search_id("p", modality="s1", target="s2", url=server.url)
    assert len(server.asked) == client.ATTEMPTS
    assert quick == [client.LONGEST_WAIT_S] * (client.ATTEMPTS - 1)


def test_a_refusal_is_told_at_once_with_the_service_s_words(server):
    server.answers = [(400, {"title": "Bad Request", "detail": "target: 's9' is unknown; this index has ['s1']"}, {})]
    with pytest.raises(ServiceError, match=r"answered 400: target: 's9' is unknown; this index has"):
        search_id("p", modality="s1", target="s9", url=server.url)
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b'{"ok": true}'])
def test_another_kind_of_server_is_recognised(server, body):
    server.answers = [(200, body, {})]
    with pytest.raises(ServiceError, match="not as an sscm service does; check the URL"):
        search_id("p", modality="s1", target="s2", url=server.url)


def test_no_server_names_the_remedy(quick):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(
        ServiceError, match=f"no server answers at http://127.0.0.1:{port}; start one with `sscm serve`"
    ):
        search_id("p", modality="s1", target="s2", url=f"http://127.0.0.1:{port}")
    assert len(quick) == client.ATTEMPTS - 1


def test_a_server_that_never_answers_is_left_after_the_time_limit():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(ServiceError, match=r"did not answer within 0\.1 s"):
            search_id("p", modality="s1", target="s2", url=url, timeout_s=0.1)


def test_wrong_arguments_are_told_before_anything_is_sent(server, tmp_path):
    with pytest.raises(ServiceError, match=r"cannot read .*missing\.tif: No such file"):
        search_image([tmp_path / "missing.tif"], modality="s1", target="s2", url=server.url)
    with pytest.raises(ServiceError, match="no file given"):
        search_image([], modality="s1", target="s2", url=server.url)
    for url in ("localhost:1", "nonsense", "http://[::1"):
        with pytest.raises(ServiceError, match="expected"):
            search_id("p", modality="s1", target="s2", url=url)
    assert server.asked == []


def test_answers_are_printed_with_rank_id_score_labels_time_and_place():
    console = Console(width=160, record=True, file=io.StringIO())
    print_answers(ANSWER, console)
    text = console.export_text()
    assert "2 of 1,234 s2 images" in text
    line = next(line for line in text.splitlines() if "p[1]" in line)
    for part in ("1", "0.9877", "Pastures", "2018-06-01T10:00:00Z", "2.500° S, 0.750° W"):
        assert part in line
    assert "simulated: nothing here was observed" in text
    assert "Some index shards did not answer" in text
