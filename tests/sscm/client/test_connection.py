from __future__ import annotations

import pytest

from sscm.client import AsyncClient, Client
from sscm.errors import ServiceError


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["localhost:1", "nonsense", "http://[::1", "ftp://host", "http://", ""])
def test_what_is_no_url_is_told_when_the_client_is_made(kind, url):
    with pytest.raises(ServiceError, match=r"is no URL.*expected one like http://127"):
        kind(url)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout_s": 0}, "timeout_s = 0; expected more than 0"),
        ({"timeout_s": float("nan")}, "timeout_s = nan"),
        ({"attempts": 0}, "attempts = 0; expected at least 1"),
    ],
)
def test_settings_that_cannot_work_are_told(settings, message):
    with pytest.raises(ServiceError, match=message):
        Client(**settings)


@pytest.mark.parametrize("key", ["sécret", "secret\n", "sec ret"])
def test_a_key_that_no_header_can_carry_is_told_without_showing_it(key):
    with pytest.raises(ServiceError, match="API key has characters") as told:
        Client(api_key=key)
    assert key not in str(told.value)


def test_the_key_is_sent_from_the_argument_or_else_from_the_environment(server, monkeypatch):
    def ask(**how):
        with Client(server.url, **how) as client:
            client.search(id="a", modality="s1", target="s2")
        return server.headers("Authorization")[-1]

    assert ask() is None
    assert ask(api_key="mine") == "Bearer mine"
    monkeypatch.setenv("SSCM_API_KEY", "ours")
    assert ask() == "Bearer ours"
    assert ask(api_key="mine") == "Bearer mine"
    assert ask(api_key="") is None


def test_a_service_may_lie_below_a_path(server):
    for url in (f"{server.url}/maps", f"{server.url}/maps/"):
        with Client(url) as client:
            client.search(id="a", modality="s1", target="s2")
            assert client.url == f"{server.url}/maps"
        assert server.asked[-1][1] == "/maps/v1/search"
