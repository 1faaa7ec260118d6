"""Who may ask what: API keys where they are configured, and this machine only where nobody else is meant.

* ``/v1/…`` and ``/metrics`` need a key, ``/v1/admin/…`` one of role ``admin``. ``/metrics`` because it tells how much
  is asked and of what; Prometheus can send a key (``authorization: credentials_file``).
* ``/livez`` and ``/readyz`` are free, since an orchestrator's probes have no key; so are the page, its files and the
  API's description: they hold nothing of the archive.
* Without configured keys whoever reaches the service may search. Who asks for ``/v1/admin/…`` is then not known, so
  that it is refused unless the service is meant for this machine alone: ``sscm serve`` on a loopback address with a
  Ray of its own. There, no request from another machine is answered at all: a gateway's own port, behind the load
  balancer, is open on every interface, whatever address the load balancer listens on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from starlette.types import Scope

from serve.api import HttpProblem
from sscm.errors import SscmError
from sscm.keys import Key, find_key, read_keys

log = logging.getLogger("ray.serve")

REFRESH_S = 10.0
"""Seconds after which a request has the key file read again: so long may a key that was removed still work."""

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="sscm"'}
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
        local: whether requests of this machine alone are answered, and may do everything where there are no keys.
    """

    def __init__(self, keys: KeyRing | None = None, local: bool = False) -> None:
        self._keys = keys
        self._local = local

    def admit(self, scope: Scope, path: str, told: Mapping[bytes, bytes]) -> str | None:
        """Let a request through.

        Args:
            scope: of the request.
            path: of the request, below the application's root.
            told: headers of the request.

        Returns:
            Name of its key; None where none is needed.

        Raises:
            HttpProblem: 401, a key is needed; 403, this one, or any, does not suffice.
        """
        if self._local and not from_this_machine(scope):
            raise HttpProblem(
                403, "this service answers requests of its own machine only; `sscm serve --host 0.0.0.0` lets others in"
            )
        if not path.startswith(_GUARDED):
            return None
        admin = path.startswith(_ADMIN)
        if self._keys is None:
            if admin and not self._local:
                raise HttpProblem(
                    403, "no keys are configured, so that nobody may do this over the network; see `sscm serve --keys`"
                )
            return None
        secret = _secret(told)
        if secret is None:
            raise HttpProblem(
                401, "no API key; send one in the header Authorization, as `Bearer KEY`, or in X-API-Key", _CHALLENGE
            )
        key = self._keys.find(secret)
        if key is None:
            raise HttpProblem(401, "the API key is not known; `sscm keys add` makes one", _CHALLENGE)
        if admin and key.role != "admin":
            raise HttpProblem(403, f"key {key.name!r} has role {key.role!r}; this needs one of role 'admin'")
        return key.name


def from_this_machine(scope: Scope) -> bool:
    """Whether a request's connection begins where it ends: at a loopback address, or at the very address it came to."""
    client, server = scope.get("client"), scope.get("server")
    if client is None:
        return False
    host = str(client[0])
    return host.startswith("127.") or host == "::1" or (server is not None and host == server[0])


def _secret(told: Mapping[bytes, bytes]) -> bytes | None:
    """The key that a request came with. X-API-Key goes first: a proxy may need Authorization for itself."""
    if b"x-api-key" in told:
        return told[b"x-api-key"].strip()
    scheme, _, value = told.get(b"authorization", b"").partition(b" ")
    return value.strip() if scheme.lower() == b"bearer" and value.strip() else None
