"""Findings as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from sscm.cluster.findings import Finding, Status, counted

SHOWN = 4
"""Rows of a check whose findings are well and differ, and names of nodes in a row."""
COLOURS: Mapping[Status, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def findings_table(findings: Sequence[Finding], nodes: Sequence[str], seconds: float) -> Table:
    """A table of findings: those that are equal share a row, and of those that are well only some have one.

    Args:
        findings: in the order of their checks.
        nodes: names of all nodes.
        seconds: that the check took.
    """
    told = ", ".join(f"{count} {status}" for status, count in reversed(counted(findings).items()))
    title = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''} in {seconds:.0f} s: {told}"
    table = Table(title=title, title_justify="left")
    for name in ("status", "check", "node", "seen", "remedy"):
        table.add_column(name, overflow="fold", no_wrap=name == "status")
    for finding, names in merged(findings):
        status = Text(finding.status, COLOURS[finding.status])
        table.add_row(status, finding.check, _named(names, nodes), Text(finding.seen), Text(finding.remedy))
    return table


def merged(findings: Sequence[Finding]) -> list[tuple[Finding, list[str]]]:
    """Findings that differ by their node alone, once with all of their nodes; within a check the worst first."""
    rows: dict[tuple[str, str, str, str], tuple[Finding, list[str]]] = {}
    for finding in findings:
        key = (finding.check, finding.status, finding.seen, finding.remedy)
        rows.setdefault(key, (finding, []))[1].append(finding.node)
    shown: list[tuple[Finding, list[str]]] = []
    for check in dict.fromkeys(finding.check for finding in findings):
        for status in ("failed", "warning"):
            shown += [row for row in rows.values() if (row[0].check, row[0].status) == (check, status)]
        well = [row for row in rows.values() if (row[0].check, row[0].status) == (check, "ok")]
        shown += well[:SHOWN]
        if rest := [name for _, names in well[SHOWN:] for name in names]:
            shown.append((Finding(status="ok", check=check, node="", seen="well, too; --json tells of each"), rest))
    return shown


def _named(names: Sequence[str], nodes: Sequence[str]) -> str:
    if len(nodes) > 1 and set(nodes) <= set(names):
        others = [name for name in names if name not in nodes]
        return ", ".join([f"all {len(nodes)} nodes", *others])
    if len(names) <= SHOWN:
        return "\n".join(names)
    return "\n".join([*names[:2], f"… {len(names)} in all"])
