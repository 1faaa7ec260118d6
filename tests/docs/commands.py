"""The commands that the pages show: what stands in their ``bash`` blocks, one by one."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "cluster/README.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, order=True)
class Command:
    """A command of a page.

    Args:
        page: its path from the root of the repository.
        line: where it begins.
        text: the command, without comments, its lines joined.
    """

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def blocks(page: Path) -> list[tuple[str, int, str]]:
    """Code blocks of a page: language, line of the first line inside, what is inside."""
    text = page.read_text("utf-8")
    return [
        (found["kind"], text.count("\n", 0, found.start("body")) + 1, textwrap.dedent(found["body"]))
        for found in _BLOCK.finditer(text)
    ]


def commands_of(page: Path) -> list[Command]:
    """Commands of a page, in order."""
    name = page.relative_to(ROOT).as_posix()
    return [
        Command(page=name, line=first + offset, text=text)
        for kind, first, body in blocks(page)
        if kind == "bash"
        for offset, text in split(body)
    ]


def all_commands() -> list[Command]:
    """Commands of all pages."""
    return [command for page in PAGES for command in commands_of(page)]


def split(script: str) -> list[tuple[int, str]]:
    """The commands of a shell script, each with the number of its first line, from 0.

    A command ends with its line, unless that ends within quotes or with a backslash. Comments are left out.
    """
    found, begun, text, quote = [], 0, "", ""
    for number, line in enumerate(script.splitlines()):
        begun = begun if text else number
        at = 0
        while at < len(line):
            letter = line[at]
            if quote:
                quote = "" if letter == quote else quote
            elif letter in "'\"":
                quote = letter
            elif letter == "#" and text[-1:] in ("", " "):
                break
            elif letter == " " and text[-1:] in ("", " "):
                at += 1
                continue
            elif letter == "\\" and at + 1 < len(line):
                text += letter
                at += 1
                letter = line[at]
            text += letter
            at += 1
        if quote:
            text += "\n"
        elif text.endswith("\\"):
            text = text[:-1]
        else:
            found += [(begun, text.strip())] if text.strip() else []
            text = ""
    if text:
        raise ValueError(f"a command that does not end: {text}")
    return found
