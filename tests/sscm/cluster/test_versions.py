"""Who runs other software than the rest."""

import importlib.metadata
import sys

from sscm.cluster.findings import COMMAND
from sscm.cluster.survey import CODE, versions
from sscm.cluster.versions import judge_versions

SAME = {"Python": "3.11.7", "ray": "2.60.0", "torch": "2.14.1", CODE: "abc"}


def judged(**changes):
    told = {COMMAND: SAME, "a": SAME, "b": SAME, "c": SAME}
    for node, change in changes.items():
        told[COMMAND if node == "command" else node] = SAME | change
    return {finding.node: finding for finding in judge_versions(told)}


def test_the_same_everywhere_is_well():
    found = judged()
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["a"].seen == f"Python 3.11.7, ray 2.60.0, torch 2.14.1, {CODE} abc"


def test_the_odd_one_out_is_named_with_both_versions():
    found = judged(b={"ray": "2.59.0", "torch": "2.13.0"})
    assert [node for node, finding in found.items() if finding.status == "failed"] == ["b"]
    assert found["b"].seen == "ray 2.59.0, elsewhere 2.60.0; torch 2.13.0, elsewhere 2.14.1"
    assert "install the same ray and torch everywhere" in found["b"].remedy


def test_this_command_may_be_the_odd_one_and_decides_between_equals():
    assert judged(command={"Python": "3.12.1"})[COMMAND].status == "failed"
    halves = judged(b={"ray": "2.59.0"}, c={"ray": "2.59.0"})
    assert [node for node, finding in halves.items() if finding.status == "failed"] == ["b", "c"]


def test_builds_for_other_devices_are_the_same_version():
    assert judged(b={"torch": "2.14.1+cpu"})["b"].status == "ok"


def test_other_sources_of_the_same_version_are_found():
    found = judged(c={CODE: "def"})["c"]
    assert found.status == "failed" and "--working-dir" in found.remedy


def test_this_process_tells_its_own_versions():
    told = versions()
    assert told["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["ray"] == importlib.metadata.version("ray")
    assert len(told[CODE]) == 12 and told == versions()


def test_changed_sources_have_another_fingerprint(tmp_path, monkeypatch):
    for name in ("sscm", "serve"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name in ("sscm", "serve")]:
        monkeypatch.delitem(sys.modules, name)
    first = versions()[CODE]
    (tmp_path / "serve" / "more.py").write_text("pass\n")
    second = versions()[CODE]
    (tmp_path / "serve" / "more.py").rename(tmp_path / "serve" / "other.py")
    assert len({first, second, versions()[CODE]}) == 3
