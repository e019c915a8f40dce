"""Nearest neighbours among 100,000 embeddings: one query of the catalog beside numpy over the same numbers.

    python -m tests.benchmarks.similar [MODELS] [DIMENSION]

The zoo's time is that of `Zoo.similar` as a user calls it: lock, open, look up the model, compare with every embedding, fetch names and
metrics of the ten nearest. numpy's is given twice: the comparison alone with all vectors in memory and their norms known, and
with the vectors fetched from the catalog first, which is what a program without an index in memory has to do.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weightspace.zoo import Zoo
from weightspace.zoo.model_table import refresh_model_table

Floats = npt.NDArray[np.float32]

REPEATS = 15
NEAREST = 10


def catalogue(zoo: Zoo, models: int) -> list[str]:
    """Rows of models with one metric, and nothing else: their weights play no part."""
    zoo.create()
    names = [f"net-{at:06d}" for at in range(models)]
    numbers = pa.array(range(models), pa.int32())
    with zoo.catalog.writing() as connection:
        ids = pa.array([at.to_bytes(32, "little") for at in range(models)], pa.binary())
        connection.register("made", pa.table({"model_id": numbers, "id": ids, "name": names}))
        connection.execute("insert into models by name select * from made")
    with zoo.catalog.writing() as connection:
        connection.execute(
            "insert into metrics by name select model_id, 'accuracy' as name, 'test' as split, model_id / 1e6 as value, 'user' as source from models"
        )
        refresh_model_table(connection)
    return names


def timed(work: Callable[[], object]) -> tuple[float, float, float]:
    """Median and best of several runs, and the mean of the processor's time, in milliseconds, after one that does not count."""
    work()
    taken = []
    spent = time.process_time()
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken), min(taken), 1000 * (time.process_time() - spent) / REPEATS


def main(models: int, dimension: int) -> None:
    """Print the table."""
    vectors = np.random.default_rng(0).normal(size=(models, dimension)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        zoo = Zoo(Path(folder))
        names = catalogue(zoo, models)
        begun = time.perf_counter()
        zoo.record_embeddings("net", "1", dict(zip(names, vectors, strict=True)))
        recorded = time.perf_counter() - begun
        norms = np.linalg.norm(vectors, axis=1)

        def compare(among: Floats, lengths: Floats) -> npt.NDArray[np.intp]:
            cosines = among @ vectors[0] / (lengths * norms[0])
            cosines[0] = -2  # the model itself
            best = np.argpartition(-cosines, NEAREST)[:NEAREST]
            return best[np.argsort(-cosines[best])]

        def fetch_and_compare() -> npt.NDArray[np.intp]:
            fetched = zoo.embeddings("net")["vector"].combine_chunks().values.to_numpy().reshape(models, dimension)
            return compare(fetched, np.linalg.norm(fetched, axis=1))

        found = zoo.similar(names[0], limit=NEAREST)["name"].to_pylist()
        assert found == [names[at] for at in compare(vectors, norms)], "the catalog and numpy disagree"
        rows = {
            "Zoo.similar": timed(lambda: zoo.similar(names[0], limit=NEAREST)),
            "Zoo.similar, half of the models by a condition": timed(
                lambda: zoo.similar(names[0], limit=NEAREST, where="test_accuracy < 0.05")
            ),
            "numpy, vectors and norms in memory": timed(lambda: compare(vectors, norms)),
            "numpy, vectors fetched from the catalog": timed(fetch_and_compare),
        }
    print(f"{models:,} embeddings of {dimension} numbers, {NEAREST} nearest, {REPEATS} runs; recorded in {recorded:.1f} s\n")
    print("| one query | median ms | best ms | CPU ms |\n|-|-|-|-|")
    for what, (median, best, spent) in rows.items():
        print(f"| {what} | {median:.1f} | {best:.1f} | {spent:.1f} |")


if __name__ == "__main__":
    given = [int(one) for one in sys.argv[1:3]]
    main(*(given + [100_000, 64][len(given) :]))
