from datetime import UTC, datetime
from pathlib import Path

import pytest

from weightspace.errors import RecordError, UnknownNameError
from weightspace.zoo.metrics import Metric
from weightspace.zoo.readers import read_runs, tracker_readers


def test_csv_and_json_lines_tell_the_same_runs(tmp_path: Path) -> None:
    table, lines = tmp_path / "runs.csv", tmp_path / "runs.jsonl"
    table.write_text(
        "run,step,time,seed,config.lr,act,file,test_accuracy,loss\n"
        "a,1,2026-01-01T00:00:00Z,3,0.1,relu,out/a/1.pt,0.5,nan\n"
        "b,1,,4,0.2,tanh,,0.6,2\n"
        "a,2,2026-01-01T01:00:00Z,3,0.1,relu,out/a/2.pt,0.7,1\n"
    )
    lines.write_text(
        '{"run": "a", "step": 1, "time": "2026-01-01T00:00:00Z", "seed": 3, "config": {"lr": 0.1}, "act": "relu", "file": "out/a/1.pt", "test_accuracy": 0.5, "loss": NaN}\n'
        '{"run": "b", "step": 1, "seed": 4, "config": {"lr": 0.2}, "act": "tanh", "test_accuracy": 0.6, "loss": 2}\n'
        '{"run": "a", "step": 2, "time": "2026-01-01T01:00:00Z", "seed": 3, "config": {"lr": 0.1}, "act": "relu", "file": "out/a/2.pt", "test_accuracy": 0.7, "loss": 1}\n'
        '{"run": "a", "st'
    )
    for path in (table, lines):
        a, b = read_runs(path)
        first, last = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=UTC)
        assert (a.key, a.name, a.source, a.seed) == (f"{path.suffix[1:]}:{path}#a", "a", path.suffix[1:], 3)
        assert a.hyperparameters == {"seed": 3, "lr": 0.1, "act": "relu"}
        assert a.metrics == (
            Metric("accuracy", 0.5, "test", 1, first),
            Metric("accuracy", 0.7, "test", 2, last),
            Metric("loss", 1.0, None, 2, last),
        )
        assert (a.started, a.ended, a.artifacts) == (first, last, ("out/a/1.pt", "out/a/2.pt"))
        assert a.notes == ("1 values that are NaN or infinite were left out",)
        assert b.metrics == (Metric("accuracy", 0.6, "test", 1), Metric("loss", 2.0, None, 1)) and b.started is None


def test_a_long_table_has_a_point_a_row(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("Epoch,Metric,Value\n1,val_loss,0.5\n2,val_loss,0.25\n")
    (run,) = read_runs(path)
    assert run.name == "long" and run.metrics == (Metric("loss", 0.5, "val", 1), Metric("loss", 0.25, "val", 2))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "no rows"),
        ("a.csv", b"a,b\n\xff\xff,1\n", "UTF-8"),
        ("a.csv", b"a\n" + b"x" * (2 << 20), "a line of more than"),
        ("a.jsonl", b"[1]\n", "expected a JSON object"),
        ("a.jsonl", b'{"a": 1}\n{"a"\n{"a": 2}\n', "line 2"),
        ("a.jsonl", b'{"a": ' * 100_000 + b"\n", "expected JSON"),
        ("a.txt", b"hello", "no tracker's records"),
    ],
)
def test_damaged_tables_are_one_clear_error(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RecordError, match=said) as caught:
        list(read_runs(path))
    assert "\n" not in str(caught.value)


def test_what_is_not_there_or_not_known_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="does not exist"):
        read_runs(tmp_path / "nothing")
    with pytest.raises(UnknownNameError, match="did you mean 'wandb'"):
        read_runs(tmp_path, "wandbb")
    assert set(tracker_readers) == {"mlflow-files", "mlflow-sqlite", "mlflow-server", "wandb", "trackio", "csv", "jsonl"}
