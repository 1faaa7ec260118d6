"""API keys of a service: a file that holds their names, roles and hashes, and never the keys themselves.

A key is 32 random bytes. Its hash is one SHA-256 over a salt and the key: a slow hash such as scrypt protects words
that people choose, by making each guess dear; of 2**256 keys nobody guesses one, and a slow hash would only let
strangers keep the service busy with wrong keys. The salt keeps entries and files from being compared.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from sscm.config import Role
from sscm.errors import ConfigError
from sscm.storage_errors import storage_errors
from sscm.workspace import Workspace, open_workspace

FORMAT = 1
PREFIX = "sscm_"
"""Keys begin with this, so that a program that looks for leaked secrets knows one."""
_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key, as far as it is kept.

    Args:
        name: who it is for; stands in logs.
        role: what it may do.
        salt: random bytes.
        digest: SHA-256 of the salt and the key.
        created: ISO 8601 time.
    """

    name: str
    role: Role
    salt: bytes
    digest: bytes
    created: str

    def fits(self, secret: bytes) -> bool:
        """Whether this is the key, told in the same time for every wrong one."""
        return hmac.compare_digest(hashlib.sha256(self.salt + secret).digest(), self.digest)


def find_key(keys: Sequence[Key], secret: bytes) -> Key | None:
    """The key that a secret is, or None. All are compared, whichever it is: the time tells nothing."""
    found = None
    for key in keys:
        if key.fits(secret):
            found = key
    return found


def read_keys(uri: str) -> tuple[Key, ...]:
    """The keys of a file.

    Args:
        uri: path or URI of the file.

    Raises:
        WorkspaceError: there is no such file, or it cannot be read.
        ConfigError: it is no key file.
    """
    folder, name = _place(uri)
    data = folder.read_bytes(name)
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}; this version reads {FORMAT}")
        return tuple(_key_of(entry) for entry in content["keys"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder.uri_of(name)} is no key file ({type(error).__name__}: {error}); `sscm keys add` makes one"
        ) from error


def add_key(uri: str, name: str, role: Role) -> str:
    """Make a key and put its hash into a file, which is made where there is none.

    Returns:
        The key. It is kept nowhere.

    Raises:
        ConfigError: the name is taken or not usable, or the file is no key file.
        WorkspaceError: the file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name {name!r}; expected 1 to 64 letters, digits, or . _ @ -")
    folder, file = _place(uri)
    keys = read_keys(uri) if folder.exists(file) else ()
    if name in {key.name for key in keys}:
        raise ConfigError(f"there is a key {name!r} already; `sscm keys remove {name}` first, or choose another name")
    secret = PREFIX + secrets.token_urlsafe(_BYTES)
    salt = secrets.token_bytes(16)
    digest = hashlib.sha256(salt + secret.encode()).digest()
    created = datetime.now(UTC).isoformat(timespec="seconds")
    _write(folder, file, (*keys, Key(name=name, role=role, salt=salt, digest=digest, created=created)))
    return secret


def remove_key(uri: str, name: str) -> None:
    """Take a key out of a file; it stops working within seconds where a service runs.

    Raises:
        ConfigError: there is none of that name, or the file is no key file.
        WorkspaceError: the file cannot be read or written.
    """
    keys = read_keys(uri)
    kept = tuple(key for key in keys if key.name != name)
    if len(kept) == len(keys):
        raise ConfigError(f"there is no key {name!r}; there are {[key.name for key in keys]}")
    _write(*_place(uri), kept)


def _place(uri: str) -> tuple[Workspace, str]:
    folder, slash, name = uri.rpartition("/")
    if not name:
        raise ConfigError(f"{uri!r} names no file; expected one such as workspace/keys.json")
    return open_workspace(folder or slash or "."), name


def _write(folder: Workspace, name: str, keys: Sequence[Key]) -> None:
    entries = [
        {
            "name": key.name,
            "role": key.role,
            "salt": key.salt.hex(),
            "sha256": key.digest.hex(),
            "created": key.created,
        }
        for key in keys
    ]
    data = (json.dumps({"format": FORMAT, "keys": entries}, indent=1) + "\n").encode()
    if folder.is_local:
        _write_private(Path(folder.path_of(name)), data)
    else:
        folder.write_bytes(data, name)


def _write_private(target: Path, data: bytes) -> None:
    """Write a local file whole or not at all; only its owner may read it, from its first byte on."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    with storage_errors("write", str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def _key_of(entry: Any) -> Key:
    role = entry["role"]
    if role not in get_args(Role):
        raise ValueError(f"role {role!r}; expected one of {list(get_args(Role))}")
    return Key(
        name=str(entry["name"]),
        role=role,
        salt=bytes.fromhex(entry["salt"]),
        digest=bytes.fromhex(entry["sha256"]),
        created=str(entry["created"]),
    )
