"""What nodes tell of a workspace."""

from sscm.cluster.crew import Answer
from sscm.cluster.storage import judge_workspace

WELL = {
    "tried": {"write_ms": 12.0, "read_ms": 3.0, "made": []},
    "read": {"there": True, "same": True},
    "deleted": {},
    "tidied": {"left": []},
}


def judged(**changes):
    """Findings of nodes a and b, of which b differs."""
    told = {step: {"a": Answer(value=value), "b": Answer(value=value)} for step, value in WELL.items()}
    for step, value in changes.items():
        told[step]["b"] = value if isinstance(value, Answer) else Answer(value=value)
    found = judge_workspace(
        "s3://w", told["tried"], told["read"], {"a": "b", "b": "a"}, told["deleted"], told["tidied"]
    )
    return {finding.node: finding for finding in found}


def test_a_workspace_that_works_is_told_with_its_latency():
    assert {(f.status, f.seen) for f in judged().values()} == {("ok", "write 12.0 ms, read 3.0 ms")}


def test_a_folder_that_is_not_shared_is_told_apart_from_one_of_another_content():
    found = judged(read={"there": False, "same": False})
    assert found["a"].status == "ok" and found["b"].status == "failed"
    assert found["b"].seen == "the file that a has just written to s3://w is not there"
    assert "different machines" in found["b"].remedy
    assert judged(read={"there": True, "same": False})["b"].seen.endswith("is another")


def test_an_error_of_storage_is_told_with_its_own_remedy():
    error = {"error": "cannot write s3://w: the store refuses (403); check that the credentials may", "made": []}
    found = judged(tried=error)["b"]
    assert (found.seen, found.remedy) == (
        "cannot write s3://w: the store refuses (403)",
        "check that the credentials may",
    )
    for step in ("read", "deleted", "tidied"):
        assert judged(**{step: {"error": "cannot list s3://w: no"}})["b"].seen == "cannot list s3://w: no"


def test_silence_what_is_left_and_slowness_are_told():
    assert "a mount that hangs" in judged(tried=Answer(error="no answer within 9 s", silent=True))["b"].remedy
    left = judged(tidied={"left": ["1"]})["b"]
    assert left.status == "warning" and left.seen == "still listed after it was deleted: 1"
    assert judged(tried={"write_ms": 1500.0, "read_ms": 3.0, "made": []})["b"].status == "warning"
