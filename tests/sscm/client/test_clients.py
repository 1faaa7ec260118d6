"""Both clients against a real HTTP server that answers as told: what they send, how often, and what they make of it."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time

import pytest

from sscm.client import AsyncClient, Client
from sscm.client.attempts import FIRST_WAIT_S
from sscm.client.connection import ATTEMPTS
from sscm.errors import ServiceError


class Waiting:
    """A client of either kind; its methods are called alike, and its waits are noted in place of waited."""

    def __init__(self, kind):
        self.kind, self.waits = kind, []

    def __call__(self, url, method, *args, **how):
        settings = {name: how.pop(name) for name in ("api_key", "timeout_s", "attempts") if name in how}
        if self.kind is Client:
            with Client(url, **settings) as client:
                client._sleep = self.waits.append
                return getattr(client, method)(*args, **how)

        async def run():
            async with AsyncClient(url, **settings) as client:
                client._sleep = self._wait
                return await getattr(client, method)(*args, **how)

        return asyncio.run(run())

    async def _wait(self, seconds):
        self.waits.append(seconds)


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def ask(request):
    return Waiting(request.param)


def search(ask, url, **how):
    return ask(url, "search", id="p", modality="s1", target="s2", **how)


def test_both_clients_have_the_same_methods_and_arguments():
    def surface(kind):
        return {
            name: inspect.signature(member).parameters
            for name, member in vars(kind).items()
            if callable(member) and not name.startswith("_")
        }

    assert surface(Client) == surface(AsyncClient)
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters


def test_a_search_is_sent_with_what_is_asked(server, ask):
    answers = search(ask, server.url, limit=3, bbox=[1, 2, 3, 4])
    assert [hit.id for hit in answers] == ["p[1]", "p/2"]
    [(method, path, headers, body)] = server.asked
    assert (method, path, headers["Content-Type"]) == ("POST", "/v1/search", "application/json")
    assert json.loads(body) == {"id": "p", "modality": "s1", "target": "s2", "limit": 3, "bbox": [1, 2, 3, 4]}
    assert headers["User-Agent"].startswith("sscm/")


def test_an_image_is_sent_with_its_files(server, ask, tmp_path):
    (tmp_path / "x_VV.tif").write_bytes(b"radar")
    (tmp_path / "x_VH.tif").write_bytes(b"more radar")
    files = [tmp_path / "x_VV.tif", str(tmp_path / "x_VH.tif"), ("x_VX.tif", b"yet more")]
    ask(server.url, "search_image", files, modality="s1", target=["s2", "s1"], labels=["Pastures"], min_score=0.5)
    [(_, path, _, body)] = server.asked
    assert path == "/v1/search/image"
    for part in (b'filename="x_VV.tif"', b"more radar", b"yet more", b'{"labels": ["Pastures"]}', b"0.5"):
        assert part in body
    assert body.count(b'name="target"') == 2 and body.count(b'name="files"') == 3 and b'"limit"' not in body
    for one in (tmp_path / "x_VV.tif", str(tmp_path / "x_VV.tif"), ("x_VV.tif", b"radar")):
        ask(server.url, "search_image", one, modality="s1", target="s2")
        assert server.asked[-1][3].count(b'name="files"') == 1


def test_files_that_cannot_be_read_are_told_before_anything_is_sent(server, ask, tmp_path):
    with pytest.raises(ServiceError, match=r"cannot read .*missing\.tif: No such file"):
        ask(server.url, "search_image", [tmp_path / "missing.tif"], modality="s1", target="s2")
    with pytest.raises(ServiceError, match="no file given"):
        ask(server.url, "embed", [], modality="s1")
    assert server.asked == []


@pytest.mark.parametrize(
    ("method", "args", "how", "path"),
    [
        ("item", ["a/b%? ü"], {}, "/v1/items/a%2Fb%25%3F%20%C3%BC"),
        ("preview", ["a/b", "s1"], {}, "/v1/items/a%2Fb/preview/s1"),
        ("similar", ["a"], {"modality": "s1", "limit": 3}, "/v1/items/a/similar?modality=s1&limit=3"),
        ("browse", [], {"sample": 3, "bbox": (1, 2.5, 3, 4)}, "/v1/items?sample=3&bbox=1%2C2.5%2C3%2C4"),
        ("browse", [], {"ids": ["a", "b"], "filter": "x = 'y'"}, "/v1/items?ids=a%2Cb&filter=x+%3D+%27y%27"),
        ("browse", [], {"filter": {"op": "not"}}, "/v1/items?filter=%7B%22op%22%3A+%22not%22%7D"),
        ("index", [], {}, "/v1/index"),
        ("model", [], {}, "/v1/model"),
        ("ready", [], {}, "/readyz"),
        ("reload", [], {}, "/v1/admin/reload"),
    ],
)
def test_each_method_asks_its_route_and_refuses_another_server_s_answer(server, ask, method, args, how, path):
    server.answers = [(200, {"hello": "world"}, {})]
    with pytest.raises(ServiceError, match="not as an sscm service does; check the URL"):
        ask(server.url, method, *args, **how)
    [(verb, seen, _, _)] = server.asked
    assert seen == path and verb == ("POST" if method == "reload" else "GET")


def test_filters_that_are_none_are_not_passed_over(server, ask):
    with pytest.raises(Exception, match="countries: unknown; known are bbox"):
        ask(server.url, "browse", countries=["x"])
    with pytest.raises(Exception, match="countries: unknown; known are bbox"):
        ask(server.url, "search_image", ("x", b""), modality="s1", target="s2", countries=["x"])
    assert server.asked == []


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_service_is_asked_again_after_as_long_as_it_says(server, ask, status, answer):
    server.answers = [(status, {"detail": "busy"}, {}), (status, b"", {"Retry-After": "2"}), (200, answer, {})]
    assert len(search(ask, server.url)) == 2
    assert FIRST_WAIT_S / 2 <= ask.waits[0] <= FIRST_WAIT_S and 2 <= ask.waits[1] <= 2 + FIRST_WAIT_S
    assert len(ask.waits) == 2 and len(server.asked) == 3
    ids = set(server.headers("X-Request-ID"))
    assert len(ids) == 1 and len(ids.pop()) == 32
    assert len({body for _, _, _, body in server.asked}) == 1


def test_an_image_is_sent_whole_each_time(server, ask, answer):
    server.answers = [(503, b"", {}), (200, answer, {})]
    ask(server.url, "search_image", ("x.npy", b"pixels" * 100_000), modality="s1", target="s2")
    assert len(ask.waits) == 1 and [body.count(b"pixels") for *_, body in server.asked] == [100_000] * 2


def test_a_service_that_stays_overloaded_is_asked_a_bounded_number_of_times(server, ask):
    server.answers = [(503, {"detail": "too many requests are waiting; try again"}, {"Retry-After": "1"})]
    with pytest.raises(ServiceError, match=r"answered 503: too many requests are waiting; try again \[request") as told:
        search(ask, server.url)
    assert len(server.asked) == ATTEMPTS and len(ask.waits) == ATTEMPTS - 1
    [request] = set(server.headers("X-Request-ID"))
    assert f"[request {request}, asked 4 times]" in str(told.value)
    with pytest.raises(ServiceError, match="answered 503"):
        search(ask, server.url, attempts=1)
    assert len(server.asked) == ATTEMPTS + 1


def test_a_service_that_wants_too_long_a_pause_is_left(server, ask):
    server.answers = [(503, {"detail": "closed"}, {"Retry-After": "9999"})]
    with pytest.raises(ServiceError, match="answered 503: closed"):
        search(ask, server.url)
    assert ask.waits == []


@pytest.mark.parametrize(
    ("status", "detail"), [(400, "target: 's9' is unknown"), (401, "no API key"), (404, "item"), (504, "in 10 s")]
)
def test_a_refusal_is_told_at_once_with_the_service_s_words(server, ask, status, detail):
    server.answers = [(status, {"title": "x", "status": status, "detail": detail}, {"Retry-After": "1"})]
    with pytest.raises(ServiceError, match=rf"answered {status}: {detail} \[request [0-9a-f]{{32}}\]$"):
        search(ask, server.url, api_key="wrong")
    assert len(server.asked) == 1 and ask.waits == []
    assert server.headers("Authorization") == ["Bearer wrong"]


@pytest.mark.parametrize("status", [200, 204, 301, 502])
@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b'{"ok": true}', b"\xff\xfe", b"[" * 100_000])
def test_another_kind_of_server_is_recognised(server, ask, status, body):
    server.answers = [(status, b"" if status == 204 else body, {"Location": "/elsewhere"})]
    with pytest.raises(ServiceError, match=f"answered {status} with .*, not as an sscm service does; check the URL"):
        search(ask, server.url)
    assert len(server.asked) == 1


def test_an_answer_with_a_wrong_value_names_it(server, ask, answer):
    answer["features"][1]["properties"]["score"] = "high"
    server.answers = [(200, answer, {})]
    with pytest.raises(ServiceError, match=r"with features\.1\.properties\.score: .*seen 'high', not as an sscm"):
        search(ask, server.url)


def test_an_answer_that_is_cut_off_is_asked_for_again(server, ask, answer, cut_off):
    server.answers = [cut_off, cut_off, (200, answer, {})]
    assert len(search(ask, server.url)) == 2
    assert len(ask.waits) == 2
    server.answers = [cut_off]
    with pytest.raises(ServiceError, match=r"broke the connection off .*; ask again in a moment .* asked 4 times"):
        search(ask, server.url)


def test_no_server_names_the_remedy(nobody, ask):
    with pytest.raises(ServiceError, match=f"no server answers at {nobody} .*; start one with `sscm serve`"):
        search(ask, nobody)
    assert len(ask.waits) == ATTEMPTS - 1


def test_a_server_that_never_answers_is_left_after_the_time_limit(deaf, ask):
    with pytest.raises(ServiceError, match=r"did not answer within 0\.1 s"):
        search(ask, deaf, timeout_s=0.1)
    assert ask.waits == []


def test_a_slow_answer_is_waited_for(server, ask, answer):
    server.answers = [0.3]
    begun = time.monotonic()
    with pytest.raises(ServiceError, match="broke the connection off"):  # at its end, it says nothing
        search(ask, server.url, timeout_s=5, attempts=1)
    assert time.monotonic() - begun >= 0.3


def test_that_a_service_is_not_ready_is_an_answer(server, ask):
    told = {"ready": False, "generation": 3, "loading": 4, "refused": None, "parts": {"shard 0": "does not answer"}}
    server.answers = [(503, told, {})]
    ready = ask(server.url, "ready")
    assert (ready.ready, ready.generation, ready.loading) == (False, 3, 4)
    assert ready.parts == {"shard 0": "does not answer"}
    assert len(server.asked) == 1


def test_a_picture_is_bytes_and_must_be_one(server, ask):
    server.answers = [(200, b"\xff\xd8...", {"Content-Type": "image/jpeg"})]
    assert ask(server.url, "preview", "a", "s1") == b"\xff\xd8..."
    server.answers = [(200, b"hello", {"Content-Type": "text/html"})]
    with pytest.raises(ServiceError, match="content type 'text/html'; expected an image"):
        ask(server.url, "preview", "a", "s1")


def test_connections_are_used_again(server):
    with Client(server.url) as client:
        for _ in range(5):
            client.search(id="p", modality="s1", target="s2")
    assert server.connections == 1 and len(server.asked) == 5


def test_pages_follow_links_and_end(server, answer):
    pages = []
    for token in ("t1", "t2", None):
        page = json.loads(json.dumps(answer))
        if token:
            page["links"] = [{"rel": "next", "href": "/v1/search", "method": "POST", "body": {"token": token}}]
            page["links"][0]["merge"] = True
        pages.append((200, page, {}))
    server.answers = list(pages)
    with Client(server.url) as client:
        following = client.pages(client.search(id="p", modality="s1", target="s2"))
        assert next(following).matched == 1234 and len(server.asked) == 1  # no page is asked for in advance
        assert len(list(following)) == 2
    assert [json.loads(body).get("token") for *_, body in server.asked] == [None, "t1", "t2"]
    assert [json.loads(body)["id"] for *_, body in server.asked] == ["p", "p", "p"]

    async def run():
        async with AsyncClient(server.url) as client:
            return [page async for page in client.pages(await client.search(id="p", modality="s1", target="s2"))]

    server.answers = list(pages)
    assert len(asyncio.run(run())) == 3


def test_many_calls_of_one_event_loop_are_under_way_at_once(server, answer):
    together = threading.Barrier(20)  # no answer before all have asked
    plain = server.http.RequestHandlerClass.do_POST

    def later(handler):
        together.wait(30)
        plain(handler)

    server.http.RequestHandlerClass.do_POST = later

    async def run():
        async with AsyncClient(server.url) as client:
            calls = [client.search(id=f"p{n}", modality="s1", target="s2") for n in range(20)]
            return await asyncio.gather(*calls)

    assert len(asyncio.run(run())) == 20
    assert len(set(server.headers("X-Request-ID"))) == 20
