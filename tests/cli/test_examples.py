import re
import shlex

import pytest
from typer.testing import CliRunner

from tests.cli.conftest import Run
from tests.cli.test_main import commands
from weightspace.cli.main import app

SLOW = {"demo"}  # trains networks


def examples(command: tuple[str, ...]) -> list[str]:
    """The lines of a command's help that can be pasted into a shell."""
    helped = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "250"}).stdout
    _, _, after = helped.partition("Examples:")
    return re.findall(r"^\s+(weightspace .*?)\s*$", after, re.MULTILINE)


CASES = [
    pytest.param(command, line, marks=[pytest.mark.slow] if command[0] in SLOW else [], id=line)
    for command in commands()
    for line in examples(command)
]


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_has_an_example_of_itself(command: tuple[str, ...]) -> None:
    found = examples(command)
    assert found and all(tuple(shlex.split(line)[1 : 1 + len(command)]) == command for line in found)


@pytest.mark.parametrize(("command", "line"), CASES)
def test_example_works(run: Run, command: tuple[str, ...], line: str) -> None:
    result = run(*shlex.split(line)[1:])
    assert "error" not in result.stderr
