"""What a recipe's parameters are for one tensor: who is asked first, filters by name, gradients over the layers."""

from collections.abc import Iterable, Mapping
from typing import Any

from weightspace.analysis.merging.method import MergeMethod, Parameter
from weightspace.analysis.merging.recipe import Filtered, Module, Recipe, Scalar, Setting, Slice
from weightspace.errors import MergeError


def parameters_of(
    method: MergeMethod, recipe: Recipe, module: Module, slice: Slice, tensor: str, t: float, inputs: Mapping[int, str]
) -> dict[str, Any]:
    """Find every parameter of a method for one tensor of the result.

    What is said nearest to the model goes before what is said of the slice, the module and the recipe; a filter that does not fit says
    nothing. A gradient is interpolated at the depth `t` of the layer.

    Args:
        method: whose parameters.
        recipe: the whole.
        module: the part of the model.
        slice: the layers.
        tensor: its name in the result, which filters of the recipe's parameters look at.
        t: 0 for the first layer of the slice and for tensors outside layers, 1 for the last layer.
        inputs: places in the slice of the models that the method is given, and the tensor's name in each, which filters of theirs look at.

    Raises:
        MergeError: a value that the method does not take, or none where it needs one.
    """
    around = (slice.parameters, module.parameters, recipe.parameters)
    given: dict[str, Any] = {}
    for name, parameter in method.parameters.items():
        if parameter.is_each:
            found = [_first(parameter, (slice.inputs[at].parameters, *around), own, t) for at, own in inputs.items()]
            said = [parameter.default if value is None else value for value in found]
            for at, value in zip(inputs, said, strict=True):
                if value is parameter.default and parameter.is_required:
                    where = f"model '{slice.inputs[at].source}', tensor '{tensor}'"
                    raise MergeError(f"{where}: merge method '{method.name}' needs the parameter '{name}'; give it a value")
            given[name] = tuple(said)
        elif (value := _first(parameter, around, tensor, t)) is not None:
            given[name] = value
    return method.read(given, len(inputs), f"tensor '{tensor}'")


def evidence_of(recipe: Recipe, module: Module, slice: Slice, name: str, at: int) -> str | None:
    """Where the evidence of one model lies: a file or `module:function`."""
    for source in (slice.inputs[at].parameters, slice.parameters, module.parameters, recipe.parameters):
        if name in source:
            value = source[name]
            if not isinstance(value, str):
                raise MergeError(
                    f"evidence '{name}' of model '{slice.inputs[at].source}' is {value!r}; expected a file, or MODULE:FUNCTION"
                )
            return value
    return None


def _first(parameter: Parameter, sources: Iterable[Mapping[str, Setting]], tensor: str, t: float) -> Scalar | None:
    for source in sources:
        if parameter.name in source and (value := setting_at(source[parameter.name], tensor, t)) is not None:
            return value
    return None


def setting_at(setting: Setting, tensor: str, t: float) -> Scalar | None:
    """Evaluate a setting for one tensor; None where no filter of it fits.

    Example:
        >>> setting_at((0.0, 1.0, 0.0), "layers.1.weight", 0.25)
        0.5
    """
    if not isinstance(setting, tuple):
        return setting
    if not isinstance(setting[0], Filtered):
        return _gradient(setting, t)
    for one in setting:
        if isinstance(one, Filtered) and one.takes(tensor):
            return _gradient(one.value, t) if isinstance(one.value, tuple) else one.value
    return None


def _gradient(values: tuple[Scalar, ...], t: float) -> Scalar:
    """Numbers are interpolated linearly over equal distances; of anything else the last one reached holds."""
    place = t * (len(values) - 1)
    low = min(int(place), len(values) - 1)
    here, there = values[low], values[min(low + 1, len(values) - 1)]
    if isinstance(here, bool | str) or isinstance(there, bool | str):
        return here
    return (1 - (place - low)) * here + (place - low) * there
