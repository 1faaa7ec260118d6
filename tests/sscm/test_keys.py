"""The file of API keys: only hashes in it, only its owner may read it, whole or not at all."""

from __future__ import annotations

import stat

import pytest

from sscm.cli import main
from sscm.errors import ConfigError, WorkspaceError
from sscm.keys import PREFIX, Key, add_key, find_key, read_keys, remove_key


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "new" / "keys.json")


def test_a_key_is_found_by_its_secret_and_by_no_other(uri):
    ann, bob = add_key(uri, "ann", "read"), add_key(uri, "bob", "admin")
    keys = read_keys(uri)
    assert [(key.name, key.role) for key in keys] == [("ann", "read"), ("bob", "admin")]
    assert find_key(keys, ann.encode()).name == "ann"
    assert find_key(keys, bob.encode()).role == "admin"
    for wrong in (b"", ann[:-1].encode(), (ann + "x").encode(), ann.swapcase().encode(), b"\xff\x00", keys[0].digest):
        assert find_key(keys, wrong) is None
    assert find_key((), ann.encode()) is None


def test_all_keys_are_compared_whichever_fits(uri, monkeypatch):
    secrets = [add_key(uri, f"key{i}", "read") for i in range(3)]
    keys = read_keys(uri)
    seen = []
    fits = Key.fits

    def counted(key, secret):
        seen.append(key.name)
        return fits(key, secret)

    monkeypatch.setattr(Key, "fits", counted)
    for secret in (*secrets, "wrong"):
        find_key(keys, secret.encode())
    assert seen == 4 * [key.name for key in keys]


def test_keys_are_long_and_never_the_same(uri):
    secrets = {add_key(uri, f"key{i}", "read") for i in range(20)}
    assert len(secrets) == 20
    assert all(secret.startswith(PREFIX) and len(secret) == len(PREFIX) + 43 for secret in secrets)
    assert len({key.salt for key in read_keys(uri)}) == 20


def test_the_file_holds_no_key_and_only_its_owner_may_read_it(uri, tmp_path):
    secret = add_key(uri, "ann", "read")
    file = tmp_path / "new" / "keys.json"
    text = file.read_text()
    assert secret not in text
    assert secret.removeprefix(PREFIX) not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    add_key(uri, "bob", "read")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]  # nothing half-written is left


def test_a_removed_key_is_gone(uri):
    secret = add_key(uri, "ann", "read")
    add_key(uri, "bob", "read")
    remove_key(uri, "ann")
    assert [key.name for key in read_keys(uri)] == ["bob"]
    assert find_key(read_keys(uri), secret.encode()) is None
    with pytest.raises(ConfigError, match=r"no key 'ann'; there are \['bob'\]"):
        remove_key(uri, "ann")


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 65, "a/b"])
def test_names_that_could_break_a_log_are_refused(uri, name):
    with pytest.raises(ConfigError, match="expected 1 to 64 letters"):
        add_key(uri, name, "read")


def test_a_name_is_taken_once(uri):
    add_key(uri, "ann", "read")
    before = read_keys(uri)
    with pytest.raises(ConfigError, match="a key 'ann' already"):
        add_key(uri, "ann", "admin")
    assert read_keys(uri) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": 2, "keys": []}',
        b'{"format": 1, "keys": [{"name": "a"}]}',
        b'{"format": 1, "keys": [{"name": "a", "role": "root", "salt": "00", "sha256": "00", "created": ""}]}',
        b'{"format": 1, "keys": [{"name": "a", "role": "read", "salt": "zz", "sha256": "00", "created": ""}]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_key_file_is_told(tmp_path, content):
    (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"keys\.json is no key file .*`sscm keys add` makes one"):
        read_keys(str(tmp_path / "keys.json"))


def test_a_file_that_is_not_there_is_told(uri):
    with pytest.raises(WorkspaceError, match="there is no such file"):
        read_keys(uri)
    with pytest.raises(ConfigError, match="names no file"):
        read_keys("workspace/")


def test_keys_may_lie_in_any_file_system():
    uri = "memory://somewhere/keys.json"
    secret = add_key(uri, "ann", "read")
    assert find_key(read_keys(uri), secret.encode()).name == "ann"


def test_the_command_prints_the_key_once(uri, capsys):
    assert main(["keys", "add", "ann", "--role", "read", "--keys", uri]) == 0
    out, told = capsys.readouterr()
    secret = out.strip()
    assert find_key(read_keys(uri), secret.encode()).name == "ann"
    assert f"sscm serve --keys {uri}" in told
    assert main(["keys", "list", "--keys", uri]) == 0
    out, _ = capsys.readouterr()
    assert "ann" in out
    assert "read" in out
    assert secret not in out
    assert read_keys(uri)[0].digest.hex() not in out
    assert main(["keys", "remove", "ann", "--keys", uri]) == 0
    assert read_keys(uri) == ()
    assert main(["keys", "remove", "ann", "--keys", uri]) == 1
    assert "Config error: there is no key 'ann'" in capsys.readouterr().err
