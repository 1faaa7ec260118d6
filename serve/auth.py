"""Who may ask what: API keys where they are configured, and this machine only where nobody else is meant.

* ``/v1/…`` and ``/metrics`` need a key, ``/v1/admin/…`` one of role ``admin``. ``/metrics`` because it tells how much
  is asked and of what; Prometheus can send a key (``authorization: credentials_file``).
* ``/livez`` and ``/readyz`` are free, since an orchestrator's probes have no key; so are the page, its files and the
  API's description: they hold nothing of the archive.
* Without configured keys whoever reaches the service may search. Who asks for ``/v1/admin/…`` is then not known, so
  that it is answered only where nobody else can ask: ``sscm serve`` on a loopback address with a Ray of its own, asked
  by that address, and neither by a proxy nor by a page of another site. Client addresses would not tell: behind Ray
  Serve's load balancer every request comes from this machine.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping

from serve.api import HttpProblem
from sscm.errors import SscmError
from sscm.keys import Key, find_key, read_keys

log = logging.getLogger("ray.serve")

REFRESH_S = 10.0
"""Seconds after which a request has the key file read again: so long may a key that was removed still work."""

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="sscm"'}
_NO_KEY = "no API key; send one in the header Authorization, as `Bearer KEY`, or in X-API-Key"
_NOBODY = (
    "no keys are configured, so that only requests of the service's own machine, to a loopback address, may do this; "
    "see `sscm keys` and `sscm serve --keys`"
)
_PORT = re.compile(rb":\d+$")
_LOOPBACK = frozenset({b"127.0.0.1", b"localhost", b"[::1]"})
_PROXIED = (b"forwarded", b"via", b"x-forwarded-for")
HEADERS = frozenset({b"authorization", b"host", b"sec-fetch-site", b"x-api-key", *_PROXIED})
"""Request headers that matter here."""
_GUARDED = ("/v1/", "/metrics")
_ADMIN = "/v1/admin"


class KeyRing:
    """The keys of a file, read again now and then, so that keys come and go while the service runs.

    Args:
        uri: path or URI of the key file.

    Raises:
        WorkspaceError: there is no such file.
        ConfigError: it is no key file.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._keys = read_keys(uri)
        self._due = time.monotonic() + REFRESH_S

    def find(self, secret: bytes) -> Key | None:
        """The key that a secret is; None where it is none. To be called from an event loop."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + REFRESH_S
            asyncio.get_running_loop().run_in_executor(None, self.refresh)
        return find_key(self._keys, secret)

    def refresh(self) -> None:
        """Read the file; where that fails, the keys known stay, and the log says so."""
        try:
            self._keys = read_keys(self._uri)
        except SscmError as error:
            log.error("keys are those read before: %s", error)


class Access:
    """Decides whether a request is answered.

    Args:
        keys: who may ask; None for everybody.
        local: whether the service listens on a loopback address only.
    """

    def __init__(self, keys: KeyRing | None = None, local: bool = False) -> None:
        self._keys = keys
        self._local = local

    def admit(self, path: str, told: Mapping[bytes, bytes]) -> tuple[str | None, HttpProblem | None]:
        """Decide on a request.

        Args:
            path: of the request, below the application's root.
            told: headers of the request, of those in :data:`HEADERS`.

        Returns:
            Name of its key, None where it has none or needs none; and why it is refused, None where it is not.
        """
        if not path.startswith(_GUARDED):
            return None, None
        admin = path.startswith(_ADMIN)
        if self._keys is None:
            return None, None if not admin or (self._local and _from_here(told)) else HttpProblem(403, _NOBODY)
        secret = _secret(told)
        if secret is None:
            return None, HttpProblem(401, _NO_KEY, _CHALLENGE)
        key = self._keys.find(secret)
        if key is None:
            return None, HttpProblem(401, "the API key is not known; `sscm keys add` makes one", _CHALLENGE)
        if admin and key.role != "admin":
            wrong = f"key {key.name!r} has role {key.role!r}; this needs one of role 'admin'"
            return key.name, HttpProblem(403, wrong)
        return key.name, None


def _from_here(told: Mapping[bytes, bytes]) -> bool:
    """Whether a request that came by a loopback address was meant to: by its name, through no proxy, by no other site.

    A name of somebody else's that leads here is how pages get round the browser's rules (DNS rebinding).
    """
    return (
        _PORT.sub(b"", told.get(b"host", b"")) in _LOOPBACK
        and not any(name in told for name in _PROXIED)
        and told.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin")
    )


def _secret(told: Mapping[bytes, bytes]) -> bytes | None:
    """The key that a request came with. X-API-Key goes first: a proxy may need Authorization for itself."""
    if b"x-api-key" in told:
        return told[b"x-api-key"].strip()
    scheme, _, value = told.get(b"authorization", b"").partition(b" ")
    return value.strip() if scheme.lower() == b"bearer" and value.strip() else None
