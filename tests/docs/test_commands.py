"""Every command of the pages is run by a test, or it is said why not; those of our programs are ones in any case."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from sscm import cli
from tests.docs.commands import PAGES, ROOT, all_commands, blocks, commands_of, split
from tests.docs.coverage import NAMED, NOT_HERE, PARSED, REMEDY, RUN
from tests.docs.parsing import CLICK, parse, program_of, simple, variables_of

COMMANDS = all_commands()
SHELL = ("", "export")
"""Programs of commands that only set variables."""


def covered(command):
    """Whether a command is run, named, parsed or excused, or only sets variables."""
    if command.text in RUN or command.text in NAMED or command.text in PARSED or command.text in NOT_HERE:
        return True
    return all(program_of(words) in SHELL for words in simple(command.text, {}))


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_covered_and_one(command):
    assert covered(command), f"{command}\n{REMEDY}"
    variables = variables_of(commands_of(ROOT / command.page))
    parsed = [parse(words) for words in simple(command.text, variables)]
    if command.text in PARSED:
        assert any(parsed), f"{command}: no parser looked at it; PARSED is for sscm, ray and serve"


def test_the_tables_name_commands_of_the_pages_and_each_once():
    shown = {command.text for command in COMMANDS}
    tables = {"laptop.py": RUN, "NAMED": set(NAMED), "PARSED": set(PARSED), "NOT_HERE": set(NOT_HERE)}
    for name, texts in tables.items():
        assert texts <= shown, f"{name} has what no page shows any more: {sorted(texts - shown)}"
        for other, more in tables.items():
            assert name == other or not texts & more, f"in {name} and {other}: {sorted(texts & more)}"
    programs = {program_of(words) for text in NOT_HERE for words in simple(text, {})}
    assert not programs & {"sscm", *CLICK}, "NOT_HERE is for other programs: these can be parsed"


@pytest.mark.parametrize("name", sorted(set(NAMED.values())))
def test_a_test_that_is_named_exists(name):
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert function in found, f"{path} has no {function}; NAMED in tests/docs/coverage.py says that it runs a command"


def test_files_that_commands_name_are_there():
    looked = 0
    for command in COMMANDS:
        for words in simple(command.text, variables_of(commands_of(ROOT / command.page))):
            for word in words:
                if re.match(r"(cluster|benchmarks|recipes|tests)/", word) or word == "ray_cluster.yaml":
                    assert (ROOT / word).exists(), f"{command}: no {word}"
                    looked += 1
    assert looked > 10


@pytest.mark.parametrize("text", [text for text in NAMED if text.startswith("make ")])
def test_what_make_would_do(text):
    does = {
        "make demo": r"^\S*sscm demo *$",
        "make test": r"pytest",
        "make .venv/.installed": r"pip install .*-c constraints.txt -e \.",
        'make demo ARGS="--no-serve --json figures.json"': r"^\S*sscm demo --no-serve --json figures.json$",
    }
    words = shlex.split(text)
    done = subprocess.run(
        [words[0], "--dry-run", "--always-make", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert re.search(does[text], done.stdout, re.MULTILINE), done.stdout
    for line in done.stdout.splitlines():
        if "sscm demo" in line:
            assert parse(shlex.split(line))


@pytest.mark.parametrize("text", [text for text in NAMED if "/python benchmarks/" in text])
def test_a_benchmark_has_the_flags_that_a_page_gives_it(text):
    words = shlex.split(text)
    source = (ROOT / words[1]).read_text()
    for word in words[2:]:
        if word.startswith("--"):
            assert f'add_argument("{word}"' in source, f"{words[1]} has no {word}"


def test_settings_that_a_page_writes_are_ones(tmp_path, monkeypatch):
    page = ROOT / "docs/cluster-aws.md"
    variables = variables_of(commands_of(page))
    [words] = [
        words
        for command in commands_of(page)
        for words in simple(command.text, variables)
        if words[:2] == ["sscm", "serve"]
    ]
    monkeypatch.chdir(tmp_path)
    assert cli.main(words[1:]) == 0
    ServeDeploySchema.model_validate(yaml.safe_load((tmp_path / "serve.yaml").read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_in_blocks_of_bash(page):
    for kind, line, body in blocks(page):
        assert kind not in ("sh", "shell", "console", "zsh"), f"{page}:{line}: call it bash, so that it is tested"
        if kind in ("", "text"):
            assert not re.search(r"^(\$ )?(sscm|ray|kubectl|python|pip) ", body, re.MULTILINE), f"{page}:{line}: bash?"


def test_commands_are_told_apart():
    script = """
a --b 1      # a comment
c \\
   --d "e # f"   'g
h'
# nothing
X=1 && i > j &
k 'l'\\''m'
"""
    texts = [text for _, text in split(script)]
    assert texts == ["a --b 1", "c --d \"e # f\" 'g\nh'", "X=1 && i > j &", "k 'l'\\''m'"]
    assert [line for line, _ in split(script)] == [1, 2, 6, 7]
    assert simple(texts[2], {}) == [["X=1"], ["i"]]
    with pytest.raises(ValueError, match="does not end"):
        split("a 'b")


@pytest.mark.parametrize(
    "text",
    [
        "sscm train --epoch 3",
        "sscm ingest pairs --table t.csv",
        "sscm index garbage",
        "ray job submit --adress x -- sscm index",
        "ray job submit --address x -- sscm index --gpus",
        "ray upp ray_cluster.yaml",
        "serve deploy",
    ],
)
def test_a_command_that_is_none_is_found(text, capsys):
    [words] = simple(text, {})
    with pytest.raises(AssertionError, match=r"refuses|ended"):
        parse(words)


def test_a_new_command_would_be_found(tmp_path, monkeypatch):
    page = tmp_path / "docs/new.md"
    page.parent.mkdir()
    page.write_text(
        "# New\n\n1. A list:\n\n    ```bash\n    sscm train --epochs 7\n    X=1\n    kubectl get pods\n    ```\n"
    )
    monkeypatch.setattr("tests.docs.commands.ROOT", tmp_path)
    found = commands_of(page)
    assert [(command.line, command.text) for command in found] == [
        (6, "sscm train --epochs 7"),
        (7, "X=1"),
        (8, "kubectl get pods"),
    ]
    assert [covered(command) for command in found] == [False, True, False]


def test_pages_that_are_looked_at_are_all():
    assert {path.name for path in PAGES} >= {"README.md", "tutorial.md", "cluster-aws.md", "operations.md"}
    assert Path("README.md") in [page.relative_to(ROOT) for page in PAGES]
    assert len(COMMANDS) > 100
