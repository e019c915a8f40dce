import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.cli.conftest import Run
from weightspace.cli.main import app

COMMANDS = "init ingest import ls show sql diff export tag record duplicates demo".split()
PRINTING = "ingest import ls show sql diff tag duplicates".split()


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    root: Any = group or typer.main.get_command(app)
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield *path, name


def shell(place: Path, line: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a pipeline in which `weightspace` is this interpreter's."""
    weightspace = f"weightspace() {{ {sys.executable} -c 'from weightspace.cli.main import main; main()' \"$@\"; }}"
    script = f"set -o pipefail\n{weightspace}\n{line}"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


class TestHelp:
    def test_lists_every_command_with_one_line(self, run: Run) -> None:
        lines = run("--help").stdout.splitlines()
        for name in COMMANDS:
            [line] = [line for line in lines if line.startswith(f"│ {name} ")]
            assert line.rstrip(" │").endswith(".")

    def test_without_arguments_is_help(self, run: Run) -> None:
        assert "Usage" in run(code=2).output

    @pytest.mark.parametrize("command", list(commands()), ids=" ".join)
    def test_every_command_takes_a_zoo_and_shows_examples(self, run: Run, command: tuple[str, ...]) -> None:
        helped = run(*command, "-h", columns=200).stdout
        assert "--zoo" in helped
        assert "Examples:" in helped

    def test_what_stands_in_brackets_is_shown(self, run: Run) -> None:
        helped = run("optimize", "--help", columns=200).stdout
        assert "{search: [low, high]} or {choose: [a, b]}" in helped

    @pytest.mark.parametrize("command", PRINTING)
    def test_every_command_that_prints_data_takes_a_format(self, run: Run, command: str) -> None:
        assert "<table|json|csv>" in run(command, "--help").stdout

    def test_version(self, run: Run) -> None:
        assert run("--version").stdout.startswith("weightspace 0.")

    def test_imports_no_library_that_takes_time(self) -> None:
        script = "import sys\nfrom contextlib import suppress\nfrom weightspace.cli.main import main\nsys.argv = ['weightspace', '--help']\nwith suppress(SystemExit):\n    main()\nprint(sorted({m.partition('.')[0] for m in sys.modules}))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
        loaded = done.stdout.splitlines()[-1]
        for heavy in ("torch", "duckdb", "pyarrow", "joblib", "numpy", "safetensors", "sklearn", "pandas"):
            assert f"'{heavy}'" not in loaded


MISTAKES = {
    "unknown model": (["show", "bsae"], "no model 'bsae' in this zoo; did you mean 'base'?"),
    "unknown model to export": (["export", "nothing", "-o", "x.safetensors"], "no model 'nothing' in this zoo"),
    "unknown model to label": (["tag", "nothing", "a=b"], "no model 'nothing' in this zoo"),
    "unknown model to measure": (["record", "nothing", "a=1"], "no model 'nothing' in this zoo"),
    "missing file": (["diff", "base", "gone.safetensors"], "no model 'gone.safetensors' in this zoo"),
    "not a checkpoint": (["show", "checkpoints/notes.txt"], "a file of no known checkpoint format"),
    "damaged": (["show", "checkpoints/cut.safetensors"], "expected 64 bytes at offset 440, the file has 496; copy or download it again"),
    "on the Hub, and nobody answers": (["show", "hf:org/name"], "hf:org/name: the Hub does not answer"),
    "missing path": (["ingest", "nowhere"], "nowhere: does not exist; check the path"),
    "no zoo": (["ls", "--zoo", "checkpoints"], "checkpoints: has no zoo yet; run 'weightspace init' or 'weightspace ingest PATH' there"),
    "zoo that is a file": (["ls", "--zoo", "log.csv"], "log.csv: is a file, expected the folder of a zoo"),
    "unknown column in a condition": (["ls", "--where", "parms > 3"], '"parms" not found'),
    "condition that is no SQL": (["ls", "--where", "num_params >"], "sql: syntax error"),
    "unknown column to print": (["ls", "--columns", "nmae"], "no column named 'nmae'; did you mean 'name'?"),
    "unknown table": (["sql", "select * from modls"], "modls does not exist"),
    "SQL that writes": (["sql", "delete from models"], "sql reads the catalog and nothing else"),
    "SQL that reads files": (["sql", "select * from read_csv('log.csv')"], "sql reads the catalog and nothing else"),
    "export over a file": (["export", "base", "-o", "tuned.safetensors"], "tuned.safetensors: exists already; choose another name, or replace it with --force"),
    "export to a folder": (["export", "base", "-o", "checkpoints"], "checkpoints: is a folder; name the file to write"),
    "export nowhere": (["export", "base", "-o", "nowhere/x.safetensors"], "nowhere/x.safetensors"),
    "metric that is text": (["record", "base", "accuracy=high"], "metric 'accuracy' is 'high', expected a number; record text with 'weightspace tag'"),
    "metric that is not finite": (["record", "base", "loss=nan"], "metric 'loss' is nan, expected a finite number"),
    "label that is not there": (["tag", "base", "--remove", "bset"], "no label named 'bset'; did you mean 'best'?"),
    "nothing to import": (["import", "nowhere.csv"], "nowhere.csv: does not exist; name a tracker's folder, file or server"),
    "unknown reader": (["import", "log.csv", "--reader", "excel"], "no tracker reader named 'excel'"),
}  # fmt: skip

MISUSES = {
    "unknown command": ["lst"],
    "unknown option": ["ls", "--wehre", "x"],
    "unknown format": ["ls", "--format", "xml"],
    "no query": ["sql"],
    "two lists": ["ls", "--runs", "--files"],
    "labels of runs": ["ls", "--runs", "--tag", "best"],
    "label without a key": ["tag", "base", "=x"],
    "negative limit": ["ls", "--limit", "-1"],
    "missing argument": ["diff", "base"],
}


class TestFailures:
    @pytest.mark.parametrize(("line", "message"), MISTAKES.values(), ids=MISTAKES)
    def test_a_mistake_is_one_line_on_stderr_and_exit_1(self, run: Run, line: list[str], message: str) -> None:
        result = run(*line, code=1)
        assert result.stdout == ""
        [said] = result.stderr.splitlines()
        assert said.startswith("error: ")
        assert message in said

    @pytest.mark.parametrize("line", MISUSES.values(), ids=MISUSES)
    def test_misuse_is_exit_2(self, run: Run, line: list[str]) -> None:
        result = run(*line, code=2)
        assert result.stdout == "" and "Usage: " in result.stderr

    def test_a_hostile_name_in_a_mistake_is_escaped(self, run: Run) -> None:
        said = run("show", "\x1b[31m[red]no\nmodel", code=1).stderr
        assert "'\\x1b[31m[red]no\\nmodel'" in said and "\x1b" not in said

    def test_a_fault_of_the_system_is_one_line(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        from weightspace.zoo.zoo import Zoo

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device", "catalog.duckdb")

        monkeypatch.setattr(Zoo, "sql", full)
        assert (
            run("sql", "select 1", code=1).stderr
            == "error: catalog.duckdb: No space left on device; check the path, its permissions and the free space\n"
        )

    def test_a_fault_of_ours_keeps_its_traceback(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        from weightspace.zoo.zoo import Zoo

        monkeypatch.setattr(Zoo, "sql", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("sql", "select 1")

    def test_interrupted(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        from weightspace.zoo.zoo import Zoo

        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Zoo, "sql", stopped)
        assert "the catalog is valid" in run("sql", "select 1", code=130).stderr


class TestPipes:
    def test_a_reader_that_leaves_is_no_error(self, sandbox: Path) -> None:
        done = shell(sandbox, "weightspace sql 'select * from range(300000)' --format csv | head -n 2")
        assert (done.stdout, done.stderr) == ("range\n0\n", "")

    def test_a_table_read_by_head_is_no_error(self, sandbox: Path) -> None:
        done = shell(sandbox, "weightspace show checkpoints/tower --all | head -n 1")
        assert (done.stdout, done.stderr) == ("checkpoints/tower\n", "")

    def test_a_terminal_without_unicode_gets_escapes(self, sandbox: Path) -> None:
        done = shell(sandbox, "weightspace show base", PYTHONIOENCODING="ascii")
        assert done.returncode == 0 and "\\u2588" in done.stdout

    def test_an_error_ends_with_1_and_no_traceback(self, sandbox: Path) -> None:
        done = shell(sandbox, "weightspace sql 'select x'")
        assert done.returncode == 1 and done.stdout == ""
        assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr

    def test_the_environment_names_the_zoo(self, sandbox: Path, tmp_path: Path) -> None:
        done = shell(tmp_path, "weightspace sql 'select count(*) as n from models' --format csv", WEIGHTSPACE_ZOO=str(sandbox))
        assert done.stdout == "n\n6\n"
