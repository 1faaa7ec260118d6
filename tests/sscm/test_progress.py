from sscm import progress as module
from sscm.progress import progress


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 11.0, 12.0, 20.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("ingest", 200) as advance:
        advance(10)
        advance(100)
        advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "ingest: 110 of 200 pairs, 10 pairs/s, 9 s left",
        "ingest: 120 of 200 pairs, 6 pairs/s, 13 s left",
    ]


def test_nothing_done_yet_promises_nothing(capsys):
    with progress("train", 5, "steps"):
        pass
    assert capsys.readouterr().err == "train: 0 of 5 steps, starting\n"
