import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.cli.conftest import Run, mlp


def family(folder: Path) -> None:
    """A base, a fine-tune of it, and the fine-tune cast to half precision."""
    base, draw = mlp(30, width=64), np.random.default_rng(1)
    tuned = {name: (t + 0.4 * t.std() * draw.normal(size=t.shape)).astype(np.float32) for name, t in base.items()}
    (folder / "kin").mkdir()
    save_file(base, folder / "kin" / "first.safetensors")
    save_file(tuned, folder / "kin" / "second.safetensors")
    save_file({name: t.astype(np.float16) for name, t in tuned.items()}, folder / "kin" / "third.safetensors")


def test_lineage_is_printed_kept_and_drawn(run: Run, sandbox: Path) -> None:
    family(sandbox)
    run("ingest", "kin", "--jobs", "1")
    result = run(
        "lineage", "--where", "name like '%kin%' or name in ('first', 'second', 'third')", "--format", "json", "--plot", "tree.svg"
    )
    edges = {(Path(row["parent"]).name, Path(row["child"]).name): row for row in json.loads(result.stdout)}
    assert edges.keys() == {("first", "second"), ("second", "third")}
    assert edges["second", "third"]["kind"] == "cast"
    assert "distinct values" in edges["second", "third"]["evidence"]
    assert "kept 2 edges in the catalog" in result.stderr and (sandbox / "tree.svg").is_file()
    rows = json.loads(run("sql", "select kind, confidence from edges where kind = 'cast'", "--format", "json").stdout)
    assert [row["kind"] for row in rows] == ["cast"]


def test_descendants_are_recursive_and_end_where_asked(run: Run, sandbox: Path) -> None:
    family(sandbox)
    run("ingest", "kin", "--jobs", "1")
    names = {Path(row["name"]).name: row["name"] for row in json.loads(run("sql", "select name from models", "--format", "json").stdout)}
    down = json.loads(run("lineage", "--descendants", names["first"], "--format", "json").stdout)
    assert {Path(row["child"]).name for row in down} == {"second", "third"}
    up = json.loads(run("lineage", "--ancestors", names["third"], "--format", "json").stdout)
    assert [Path(row["parent"]).name for row in up] == ["second", "first"]


def test_both_ways_at_once_are_a_usage_error(run: Run) -> None:
    assert "exclude each other" in run("lineage", "--descendants", "base", "--ancestors", "base", code=2).stderr
