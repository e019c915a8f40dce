"""A synthetic catalog of any size: the real schema, filled with what a zoo of fine-tuned families would hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int32, Int64

from weightspace.zoo import Zoo
from weightspace.zoo.model_table import refresh_model_table

TENSORS = 100  # of each model
_LAYER = (
    "attn.q_proj",
    "attn.k_proj",
    "attn.v_proj",
    "attn.o_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "norm1",
    "norm2",
    "mlp.up_bias",
    "mlp.down_bias",
)
_ARCHITECTURES = 64
_METRICS = (("test", "accuracy"), ("test", "loss"), ("val", "accuracy"), ("train", "loss"))
_DATASETS = np.array(["cifar10", "digits", "fineweb", "imagenet", "librispeech", "mnist", "svhn"])
_DTYPES = np.array(["F32", "BF16", "F16"])
_BATCH = 2_000  # models a transaction
_RUN = 10  # checkpoints a run
_EPOCH = np.datetime64("2026-01-01T00:00:00", "us")


@dataclass
class _Lineage:
    """What later models inherit: architecture, dtype, tensor ids by slot, and whether a tensor is not finite."""

    architecture: Int32[np.ndarray, " models"]
    dtype: Int32[np.ndarray, " models"]
    tensors: Int64[np.ndarray, "models slots"]
    broken: set[int]


def build(zoo: Zoo, models: int, *, seed: int = 0, progress: Callable[[int], None] = lambda done: None) -> None:
    """Fill a new zoo: of each model's 100 tensors half are inherited from an earlier model, in an order of its own.

    Args:
        zoo: a zoo without a catalog.
        models: how many; the first of them, 200 at most, are roots that inherit nothing.
        seed: the same seed gives the same content.
        progress: told the number of models after every transaction.
    """
    zoo.create()
    rng = np.random.default_rng(seed)
    known = _Lineage(np.zeros(models, np.int32), np.zeros(models, np.int32), np.zeros((models, TENSORS), np.int64), set())
    with zoo.catalog.writing() as connection:
        _insert(connection, "architectures", _architectures(rng))
    next_tensor = 1
    roots = min(max(models // 20, 1), _BATCH // 10)
    done = 0
    while done < models:
        stop = roots if done == 0 else min(done + _BATCH, models)
        tables, next_tensor = _batch(rng, known, done, stop, next_tensor)
        with zoo.catalog.writing() as connection:
            for table, columns in tables.items():
                _insert(connection, table, columns)
            if done == 0:
                refresh_model_table(connection)
        done = stop
        progress(done)


def _insert(connection: Any, table: str, columns: Mapping[str, Any]) -> None:
    connection.register("batch", pa.table(dict(columns)))
    connection.execute(f"insert into {table} by name select * from batch")
    connection.unregister("batch")


def _hashes(rng: np.random.Generator, count: int) -> pa.Array:
    data = pa.py_buffer(rng.bytes(32 * count))
    offsets = pa.py_buffer(np.arange(0, 32 * (count + 1), 32, dtype=np.int32))
    return pa.Array.from_buffers(pa.binary(), count, [None, offsets, data])


def _texts(values: Any, codes: Int64[np.ndarray, " rows"]) -> pa.Array:
    """A column of few distinct texts."""
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(values, pa.string())).cast(pa.string())


def _names() -> list[str]:
    return [f"model.layers.{layer}.{part}.weight" for layer in range(TENSORS // len(_LAYER)) for part in _LAYER]


def _widths() -> Int64[np.ndarray, " architectures"]:
    return 32 * (1 + np.arange(_ARCHITECTURES))


def _shapes() -> tuple[list[list[int]], Int64[np.ndarray, "architectures slots"]]:
    """Every shape there is, and which of them a slot of an architecture has."""
    shapes: list[list[int]] = []
    codes = np.zeros((_ARCHITECTURES, TENSORS), np.int64)
    for architecture, width in enumerate(_widths().tolist()):
        kinds = [[width, width]] * 4 + [[4 * width, width], [width, 4 * width], [width], [width], [4 * width], [width]]
        for slot in range(TENSORS):
            codes[architecture, slot] = len(shapes) + slot % len(_LAYER)
        shapes += kinds
    return shapes, codes


def _architectures(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "architecture_id": pa.array(range(1, _ARCHITECTURES + 1), pa.int32()),
        "fingerprint": _hashes(rng, _ARCHITECTURES),
        "num_tensors": pa.array([TENSORS] * _ARCHITECTURES, pa.int32()),
        "family": pa.array([f"family{at % 8}" for at in range(_ARCHITECTURES)], pa.string()),
    }


def _batch(rng: np.random.Generator, known: _Lineage, start: int, stop: int, next_tensor: int) -> tuple[dict[str, dict[str, Any]], int]:
    """Rows of all tables for the models from `start` to `stop`, and the next free tensor id."""
    count = stop - start
    new = np.ones((count, TENSORS), bool)
    if start == 0:
        architecture = rng.integers(0, _ARCHITECTURES, count).astype(np.int32)
        dtype = rng.choice(3, count, p=[0.7, 0.25, 0.05]).astype(np.int32)
        ids = np.zeros((count, TENSORS), np.int64)
    else:
        parents = rng.integers(0, start, count)
        architecture, dtype = known.architecture[parents], known.dtype[parents]
        ids = known.tensors[parents]
        new = rng.permuted(np.tile(np.arange(TENSORS) >= TENSORS // 2, (count, 1)), axis=1)
    order = rng.permuted(np.tile(np.arange(TENSORS), (count, 1)), axis=1)  # slots by position: names are shuffled
    is_new = np.take_along_axis(new, order, 1)
    placed = np.take_along_axis(ids, order, 1)
    fresh = int(is_new.sum())
    placed[is_new] = np.arange(next_tensor, next_tensor + fresh)
    np.put_along_axis(ids, order, placed, 1)
    known.architecture[start:stop], known.dtype[start:stop], known.tensors[start:stop] = architecture, dtype, ids

    shapes, codes = _shapes()
    numel = np.array([int(np.prod(shape)) for shape in shapes])
    code = codes[np.repeat(architecture, TENSORS).reshape(count, TENSORS), order][is_new]
    tensors = _tensors(rng, shapes, code, np.repeat(dtype, is_new.sum(1)), next_tensor)
    known.broken.update((next_tensor + np.flatnonzero(tensors["num_nan"])).tolist())
    finite = ~np.isin(placed, list(known.broken)).any(1)
    elements = numel[codes].sum(1)[architecture]
    number = np.arange(start + 1, stop + 1)
    tables = {
        "tensors": tensors,
        "model_tensors": {
            "model_id": pa.array(np.repeat(number, TENSORS), pa.int32()),
            "position": pa.array(np.tile(np.arange(TENSORS), count), pa.int32()),
            "name": _texts(_names(), order.ravel()),
            "tensor_id": pa.array(placed.ravel(), pa.int64()),
        },
        "models": _models(rng, number, architecture, elements, dtype, finite),
        "files": _files(rng, number, elements, dtype),
        "runs": _runs(start, stop),
        "metrics": _metrics(rng, number),
        "tags": {
            "model_id": pa.array(np.repeat(number, 2), pa.int32()),
            "key": _texts(["dataset", "seed"], np.tile([0, 1], count)),
            "value": pa.array(np.stack([rng.choice(_DATASETS, count), (number % _RUN).astype("U11")], 1).ravel(), pa.string()),
        },
    }
    return tables, next_tensor + fresh


def _tensors(
    rng: np.random.Generator, shapes: list[list[int]], code: Int64[np.ndarray, " rows"], dtype: Int32[np.ndarray, " rows"], first: int
) -> dict[str, Any]:
    """Statistics as of normal weights: extremes are values of the dtype, moments are full doubles."""
    count = len(code)
    numel = np.array([int(np.prod(shape)) for shape in shapes])[code]
    std = rng.lognormal(-3.5, 0.8, count)
    mean = std * rng.standard_normal(count) / np.sqrt(numel)
    reach = std * np.sqrt(2 * np.log(numel + 1))
    num_nan = np.where(rng.random(count) < 1e-4, rng.integers(1, 100, count), 0)
    # One in a thousand has heavy tails.
    kurtosis = 3 + np.where(rng.random(count) < 1e-3, rng.pareto(2.0, count) * 20, rng.standard_normal(count) * np.sqrt(24 / numel))
    return {
        "tensor_id": pa.array(np.arange(first, first + count), pa.int64()),
        "hash": _hashes(rng, count),
        "dtype": _texts(_DTYPES, dtype),
        "shape": pa.array(shapes, pa.list_(pa.int64())).take(pa.array(code)),
        "numel": pa.array(numel),
        "nbytes": pa.array(numel * np.where(dtype == 0, 4, 2)),
        "num_zero": pa.array(np.where(rng.random(count) < 0.05, rng.integers(1, 50, count), 0)),
        "num_nan": pa.array(num_nan),
        "num_inf": pa.array(np.zeros(count, np.int64)),
        "minimum": pa.array(_stored(mean - reach * rng.uniform(0.8, 1.3, count), dtype)),
        "maximum": pa.array(_stored(mean + reach * rng.uniform(0.8, 1.3, count), dtype)),
        "mean": pa.array(mean),
        "std": pa.array(std),
        "l1": pa.array(numel * std * np.sqrt(2 / np.pi) * rng.uniform(0.99, 1.01, count)),
        "l2": pa.array(np.sqrt(numel * (std**2 + mean**2))),
        "skewness": pa.array((rng.standard_normal(count) * np.sqrt(6 / numel)).astype(np.float32)),
        "kurtosis": pa.array(kurtosis.astype(np.float32)),
    }


def _stored(values: Float64[np.ndarray, " rows"], dtype: Int32[np.ndarray, " rows"]) -> Float64[np.ndarray, " rows"]:
    """Round to what the dtype can hold."""
    single = values.astype(np.float32)
    brain = (single.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.select([dtype == 0, dtype == 1], [single, brain], values.astype(np.float16)).astype(np.float64)


def _models(
    rng: np.random.Generator,
    number: Int64[np.ndarray, " models"],
    architecture: Int32[np.ndarray, " models"],
    elements: Int64[np.ndarray, " models"],
    dtype: Int32[np.ndarray, " models"],
    finite: Any,
) -> dict[str, Any]:
    count = len(number)
    return {
        "model_id": pa.array(number, pa.int32()),
        "id": _hashes(rng, count),
        "weights_id": _hashes(rng, count),
        "name": pa.array([f"run{n // _RUN}/checkpoint-{n % _RUN}" for n in number.tolist()], pa.string()),
        "architecture_id": pa.array(architecture + 1, pa.int32()),
        "kind": _texts(["full"], np.zeros(count, np.int64)),
        "num_params": pa.array(elements),
        "num_bytes": pa.array(elements * np.where(dtype == 0, 4, 2)),
        "num_tensors": pa.array([TENSORS] * count, pa.int32()),
        "is_finite": pa.array(finite),
        "licence": _texts(["apache-2.0", "mit", "cc-by-4.0"], rng.integers(0, 3, count)),
        "catalogued": pa.array(_EPOCH + number * 1_000_000, pa.timestamp("us")),
    }


def _files(
    rng: np.random.Generator,
    number: Int64[np.ndarray, " models"],
    elements: Int64[np.ndarray, " models"],
    dtype: Int32[np.ndarray, " models"],
) -> dict[str, Any]:
    count = len(number)
    size = elements * np.where(dtype == 0, 4, 2) + 8192
    return {
        "file_id": pa.array(number, pa.int32()),
        "model_id": pa.array(number, pa.int32()),
        "path": pa.array([f"/data/zoo/run{n // _RUN}/checkpoint-{n % _RUN}/model.safetensors" for n in number.tolist()], pa.string()),
        "format": _texts(["safetensors", "torch"], (number % 4 == 3).astype(np.int64)),
        "num_files": pa.array(np.ones(count), pa.int32()),
        "size": pa.array(size),
        "modified": pa.array(_EPOCH + number * 1_000_000, pa.timestamp("us")),
        "stamp": pa.array(rng.integers(0, 2**63, count, dtype=np.uint64)),
        "sidecar_stamp": pa.array(rng.integers(0, 2**63, count, dtype=np.uint64)),
        "run_id": pa.array(number // _RUN + 1, pa.int32()),
        "step": pa.array(number % _RUN * 1000, pa.int64()),
        "metadata": pa.array(
            [
                f'{{"container":{{"format":"pt"}},"trainer_state":{{"global_step":{n % _RUN * 1000},"epoch":{n % 7}}}}}'
                for n in number.tolist()
            ]
        ),
        "ingested": pa.array(_EPOCH + number * 1_000_000, pa.timestamp("us")),
    }


def _runs(start: int, stop: int) -> dict[str, Any]:
    """Runs whose first checkpoint is among these models (numbered from 1)."""
    number = [n for n in range(start, stop + 1) if n % _RUN == 0 and (n > start or n == 0)]
    return {
        "run_id": pa.array([n // _RUN + 1 for n in number], pa.int32()),
        "key": pa.array([f"folder:/data/zoo/run{n // _RUN}" for n in number], pa.string()),
        "name": pa.array([f"run{n // _RUN}" for n in number], pa.string()),
        "source": pa.array(["folder"] * len(number), pa.string()),
        "seed": pa.array([n // _RUN % 5 for n in number], pa.int64()),
        "hyperparameters": pa.array([f'{{"lr":{10 ** -(n // _RUN % 4 + 1)},"seed":{n // _RUN % 5}}}' for n in number], pa.string()),
    }


def _metrics(rng: np.random.Generator, number: Int64[np.ndarray, " models"]) -> dict[str, Any]:
    count, kinds = len(number), len(_METRICS)
    which = np.tile(np.arange(kinds), count)
    return {
        "model_id": pa.array(np.repeat(number, kinds), pa.int32()),
        "run_id": pa.array(np.repeat(number // _RUN + 1, kinds), pa.int32()),
        "name": _texts([name for _, name in _METRICS], which),
        "split": _texts([split for split, _ in _METRICS], which),
        "step": pa.array(np.repeat(number % _RUN * 1000, kinds), pa.int64()),
        "value": pa.array(rng.random(count * kinds)),
        "source": _texts(["metrics.json"], np.zeros(count * kinds, np.int64)),
        "recorded": pa.array(np.full(count * kinds, _EPOCH), pa.timestamp("us")),
    }
