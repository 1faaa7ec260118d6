"""The table of an experiment: Markdown for a page, rich for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sscm.evaluation.figures import short_number
from sscm.evaluation.protocols import metric as metric_named
from sscm.experiment.results import Column, Results, Row


def markdown(results: Results) -> str:
    """A page: what the figures were made of, the table, and what is missing.

    The best mean of each column is bold; ± is the sample standard deviation over seeds.
    """
    columns = shown_columns(results)
    lines = [f"# {results.name}", ""]
    lines += [f"- {label}: {text}" for label, text in results.header.items()]
    lines += ["", "| " + " | ".join(["", *(c.title for c in columns), "training, s"]) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for row in results.rows:
        cells = [_cell(results, row, column) for column in columns]
        lines.append("| " + " | ".join([_name(row), *cells, _seconds(row)]) + " |")
    lines += ["", *(f"- {text}" for text in _legend(results, columns))]
    return "\n".join(lines) + "\n"


def terminal(results: Results) -> Group:
    """The same for a terminal of 80 columns: one table a direction."""
    columns = shown_columns(results)
    parts: list[Text | Table] = [Text(f"{label}: {text}") for label, text in results.header.items()]
    for direction in dict.fromkeys(column.direction for column in columns if "->" in column.direction):
        ends = sorted(direction.split("->"))
        chosen = [c for c in columns if c.direction in (direction, "–".join(ends))]
        table = Table(title=direction.replace("->", "→"), box=box.SIMPLE_HEAD, padding=0, title_justify="left")
        table.add_column("")
        for column in chosen:
            known = metric_named(column.metric)
            arrow = "" if known.higher_is_better else "↓"
            table.add_column(
                f" {known.short}{f'@{column.k}' if column.k else ''}{arrow}", justify="right", no_wrap=True
            )
        for row in results.rows:
            table.add_row(escape(_name(row)), *(" " + _short(results, row, column) for column in chosen))
        parts.append(table)
    parts += [Text(text) for text in _legend(results, columns)]
    return Group(*parts)


def shown_columns(results: Results) -> list[Column]:
    """Columns that any row has a value in."""
    return [column for column in results.columns if any(column in row.values for row in results.rows)]


def _cell(results: Results, row: Row, column: Column) -> str:
    mean, spread = row.mean(column), row.spread(column)
    if mean is None:
        return ""
    text = f"**{mean:.3f}**" if results.best(column) is row else f"{mean:.3f}"
    return text if spread is None else f"{text} ± {spread:.3f}"


def _short(results: Results, row: Row, column: Column) -> str:
    mean, spread = row.mean(column), row.spread(column)
    if mean is None:
        return ""
    text = short_number(mean, column.metric)
    text = f"[bold]{text}[/bold]" if results.best(column) is row else text
    return text if spread is None else f"{text}±{short_number(spread, column.metric)}"


def _name(row: Row) -> str:
    if not row.missing:
        return row.name
    return f"{row.name} ({len(row.seeds)} of {len(row.seeds) + len(row.missing)} seeds)"


def _seconds(row: Row) -> str:
    return f"{statistics.fmean(row.train_seconds):,.0f}" if row.train_seconds else ""


def _legend(results: Results, columns: Sequence[Column]) -> list[str]:
    names = dict.fromkeys(column.metric for column in columns)
    lines = [f"{metric_named(name).short} {name}: {metric_named(name).text}" for name in names]
    lines += [*results.notes, *(f"missing: {each}" for each in results.missing)]
    return lines
