"""The image's recipe: what hadolint and the project's own rules say. Nothing is built here."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sscm import runtime

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "cluster/docker/Dockerfile"


@pytest.fixture(scope="module")
def text():
    """The file with comments taken out and continued lines joined."""
    lines = [line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines).replace("\\\n", " ")


@pytest.fixture(scope="module")
def stages(text):
    """Name → its instructions."""
    return {part.split("\n")[0].split(" AS ")[1]: part for part in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]}


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("no hadolint: pip install -e '.[dev]' brings it")
    done = subprocess.run([hadolint, "--no-color", FILE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_an_image_runs_as_nobody_special_and_says_whether_it_is_healthy(stages, name):
    assert re.findall(r"^USER (\S+)", stages[name], re.MULTILINE) == ["1000"]
    assert "HEALTHCHECK" in stages[name]
    assert f"COPY --from=build-{name} /opt/sscm /opt/sscm" in stages[name]


def test_the_base_is_pinned_and_may_be_a_digest(text):
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-bookworm$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}", "base", "build"}


def test_every_package_is_constrained(text):
    for command in re.findall(r"pip install ([^&\n]+)", text):
        assert "-c constraints.txt" in command or "--no-deps --force-reinstall ." in command, command


def test_its_environment_is_that_of_a_ray_of_our_own(stages):
    given = dict(re.findall(r"\b(RAY_\w+)=(\S+)", stages["base"]))
    assert {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"} <= given.keys()
    assert given.items() <= runtime._ENVIRONMENT.items()


def test_what_probes_and_launchers_call_is_installed(stages):
    for program in ("wget", "openssh-client", "rsync", "tini", "libexpat1"):
        assert re.search(rf"\b{program}\b", stages["base"]), program


def test_only_what_is_copied_reaches_the_build(text):
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for arguments in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        copied |= set(arguments.split()[:-1])
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
