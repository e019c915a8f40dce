import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from weightspace.errors import RecordError
from weightspace.zoo.metrics import Metric
from weightspace.zoo.readers import read_runs

TIME = "2026-01-01T00:00:00+00:00"


def project(path: Path, rows: list[tuple[str, int, object]], has_ids: bool = True) -> Path:
    """The tables of trackio 0.43.0, whose JSON is stored as bytes; earlier ones had no ids of runs, and stored text."""
    ident = "run_id text, " if has_ids else ""
    connection = sqlite3.connect(path)
    connection.execute(
        f"create table metrics (id integer primary key autoincrement, {ident}timestamp text, run_name text, step integer, metrics text)"
    )
    connection.execute(f"create table configs (id integer primary key autoincrement, {ident}run_name text, config text, created_at text)")
    for name, step, metrics in rows:
        own = (f"id-{name}",) if has_ids else ()
        marks = ", ".join("?" * (4 + len(own)))
        names = "run_id, " if has_ids else ""
        connection.execute(
            f"insert into metrics ({names}timestamp, run_name, step, metrics) values ({marks})", (*own, TIME, name, step, metrics)
        )
    config = b'{"lr":0.001,"seed":7,"opt":{"name":"adam"},"_Username":null,"_Created":"2025-12-31T00:00:00+00:00","_Group":"g"}'
    own = ("id-first",) if has_ids else ()
    connection.execute(
        f"insert into configs ({'run_id, ' if has_ids else ''}run_name, config, created_at) values ({', '.join('?' * (3 + len(own)))})",
        (*own, "first", config, TIME),
    )
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize("has_ids", [True, False])
def test_runs_of_a_project_are_read(tmp_path: Path, has_ids: bool) -> None:
    rows: list[tuple[str, int, object]] = [
        ("first", 0, b'{"val/loss":1.0,"nested":{"a":2},"text":"x"}'),
        ("second", 0, b'{"acc":0.5}'),
        ("first", 1, '{"val/loss":0.5}'),
        ("first", 2, b'{"bad":"NaN","inf":"Infinity"}'),
    ]
    path = project(tmp_path / "digits.db", rows, has_ids)
    time = datetime(2026, 1, 1, tzinfo=UTC)
    for source in (path, tmp_path):
        first, second = read_runs(source)
        assert first.key == ("trackio:digits/id-first" if has_ids else "trackio:digits/first") and first.name == "first"
        assert first.seed == 7 and first.hyperparameters == {"lr": 0.001, "seed": 7, "opt.name": "adam"}
        assert first.tags == {"project": "digits", "group": "g"}
        assert (first.started, first.ended) == (datetime(2025, 12, 31, tzinfo=UTC), time)
        expected = (Metric("loss", 1.0, "val", 0, time), Metric("loss", 0.5, "val", 1, time), Metric("nested.a", 2.0, None, 0, time))
        assert first.metrics == expected
        assert first.notes == ("2 values that are NaN or infinite were left out",)
        assert second.metrics == (Metric("acc", 0.5, None, 0, time),)


def test_damaged_rows_become_one_note(tmp_path: Path) -> None:
    path = project(tmp_path / "p.db", [("r", 0, b"{"), ("r", 1, 7), ("r", 2, b"[1]"), ("r", 3, b'{"acc":1}')])
    (run,) = read_runs(path)
    assert len(run.metrics) == 1 and len(run.notes) == 1 and "no JSON object" in run.notes[0]


def test_an_empty_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no trackio database"):
        list(read_runs(tmp_path, "trackio"))
