"""Catalogs of growing size: bytes a row, rows a second, what questions and writes cost, and the memory they take.

Run it with `python -m tests.benchmarks.scale --models 10000 100000`; a million models of 100 tensors need 7 GB of disk and ten minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.benchmarks import synthetic_catalog
from tests.benchmarks.catalog_queries import QUESTIONS as CATALOG_QUESTIONS
from tests.benchmarks.catalog_queries import Connection, Example, added_batch, evict, examples
from weightspace.zoo import Zoo, query
from weightspace.zoo.exchange import PART
from weightspace.zoo.exchange.parquet import write_parquet
from weightspace.zoo.exchange.tables import TABLES, export_tables
from weightspace.zoo.metrics import Metric
from weightspace.zoo.model_table import refresh_model_table
from weightspace.zoo.write import write_metrics, write_tags

BLOCK = 262_144
DIMENSION = 64  # numbers of an embedding
PARQUET = 200_000


def peak() -> float:
    """The largest memory of this process since it was last asked, in GB; asking starts anew."""
    status = Path("/proc/self/status").read_text("ascii")
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e6


def row(*cells: object) -> None:
    """Print a line of a markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def header(*cells: object) -> None:
    """Print the head of a markdown table."""
    print()
    row(*cells)
    row(*("---" for _ in cells))


@contextmanager
def clock() -> Iterator[list[float]]:
    """Measure a block: afterwards the list holds its seconds."""
    taken: list[float] = []
    started = time.perf_counter()
    yield taken
    taken.append(time.perf_counter() - started)


def seconds(value: float) -> str:
    """Write a time with a unit that fits."""
    return f"{value:.1f} s" if value >= 1 else f"{1e3 * value:.0f} ms"


def fill(zoo: Zoo, models: int) -> None:
    """Build the catalog, with a parent and an embedding for every model; tell how fast the rows came in."""
    started = time.perf_counter()
    last = [0.0, 0]

    def told(done: int) -> None:
        if done >= 0.7 * models and not last[1]:
            last[:] = [time.perf_counter(), done]

    with clock() as taken:
        synthetic_catalog.build(zoo, models, progress=told)
    rate = (models - last[1]) / max(taken[0] - (last[0] - started), 1e-9)
    relate(zoo, models)
    size = zoo.catalog.path.stat().st_size
    each = synthetic_catalog.TENSORS
    header("models", "tensors each", "built in", "models/s, last third", "occurrences/s, last third", "file", "peak memory")
    row(f"{models:,}", each, seconds(taken[0]), f"{rate:,.0f}", f"{rate * each:,.0f}", f"{size / 1e9:.2f} GB", f"{peak():.2f} GB")


def relate(zoo: Zoo, models: int) -> None:
    """Give every model but the first a parent among the earlier ones, and every model an embedding."""
    rng = np.random.default_rng(2)
    child = np.arange(2, models + 1)
    parent = (rng.random(len(child)) * (child - 1)).astype(np.int64) + 1
    with zoo.catalog.writing() as connection:
        connection.register("fresh", pa.table({"p": parent, "c": child}))
        connection.execute("insert into edges select p, c, 'finetune', 'card', 1 from fresh")
        for start in range(1, models + 1, 100_000):
            ids = np.arange(start, min(start + 100_000, models + 1))
            vectors = rng.standard_normal((len(ids), DIMENSION)).astype(np.float32).reshape(-1)
            offsets = pa.array(np.arange(0, len(vectors) + 1, DIMENSION), pa.int32())
            connection.register("fresh", pa.table({"m": ids, "v": pa.ListArray.from_arrays(offsets, pa.array(vectors))}))
            connection.execute("insert into embeddings select m, 'net', '1', v from fresh")


def bytes_per_row(zoo: Zoo, folder: Path) -> None:
    """Print what a row of each table costs in the catalog's file, and as Parquet."""
    header("table", "rows", "bytes a row, catalog", "bytes a row, Parquet")
    with zoo.reading() as connection:
        [(models,)] = connection.execute("select count(*) from models").fetchall()
        parquet: dict[str, tuple[int, int]] = {}
        if models <= PARQUET:
            with clock() as taken:
                write_parquet(export_tables(connection, part_rows=PART), folder / "parquet")
            for name in TABLES:
                files = list((folder / "parquet" / name).rglob("*.parquet"))
                [(rows,)] = connection.execute(f"select count(*) from {name}").fetchall()
                parquet[name] = rows, sum(file.stat().st_size for file in files)
        for (name,) in connection.execute(
            "select table_name from duckdb_tables() where estimated_size > 1 order by estimated_size desc"
        ).fetchall():
            [(rows,)] = connection.execute(f"select count(*) from {name}").fetchall()
            [(blocks,)] = connection.execute(
                f"select count(distinct block_id) from pragma_storage_info('{name}') where persistent"
            ).fetchall()
            as_parquet = f"{parquet[name][1] / rows:.1f}" if name in parquet and rows else "-"
            row(name, f"{rows:,}", f"{blocks * BLOCK / max(rows, 1):.1f}", as_parquet)
    if parquet:
        total = sum(size for _, size in parquet.values())
        print(f"\nParquet: {total / 1e9:.2f} GB written in {seconds(taken[0])}, peak {peak():.2f} GB")


