"""Commands held against the parsers of the programs that they call, without running them."""

from __future__ import annotations

import functools
import re
import shlex
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click
import pytest
from ray.scripts.scripts import cli as ray_cli
from ray.serve.scripts import cli as serve_cli

from sscm import cli
from tests.docs.commands import Command

ENDS = {"&&", "||", ";", "|", "&"}
REDIRECTIONS = {">", ">>", "<"}
CLICK: dict[str, click.Group] = {"ray": ray_cli, "serve": serve_cli}


class Parsed(Exception):
    """Raised where a command of ``sscm`` would begin to work: its arguments were understood."""


def variables_of(commands: list[Command]) -> dict[str, str]:
    """Shell variables that a page sets."""
    found = {"PWD": "/home/somebody/sscm"}
    for command in commands:
        for words in simple(command.text, {}):
            for word in words:
                if set_here := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", word, re.DOTALL):
                    found[set_here[1]] = set_here[2]
                elif word != "export":
                    break
    return found


def simple(text: str, variables: Mapping[str, str]) -> list[list[str]]:
    """The simple commands of a line, as words, with variables put in and without redirections."""
    for name, value in variables.items():
        text = re.sub(rf"\$\{{?{name}\b\}}?", lambda _, value=value: value, text)
    reader = shlex.shlex(text, posix=True, punctuation_chars=";&|<>")
    reader.whitespace_split = True
    reader.commenters = ""
    commands: list[list[str]] = [[]]
    words = iter(reader)
    for word in words:
        if word in ENDS:
            commands.append([])
        elif word in REDIRECTIONS:
            next(words)
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def program_of(words: list[str]) -> str:
    """Name of the program that a simple command runs; empty for one that only sets variables."""
    return next((word.rpartition("/")[2] for word in words if not re.match(r"[A-Za-z_]\w*=", word)), "")


def parse(words: list[str]) -> bool:
    """Have the program's own parser look at a simple command; False where the program is none of ours or Ray's.

    Raises:
        AssertionError: it would be refused; with the parser's own words.
    """
    program, arguments = program_of(words), [word for word in words if not re.match(r"[A-Z_]+=", word)][1:]
    if program == "sscm":
        _sscm(arguments)
    elif program in CLICK:
        _click(CLICK[program], program, arguments)
    else:
        return False
    return True


def _sscm(arguments: list[str]) -> None:
    with _idle():
        try:
            code = cli.main(arguments)
        except Parsed:
            return
        except SystemExit as error:
            raise AssertionError(f"sscm refuses its arguments (exit code {error.code}; see what it printed)") from error
    raise AssertionError(f"sscm ended with exit code {code}; see what it printed")


@contextmanager
def _idle() -> Iterator[None]:
    """Commands of ``sscm`` that do nothing but say that they were reached."""

    def reached(function: types.FunctionType) -> types.FunctionType:
        @functools.wraps(function)  # its signature is what the command line is made of
        def instead(*_: object, **__: object) -> None:
            raise Parsed

        return instead

    with pytest.MonkeyPatch.context() as patch:
        for name, value in vars(cli).items():
            if isinstance(value, types.FunctionType) and name.startswith("_") and value.__module__ == cli.__name__:
                patch.setattr(cli, name, reached(value))
        yield


def _click(group: click.Group, name: str, arguments: list[str]) -> None:
    command: click.Command = group
    context: click.Context | None = None
    try:
        while True:
            context = command.make_context(name, list(arguments), parent=context)
            if not isinstance(command, click.Group):
                break
            arguments = [*context._protected_args, *context.args]
            name, found, arguments = command.resolve_command(context, arguments)
            assert found is not None
            command = found
    except (click.ClickException, click.exceptions.Exit) as error:
        raise AssertionError(f"{name} refuses its arguments: {error}") from error
    entrypoint = context.params.get("entrypoint") if context else None
    if entrypoint and program_of(list(entrypoint)) == "sscm":
        _sscm(list(entrypoint)[1:])
