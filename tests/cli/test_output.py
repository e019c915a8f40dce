import csv
import datetime
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.cli.conftest import HOSTILE, Run
from weightspace.cli import cells, output
from weightspace.cli.options import Format
from weightspace.cli.output import Column, fitting, names_of, print_data, print_table

EVERY_TYPE = """select 1::hugeint * 170141183460469231731687303715884105727 as huge, 1.25::decimal(6, 2) as money, 'nan'::double as nothing, null as empty,
    timestamp '2024-01-02 03:04:05.678901' as at, timestamp_ns '2024-01-02 03:04:05.678901234' as exactly, date '2024-01-02' as day, '\\xAB\\x00'::blob as bytes,
    [1, 2] as list, {'a': 'x', 'b': 1} as struct, map {'k': 1.5} as map, interval 3 day as span, true as yes, 'a,"b"' as text, 0.1::double as tenth"""


def control_characters(text: str) -> set[str]:
    return {c for c in text if not c.isprintable() and c != "\n"}


class TestFormats:
    def test_json_writes_every_type_as_json_knows_it(self, run: Run) -> None:
        [row] = json.loads(run("sql", EVERY_TYPE, "--format", "json").stdout)
        assert row == {
            "huge": 170141183460469231731687303715884105727, "money": 1.25, "nothing": None, "empty": None,
            "at": "2024-01-02T03:04:05.678901", "exactly": "2024-01-02T03:04:05.678901", "day": "2024-01-02", "bytes": "ab00",
            "list": [1, 2], "struct": {"a": "x", "b": 1}, "map": {"k": 1.5}, "span": {"months": 0, "days": 3, "nanoseconds": 0}, "yes": True, "text": 'a,"b"', "tenth": 0.1,
        }  # fmt: skip

    def test_csv_holds_the_same(self, run: Run) -> None:
        [row] = csv.DictReader(io.StringIO(run("sql", EVERY_TYPE, "--format", "csv").stdout))
        assert row["huge"] == "170141183460469231731687303715884105727"
        assert (row["empty"], row["bytes"], row["list"], row["yes"]) == ("", "ab00", "[1, 2]", "true")
        assert (row["at"], row["text"], row["tenth"]) == ("2024-01-02T03:04:05.678901", 'a,"b"', "0.1")
        assert json.loads(row["struct"]) == {"a": "x", "b": 1} and json.loads(row["map"]) == {"k": 1.5}

    def test_json_of_no_rows_is_an_empty_array(self, run: Run) -> None:
        assert json.loads(run("sql", "select 1 as a where false", "--format", "json").stdout) == []

    def test_csv_of_no_rows_has_its_header(self, run: Run) -> None:
        assert run("sql", "select 1 as a, 2 as b where false", "--format", "csv").stdout == "a,b\n"

    def test_a_table_of_no_rows_says_so_on_stderr(self, run: Run) -> None:
        result = run("sql", "select 1 as a where false")
        assert (result.stdout, result.stderr) == ("", "no rows\n")

    def test_columns_of_one_name_are_all_there(self, run: Run) -> None:
        assert json.loads(run("sql", "select 1 as a, 2 as a, 3 as a", "--format", "json").stdout) == [{"a": 1, "a_1": 2, "a_2": 3}]
        assert names_of(pa.table([[1], [2]], names=["a", "a"])) == ["a", "a_1"]

    def test_a_table_in_a_pipe_is_aligned_and_whole(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [{"name": "a" * 150, "size": 5}, {"name": "é漢", "size": 12345}]
        print_table(rows, {"name": Column("name", cells.plain), "size": Column("size", cells.count, right=True)})
        assert capsys.readouterr().out == f"name{'':146}    size\n{'a' * 150}       5\né漢{'':147}  12,345\n"

    def test_a_long_table_in_a_pipe_is_as_wide_as_its_first_rows(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that it is written row by row: the third is asked for when the first two have been written."""
        monkeypatch.setattr(output, "MEASURED_ROWS", 2)
        seen = []

        def rows() -> Iterator[dict[str, str]]:
            for name in ("a", "bb", "cccc"):
                seen.append(capsys.readouterr().out)
                yield {"name": name, "also": name}

        print_table(rows(), {"name": Column("name"), "also": Column("also", right=True)})
        assert seen == ["", "", "name  also\na        a\nbb      bb\n"] and capsys.readouterr().out == "cccc  cccc\n"

    def test_a_table_shows_what_its_columns_say_and_csv_the_data(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [{"bytes": 2_500_000, "when": datetime.datetime(2024, 5, 6, 7, 8, 9)}]
        columns = {"bytes": Column("size", cells.size), "when": Column("at", cells.day)}
        print_data(rows, Format.table, columns)
        print_data(rows, Format.csv, columns)
        assert capsys.readouterr().out == "size     at\n2.50 MB  2024-05-06 07:08\nbytes,when\n2500000,2024-05-06T07:08:09\n"

    def test_columns_of_the_highest_rank_go_first(self) -> None:
        assert fitting([10, 10, 10], [0, 1, 1], 40) == [0, 1, 2]
        assert fitting([10, 10, 10], [0, 1, 1], 30) == [0, 1]
        assert fitting([10, 10, 10], [0, 2, 1], 30) == [0, 2]
        assert fitting([50], [0], 30) == [0]


class TestHostileNames:
    """Names in a checkpoint that would drive a terminal, break a line or mean something to rich."""

    LINES = (
        ["show", "checkpoints/hostile"],
        ["show", "checkpoints/hostile.safetensors", "--all"],
        ["sql", "select tensor from tensor_table where model like '%hostile'"],
        ["diff", "base", "checkpoints/hostile"],
        ["sql", 'select 1 as "\x1b[31m[red]x"'],
        ["ls", "--columns", "name,\x1b[2J"],
    )

    @pytest.mark.parametrize("format", ["table", "json", "csv"])
    @pytest.mark.parametrize("line", LINES[:-1], ids=lambda line: repr(" ".join(line)))
    def test_no_control_character_is_printed(self, run: Run, line: list[str], format: str) -> None:
        result = run(*line, "--format", format)
        assert control_characters(result.stdout + result.stderr) == set()

    def test_markup_is_shown_as_it_is(self, run: Run) -> None:
        assert "[red]markup[/red]" in run("show", "checkpoints/hostile").stdout

    def test_json_keeps_names_exactly(self, run: Run) -> None:
        [model] = json.loads(run("show", "checkpoints/hostile", "--format", "json").stdout)
        assert sorted(tensor["name"] for tensor in model["tensors"]) == sorted(HOSTILE)

    def test_labels_and_metrics_of_any_name(self, run: Run) -> None:
        run("tag", "base", "\x1b[31m=[bold]x\n")
        run("record", "base", "acc\x1b[0m=1")
        for line in (["show", "base"], ["tag", "base"], ["ls"]):
            result = run(*line)
            assert control_characters(result.stdout + result.stderr) == set()


def terminal(place: Path, *arguments: str, columns: int, before: str = "") -> str:
    """What the command line writes to a terminal of this width."""
    ours, theirs = pty.openpty()
    script = f"{before}\nfrom weightspace.cli.main import main; main()"
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=place, stdout=theirs, stderr=theirs, stdin=theirs, env=environment
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0, seen
    return seen.decode()


def bare(text: str) -> list[str]:
    """The lines without colours; what overwrites a line counts as another."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text))]


class TestTerminal:
    def test_a_wide_one_shows_colours_and_histograms(self, sandbox: Path) -> None:
        seen = terminal(sandbox, "show", "checkpoints/tower", columns=100)
        lines = bare(seen)
        assert "\x1b[1m" in seen
        assert any(line.startswith("layers.{0..11}.attn.weight  12  4 × 4") and line[-1] in "▁▂▃▄▅▆▇█" for line in lines)
        assert max(map(len, lines)) <= 100

    def test_long_work_shows_how_far_it_is(self, sandbox: Path) -> None:
        impatient = "from weightspace.cli import progress; progress.PATIENCE = 0"
        seen = terminal(sandbox, "ingest", "checkpoints", "--zoo", "fresh", columns=100, before=impatient)
        assert any("reading" in line and "7/7 files" in line for line in bare(seen))
        assert any("5 checkpoints catalogued" in line for line in bare(seen))

    def test_a_narrow_one_leaves_columns_out_and_says_which(self, sandbox: Path) -> None:
        lines = bare(terminal(sandbox, "ls", columns=60))
        assert lines[0].split() == ["name", "id", "params", "size"]
        assert any(line.startswith("too narrow for: ") and "test_accuracy" in line for line in lines)
        assert max(map(len, (line for line in lines if not line.startswith("too narrow")))) <= 60

    def test_rows_too_wide_for_it_stand_one_under_the_other(self, sandbox: Path) -> None:
        lines = bare(terminal(sandbox, "sql", "select * from model_table where name = 'base'", columns=60))
        assert ["name", "base"] in [line.split() for line in lines]
        assert max(map(len, lines)) <= 60


def test_a_csv_without_rows_has_the_header_of_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_data([], Format.csv, {"model": Column("model"), "score": Column("z")})
    assert capsys.readouterr().out == "model,score\n"
    print_data([], Format.csv)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (cells.count, 999_999, "999,999"), (cells.count, 1_000_000, "1M"), (cells.count, 8_030_261_248, "8.03B"),
        (cells.size, 0, "0 B"), (cells.size, 999.6, "1.00 kB"), (cells.size, 12_345, "12.3 kB"), (cells.size, 10**19, "10000 PB"),
        (cells.duration, 0.04, "0.0 s"), (cells.duration, 75, "1 min 15 s"), (cells.duration, 7300, "2 h 1 min"),
        (cells.shape, [], "scalar"), (cells.number, None, ""), (cells.short, ["a", "b"], "a, b"), (cells.short, 1 / 3, "0.333333"),
        (cells.plain, {"a": None}, '{"a": null}'), (cells.plain, datetime.timedelta(seconds=5), "5.0"), (cells.plain, 0.1, "0.1"),
    ],
)  # fmt: skip
def test_a_value_is_written(write: Any, value: object, text: str) -> None:
    assert write(value) == text
