"""Findings as a table."""

from rich.console import Console

from sscm.cluster.findings import COMMAND, Finding, counted
from sscm.cluster.table import findings_table, merged

NODES = ("a", "b", "c", "d", "e", "f")


def ok(node, seen="well", check="clock"):
    return Finding(status="ok", check=check, node=node, seen=seen)


def failed(node):
    return Finding(status="failed", check="clock", node=node, seen="late", remedy="set it")


def text(findings, nodes=NODES):
    console = Console(width=160, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(findings_table(findings, nodes, 4.2))
    return captured.get()


def test_equal_findings_share_a_row_and_the_worst_of_a_check_comes_first():
    findings = [ok("a"), failed("b"), ok("c"), ok("a", check="disk"), failed("d")]
    rows = [(finding.check, finding.status, names) for finding, names in merged(findings)]
    assert rows == [("clock", "failed", ["b", "d"]), ("clock", "ok", ["a", "c"]), ("disk", "ok", ["a"])]


def test_many_that_differ_are_cut_short_but_no_failure_is():
    findings = [*(ok(node, f"{node} ms") for node in NODES), *map(failed, NODES)]
    rows = merged(findings)
    assert rows[0][1] == list(NODES)
    assert [names for finding, names in rows if finding.seen.startswith("well, too")] == [["e", "f"]]
    assert len(rows) == 6


def test_the_table_tells_counts_nodes_and_remedies():
    told = text([*(ok(node, check="disk") for node in (COMMAND, *NODES)), failed("b")])
    assert "6 nodes in 4 s: 1 failed, 0 warning, 7 ok" in told
    assert "all 6 nodes, this command" in told
    assert "set it" in told
    assert "1 node in" in text([ok("a")], ("a",))


def test_what_a_node_tells_is_no_markup():
    assert "[/red]" in text([ok("a", "[/red]")])


def test_findings_are_counted():
    assert counted([ok("a"), failed("a"), failed("b")]) == {"ok": 1, "warning": 0, "failed": 2}
