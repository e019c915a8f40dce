"""The documents as tests read them: sections, tables and examples, and how an example is run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from typer.testing import CliRunner

from weightspace.cli.main import app

ROOT = Path(__file__).resolve().parents[2]


def text(document: str) -> str:
    """A document of the repository, such as `docs/tour.md`."""
    return (ROOT / document).read_text("utf-8")


def section(document: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return text(document).split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def blocks(part: str) -> list[tuple[str, str]]:
    """The examples of a part of a document: language and text."""
    return re.findall(r"```(\w+)\n(.*?)```", part, re.S)


def first_column(part: str) -> list[str]:
    """The names in the first column of a table."""
    return re.findall(r"^\| `([^`]+)` \|", part, re.M)


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder as a user would; what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {key: value for key, value in os.environ.items() if key != "WEIGHTSPACE_ZOO"}
    done = subprocess.run(command, cwd=folder, env={**kept, "PATH": path}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_lines(lines: Iterable[str]) -> str:
    """Run lines of a shell example in this process, each in the working folder; what they print."""
    printed = ""
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], catch_exceptions=False)
        assert done.exit_code == 0, f"{line}: {done.stderr}"
        printed += done.stdout
    return printed
