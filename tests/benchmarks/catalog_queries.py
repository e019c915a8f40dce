"""Ten questions to a catalog of 200,000 models and 20 million tensors, timed.

Run it with `python -m tests.benchmarks.catalog_queries`; it needs 1.5 GB of disk and some minutes.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from tests.benchmarks.synthetic_catalog import build
from weightspace.zoo import Zoo, query
from weightspace.zoo.records import Description, ModelRecord, Place, TensorRow
from weightspace.zoo.write import write_records

Connection = duckdb.DuckDBPyConnection
PAGE = 50


@dataclass(frozen=True)
class Example:
    """What one asking is about: a model and one of its tensors, a dataset, and bounds that change from asking to asking."""

    model_id: int
    prefix: str
    tensor_id: int
    dataset: str
    params: int
    accuracy: float


@dataclass(frozen=True)
class Timing:
    """Seconds: the first asking with the opening before it, the same as a rule, and the askings of one session."""

    first: float
    opened: float
    median: float
    p95: float
    processor: float


def filtered_page(connection: Connection, example: Example) -> Any:
    """List the best small models, a screenful."""
    return query.models(connection, f"num_params < {example.params} and test_accuracy > {example.accuracy}", "test_accuracy desc", PAGE)


def best_by_tag(connection: Connection, example: Example) -> Any:
    """List the best models that carry a tag."""
    return query.models(connection, query.where_tags({"dataset": example.dataset}), "test_accuracy desc", PAGE)


def average_by_architecture(connection: Connection, example: Example) -> Any:
    """Give the mean accuracy of each architecture."""
    return query.arrow(
        connection,
        "select architecture_id, count(*) as models, avg(test_accuracy) as accuracy from model_table group by architecture_id order by 1",
    )


def tensors_of_a_model(connection: Connection, example: Example) -> Any:
    """Show a model with its tensors."""
    return query.page(connection, example.model_id)


def not_finite(connection: Connection, example: Example) -> Any:
    """Say which models hold NaN, and where."""
    return query.quarantined(connection)


def sharing_a_tensor(connection: Connection, example: Example) -> Any:
    """List the models in which a tensor stands."""
    return query.arrow(connection, "select model, tensor from tensor_table where tensor_id = ? order by model, tensor", [example.tensor_id])


def metrics_as_columns(connection: Connection, example: Example) -> Any:
    """Give all models with all metrics."""
    return query.arrow(connection, "select name, test_accuracy, test_loss, val_accuracy, train_loss from model_table")


def id_prefix(connection: Connection, example: Example) -> Any:
    """Find a model by the first digits of its id."""
    return query.resolve(connection, example.prefix, Path("/"))


def outliers(connection: Connection, example: Example) -> Any:
    """List the tensors with the heaviest tails."""
    return query.arrow(
        connection,
        "select model, tensor, kurtosis from tensor_table where kurtosis > 30 order by kurtosis desc, model, tensor limit 50",
    )


def dtype_census(connection: Connection, example: Example) -> Any:
    """Count distinct tensors and their bytes by dtype."""
    return query.arrow(
        connection,
        "select dtype, count(*) as tensors, sum(numel)::bigint as elements, sum(nbytes)::bigint as bytes from tensors group by dtype order by dtype",
    )


def whole_zoo(connection: Connection, example: Example) -> Any:
    """Join every occurrence with its model and tensor: the mean spread of each tensor name."""
    return query.arrow(
        connection, "select tensor, count(*) as occurrences, avg(std) as std from tensor_table group by tensor order by tensor"
    )


QUESTIONS = (
    filtered_page,
    best_by_tag,
    average_by_architecture,
    tensors_of_a_model,
    not_finite,
    sharing_a_tensor,
    metrics_as_columns,
    id_prefix,
    outliers,
    dtype_census,
)


def examples(zoo: Zoo, count: int) -> list[Example]:
    """Draw what to ask about."""
    rng = np.random.default_rng(1)
    drawn = []
    with zoo.reading() as connection:
        [(models,)] = connection.execute("select count(*) from models").fetchall()
        datasets = [value for (value,) in connection.execute("select distinct value from tags where key = 'dataset' order by 1").fetchall()]
        for model_id in rng.integers(1, models + 1, count).tolist():
            [(digits,)] = connection.execute("select lower(hex(id)) from models where model_id = ?", [model_id]).fetchall()
            tensors = connection.execute("select tensor_id from model_tensors where model_id = ? order by position", [model_id]).fetchall()
            [tensor_id] = tensors[int(rng.integers(len(tensors)))]
            bounds = int(rng.integers(1_000_000, 50_000_000)), round(float(rng.uniform(0.3, 0.9)), 3)
            drawn.append(Example(model_id, digits[:12], tensor_id, str(rng.choice(datasets)), *bounds))
    return drawn


def timed(zoo: Zoo, ask: Callable[[Connection, Example], Any], drawn: Sequence[Example], *, sessions: int = 5) -> Timing:
    """Ask once in each of some sessions, then often in one that is held."""
    opened = []
    for example in drawn[:sessions]:
        started = time.perf_counter()
        with zoo.reading() as connection:
            ask(connection, example)
        opened.append(time.perf_counter() - started)
    warm, busy = [], []
    with zoo.reading() as connection:
        ask(connection, drawn[0])
        for example in drawn:
            started, spent = time.perf_counter(), time.process_time()
            ask(connection, example)
            warm.append(time.perf_counter() - started)
            busy.append(time.process_time() - spent)
    return Timing(opened[0], float(np.median(opened)), float(np.median(warm)), float(np.percentile(warm, 95)), float(np.median(busy)))


def evict(path: Path) -> None:
    """Ask the system to forget the file's pages, so that the next reader goes to the disk."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def added_batch(zoo: Zoo, models: int, tensors: int = 20) -> float:
    """Write new models, half of whose tensors the catalog knows, and give the seconds with opening, commit and closing."""
    rng = np.random.default_rng(int.from_bytes(os.urandom(8), "little"))
    with zoo.reading() as connection:
        [(known,)] = connection.execute("select max(tensor_id) from tensors").fetchall()
        listed = rng.integers(1, known + 1, models * tensors // 2).tolist()
        where = ", ".join(map(str, listed))
        digests = [bytes(one) for (one,) in connection.execute(f"select hash from tensors where tensor_id in ({where})").fetchall()]
    fingerprint = rng.bytes(32)

    def row(slot: int) -> TensorRow:
        digest = digests[int(rng.integers(len(digests)))] if slot % 2 else rng.bytes(32)
        return (f"layer.{slot}.weight", "F32", [64, 64], None, digest, 4096, 16384, 0, 0, 0, -0.1, 0.1, 1e-4, 0.02, 65.4, 1.28, 0.0, 3.0)

    records = [
        ModelRecord(
            place=Place(f"/data/new/{rng.bytes(8).hex()}/model.safetensors", "safetensors", 1, 330_000, datetime(2026, 1, 1), number),
            name=f"new{number}", id=rng.bytes(32), weights_id=rng.bytes(32), fingerprint=fingerprint, kind="full",
            num_params=4096 * tensors, num_bytes=16384 * tensors, tensors=tuple(row(slot) for slot in range(tensors)), description=Description(),
        )
        for number in range(models)
    ]  # fmt: skip
    started = time.perf_counter()
    with zoo.catalog.writing() as connection:
        write_records(connection, records)
    return time.perf_counter() - started


def report(folder: Path, models: int, repeats: int, *, cold: bool) -> dict[str, Timing]:
    """Build the catalog, ask everything, print a table."""
    zoo = Zoo(folder)
    started = time.perf_counter()
    build(zoo, models, progress=lambda done: print(f"\r{done:,} of {models:,} models", end="", file=sys.stderr))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    with zoo.reading() as connection:
        tables = ("models", "tensors", "model_tensors")
        counts = ", ".join(f"{connection.execute(f'select count(*) from {table}').fetchall()[0][0]:,} {table}" for table in tables)
    print(file=sys.stderr)
    print(f"{counts}; {zoo.catalog.path.stat().st_size / 1e6:,.0f} MB; built in {seconds:.0f} s, peak {peak:.0f} MB")
    drawn = examples(zoo, repeats)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; milliseconds")
    print(f"{'':26}{'first':>8}{'opened':>8}{'median':>8}{'p95':>8}{'processor':>11}")
    timings = {}
    for ask in (*QUESTIONS, whole_zoo):
        if cold:
            evict(zoo.catalog.path)
        one = timings[ask.__name__] = timed(zoo, ask, drawn if ask is not whole_zoo else drawn[:5])
        figures = "".join(f"{1e3 * value:8.0f}" for value in (one.first, one.opened, one.median, one.p95))
        print(f"{ask.__name__.replace('_', ' '):26}{figures}{1e3 * one.processor:11.0f}", flush=True)
    batch = min(2000, models)
    seconds = sorted(added_batch(zoo, batch) for _ in range(3))[1]
    print(
        f"a batch of {batch} models of 20 tensors, half of them known, is added in {seconds:.2f} s ({1e3 * seconds / batch:.2f} ms a model)"
    )
    print(f"load {os.getloadavg()[0]:.1f}; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    return timings


def main() -> None:
    """Read the arguments, and work in a folder that is removed at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=20, help="askings of each question in one session")
    parser.add_argument("--cold", action="store_true", help="drop the file from the page cache before each first asking")
    parser.add_argument("--scratch", type=Path, help="where to make the temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        report(Path(folder), arguments.models, arguments.repeats, cold=arguments.cold)


if __name__ == "__main__":
    main()
