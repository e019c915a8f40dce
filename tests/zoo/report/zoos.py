"""Zoos for the tests of the report: a small one that has everything, hostile names among it, and one of many rows."""

from pathlib import Path

import torch

from weightspace.zoo.model_table import refresh_model_table
from weightspace.zoo.runs.run import Run
from weightspace.zoo.zoo import Added, Zoo

HOSTILE = "evil</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'&$x_1$\u202e\x07/net<!--"
LONG = f"long/{'x' * 10_000}"


def everything(folder: Path) -> Zoo:
    """Two runs, a merge of their ends, hostile and long names, tags, a recipe, what was measured of tensors and models, a broken file."""
    zoo, generator = Zoo(folder), torch.Generator().manual_seed(0)

    def net() -> dict[str, torch.Tensor]:
        return {"fc1.weight": torch.randn(16, 8, generator=generator), "fc1.bias": torch.randn(16, generator=generator)}

    trained = [
        Added(
            net(),
            f"run{run}/step-{step}",
            run=Run(f"population:run{run}", f"run{run}", "population", run),
            step=step,
            metrics={"test": {"accuracy": 0.5 + step / 100 + run / 10}},
        )
        for run in (0, 1)
        for step in (0, 10, 20)
    ]
    zoo.add_many(
        [
            *trained,
            Added(net(), "mean", recipe={"kind": "merge", "note": HOSTILE}, parents=("run0/step-20", "run1/step-20"), tags={"best": ""}),
            Added({HOSTILE: torch.zeros(8, 8), "b": torch.ones(3)}, HOSTILE, tags={HOSTILE: HOSTILE}, parents=("mean",)),
            Added({LONG: torch.eye(4)}, LONG, recipe={"kind": HOSTILE}, parents=(HOSTILE,)),
        ]
    )
    (folder / "broken<b>.safetensors").write_bytes(b"\x00" * 5)
    zoo.ingest(folder / "broken<b>.safetensors", jobs=1)
    with zoo.catalog.writing() as connection:
        connection.execute(
            """insert into measurements select null, tensor_id, 'alpha', '1', '{}', 'alpha', 2.5, null from tensors where len(shape) = 2"""
        )
        connection.execute(
            "insert into measurements select model_id, null, 'flatness', '1', '{}', 'flatness', 0.25, null from models where name = 'mean'"
        )
    return zoo


def many(folder: Path, count: int, *, tensors: int = 2) -> Zoo:
    """A catalog of many models, written without any weights."""
    zoo = Zoo(folder)
    zoo.create()
    with zoo.catalog.writing() as connection:
        connection.execute("insert into architectures (architecture_id, num_tensors) values (1, ?)", [tensors])
        connection.execute(
            """insert into models by name select i::integer as model_id, unhex(md5(i::varchar) || md5((-i)::varchar)) as id, 1 as architecture_id,
               'family-' || i % 7 || '/model-' || i as name, 'full' as kind, 1000 + i * i as num_params, 4000 + 4 * i * i as num_bytes,
               ?::integer as num_tensors, true as is_finite, timestamp '2026-01-01' as catalogued from range(1, ? + 1) r(i)""",
            [tensors, count],
        )
        connection.execute(
            """insert into files by name select model_id as file_id, model_id, 'models/' || name as path, ['torch', 'onnx', 'safetensors'][1 + model_id % 3] as format,
               1 as num_files, num_bytes as size, timestamp '2026-01-01' as modified, model_id % 50 as step from models"""
        )
        connection.execute(
            """insert into tensors by name select i as tensor_id, unhex(md5(i::varchar) || md5((-i)::varchar)) as hash, 'F32' as dtype, [8, 8] as shape,
               64 as numel, 256 as nbytes, 0 as num_zero, 0 as num_nan, 0 as num_inf, -sin(i) - 2 as minimum, cos(i) + 2 as maximum,
               sin(i) as mean, 1 + abs(sin(i)) as std, 10 as l1, 8 + 8 * abs(sin(i)) as l2, 0 as skewness, 3 + cos(i) as kurtosis
               from range(1, ? + 1) r(i)""",
            [count * tensors],
        )
        connection.execute(
            """insert into model_tensors by name select 1 + (tensor_id - 1) // ? as model_id, (tensor_id - 1) % ? as position,
               'layers.' || position || '.weight' as name, tensor_id from tensors""",
            [tensors, tensors],
        )
        for name, value in (("accuracy", "abs(sin(model_id))"), ("loss", "abs(cos(model_id))")):
            connection.execute(
                f"insert into metrics by name select model_id, '{name}' as name, 'test' as split, {value} as value, 'user' as source from models"
            )
        refresh_model_table(connection)
    return zoo