def ls_page(connection: Connection, example: Example) -> Any:
    """`ls --where` with a limit."""
    return query.models(connection, f"num_params < {example.params}", "catalogued desc", 50)


def duplicate_models(connection: Connection, example: Example) -> Any:
    """`duplicates`."""
    return query.duplicates(connection)


def shared_tensors(connection: Connection, example: Example) -> Any:
    """`duplicates --tensors`, the hundred that cost most."""
    return query.arrow(connection, "select * from shared_tensors order by wasted_bytes desc, 1 limit 100")


def ancestors_of_one(connection: Connection, example: Example) -> Any:
    """Ancestors of one model, by the view."""
    return query.arrow(connection, "select * from ancestors where model_id = ?", [example.model_id])


def similar(connection: Connection, example: Example) -> Any:
    """`similar`: ten nearest by cosine, exact."""
    from weightspace.zoo import embeddings

    return embeddings.similar(connection, np.ones(DIMENSION), Path("/"), metanet=None, version=None, limit=10, where=None)


def mean_by_name(connection: Connection, example: Example) -> Any:
    """An aggregate over all occurrences joined with their tensors."""
    return query.arrow(connection, "select tensor, count(*) as n, avg(std) as std from tensor_table group by tensor order by tensor")


QUESTIONS = (ls_page, *CATALOG_QUESTIONS, similar, ancestors_of_one, duplicate_models, shared_tensors, mean_by_name)


def ask(zoo: Zoo, *, limit: float) -> None:
    """Print what each question costs: first with a cold file, then the best of some; those over the limit once."""
    drawn = examples(zoo, 4)
    with clock() as taken, zoo.reading():
        pass
    evict(zoo.catalog.path)
    with clock() as cold, zoo.reading():
        pass
    print(f"\nopening: {seconds(taken[0])}; with a cold file {seconds(cold[0])}")
    header("question", "cold, with opening", "again", "peak memory")
    for one in QUESTIONS:
        evict(zoo.catalog.path)
        peak()
        try:
            with clock() as first, zoo.reading() as connection:
                one(connection, drawn[0])
        except Exception as error:  # what does not fit is a result too
            row(one.__name__.replace("_", " "), type(error).__name__, str(error)[:120].replace("\n", " "), f"{peak():.2f} GB")
            continue
        again = []
        if first[0] < limit:
            with zoo.reading() as connection:
                for example in drawn[1:]:
                    with clock() as taken:
                        one(connection, example)
                    again += taken
        row(one.__name__.replace("_", " "), seconds(first[0]), seconds(float(np.median(again))) if again else "-", f"{peak():.2f} GB")


def _metric(connection: Connection) -> None:
    write_metrics(connection, [(17, None, Metric("noted", 1.0, "test", None), "user")])


def _tag(connection: Connection) -> None:
    write_tags(connection, [(17, "noted", "yes")])


def write(zoo: Zoo) -> None:
    """Print what writes cost, from taking the lock to the commit."""
    header("write", "time", "peak memory")
    jobs: list[tuple[str, Callable[[Connection], None]]] = [
        ("nothing (open, begin, commit, close)", lambda connection: None),
        ("the model table made anew", refresh_model_table),
        ("one metric", _metric),
        ("one tag", _tag),
    ]
    for what, job in jobs:
        peak()
        found = []
        for _ in range(3):
            with clock() as taken, zoo.catalog.writing() as connection:
                job(connection)
            found += taken
        row(what, seconds(sorted(found)[1]), f"{peak():.2f} GB")
    for count in (1, 100, 2000):
        peak()
        row(f"{count} new models of 20 tensors", seconds(sorted(added_batch(zoo, count) for _ in range(3))[1]), f"{peak():.2f} GB")


def one_size(folder: Path, models: int, tensors: int, limit: float) -> None:
    """Build, or take what was built there, and measure."""
    synthetic_catalog.TENSORS = tensors
    zoo = Zoo(folder / "zoo")
    print(f"\n### {models:,} models of {tensors} tensors (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    if not zoo.catalog.exists():
        fill(zoo, models)
    bytes_per_row(zoo, folder)
    ask(zoo, limit=limit)
    write(zoo)
    print(f"\nload {os.getloadavg()[0]:.1f}")


def main() -> None:
    """Measure each size in a process of its own, in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--tensors", type=int, default=synthetic_catalog.TENSORS, help="of each model; a multiple of ten")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds above which a question is asked once")
    parser.add_argument("--scratch", type=Path, help="where to make the temporary folder")
    parser.add_argument("--at", type=Path, help="measure one size in this folder, and keep it")
    arguments = parser.parse_args()
    if arguments.at:
        one_size(arguments.at, arguments.models[0], arguments.tensors, arguments.limit)
        return
    for models in arguments.models:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            options = ["--models", str(models), "--tensors", str(arguments.tensors), "--limit", str(arguments.limit), "--at", folder]
            subprocess.run([sys.executable, "-m", "tests.benchmarks.scale", *options], check=True)
            shutil.rmtree(Path(folder) / "parquet", ignore_errors=True)


if __name__ == "__main__":
    main()
