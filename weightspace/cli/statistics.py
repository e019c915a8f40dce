"""What the catalog says of the tensors of models, for analyses that need not read weights."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

_OF_MODELS = """
    select models.name as model, model_tensors.name as tensor, numel, num_zero, mean, std, l2, minimum, maximum, kurtosis::double as kurtosis
    from model_tensors join tensors using (tensor_id) join (select model_id, name from model_table {where}) as models using (model_id)
    where model_tensors.alias_of is null and numel > 0 and (starts_with(dtype, 'F') or starts_with(dtype, 'BF'))
    order by model_id, position
"""


def statistics_of(zoo: "Zoo", where: str | None = None) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Statistics of the float tensors of models, by model and tensor, in the order in which the models were catalogued.

    Args:
        zoo: whose catalog to ask.
        where: SQL condition on models, as in `Zoo.models`.
    """
    made: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for row in zoo.sql(_OF_MODELS.format(where=f"where\n{where}\n" if where else "")).to_pylist():
        made.setdefault(row.pop("model"), {})[row.pop("tensor")] = row
    return made
