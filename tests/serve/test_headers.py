"""What browsers are told: by every answer, and by answers to pages of other origins."""

from __future__ import annotations

import pytest

from serve.headers import AnswerHeaders
from sscm.config import ServeConfig
from sscm.errors import ConfigError

MAP = b"https://map.example.org"
PREFLIGHT = {b"origin": MAP, b"access-control-request-method": b"POST"}


def test_every_answer_may_load_nothing_and_be_framed_nowhere():
    headers = dict(AnswerHeaders().added([(b"content-type", b"image/jpeg")], None))
    assert headers == {
        b"content-type": b"image/jpeg",
        b"x-content-type-options": b"nosniff",
        b"referrer-policy": b"no-referrer",
        b"cross-origin-resource-policy": b"same-origin",
        b"x-frame-options": b"DENY",
        b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    }


def test_a_page_keeps_its_own_policy():
    added = AnswerHeaders().added([(b"content-security-policy", b"default-src 'self'")], None)
    assert [value for name, value in added if name == b"content-security-policy"] == [b"default-src 'self'"]


def test_only_pages_of_the_origins_named_may_read():
    headers = AnswerHeaders(["https://map.example.org", "http://localhost:3000"])
    for origin in (MAP, b"http://localhost:3000"):
        added = dict(headers.added([], origin))
        assert added[b"access-control-allow-origin"] == origin
        assert b"X-Request-ID" in added[b"access-control-expose-headers"]
        assert added[b"vary"] == b"Origin"
        assert b"access-control-allow-credentials" not in added
    for origin in (None, b"null", b"https://map.example.org.evil.org", b"http://map.example.org", b"*"):
        added = dict(headers.added([], origin))
        assert b"access-control-allow-origin" not in added
        assert added[b"vary"] == b"Origin"  # a cache must not hand one origin's answer to another
    assert b"access-control-allow-origin" not in dict(AnswerHeaders().added([], MAP))


def test_a_preflight_allows_the_headers_of_keys():
    told = dict(AnswerHeaders(["https://map.example.org"]).preflight("OPTIONS", PREFLIGHT) or ())
    assert told[b"access-control-allow-methods"] == b"GET, POST"
    assert set(told[b"access-control-allow-headers"].split(b", ")) >= {b"Authorization", b"X-API-Key", b"Content-Type"}


def test_what_is_no_preflight_is_for_the_application():
    headers = AnswerHeaders(["https://map.example.org"])
    assert headers.preflight("POST", PREFLIGHT) is None
    assert headers.preflight("OPTIONS", {b"origin": MAP}) is None
    assert AnswerHeaders().preflight("OPTIONS", PREFLIGHT) is None
    assert headers.preflight("OPTIONS", {**PREFLIGHT, b"origin": b"https://evil.org"}) == []


def test_settings_name_origins_one_by_one():
    config = ServeConfig(cors_origins="https://map.example.org, http://[::1]:3000,")
    assert config.origins == ("https://map.example.org", "http://[::1]:3000")
    assert ServeConfig().origins == ()
    for wrong in ("*", "https://*.example.org", "https://map.example.org/", "map.example.org", "null"):
        with pytest.raises(ConfigError, match="expected origins such as"):
            ServeConfig(cors_origins=wrong)
