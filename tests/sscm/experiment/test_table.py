"""Tables of an experiment."""

import io

from rich.console import Console

from sscm.experiment.table import markdown, terminal


def test_markdown(results):
    page = markdown(results)
    assert "- data: two modalities" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("|  | s1→s2 recall@10 | s2→s1 recall@10 | s1–s2 modality gap ↓ | s1→s1 F1@5 |")
    assert lines[2].startswith("| NT-Xent | 0.510 ± 0.010 | 0.255 ± 0.005 | 0.490 ± 0.010 |")
    assert lines[4].startswith("| joint, centred (2 of 3 seeds) | **0.705** ± 0.007 |")
    assert "| 11 |" in lines[2]
    assert "- missing: joint, seed 2: memory was short" in page
    assert "- label metrics left out" in page


def test_terminal_fits_80_columns(results):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal(results))
    text = console.export_text()
    assert "s1→s2" in text and "gap↓" in text
    assert ".510±.010" in text
    assert "joint, centred (2 of 3 seeds)" in text
    assert "seed 2: memory was short" in text
