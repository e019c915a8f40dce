"""Recipes as YAML and plain values have them: read strictly, and written so that they are read back the same."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from weightspace import documents, dtypes
from weightspace.analysis.merging.recipe import (
    Adapter,
    Align,
    Filtered,
    Input,
    Module,
    Recipe,
    Repair,
    Scalar,
    Select,
    Setting,
    Slice,
    Source,
)
from weightspace.errors import MergeError, WeightSpaceError, close_names, one_line


def document(source: Path | str, what: str) -> tuple[str, dict[str, Any]]:
    """Read one YAML or JSON document from a file, or from its text; returns what to call it in messages, and its values.

    Args:
        source: the path, or the text.
        what: it is to be, as in `recipe`.

    Raises:
        MergeError: it cannot be read, or is not one mapping.
    """
    try:
        where, text = documents.text_of(source)
        found = documents.load(text, where)
    except WeightSpaceError as error:
        said = str(error).replace("as a spec", f"as a {what}").replace("the spec", f"the {what}").replace("a spec", f"a {what}")
        raise MergeError(said.replace("'groups' and 'tensors'", "names to values")) from None
    if len(found) != 1:
        raise MergeError(f"{where} holds {len(found)} documents; expected one {what}")
    return where, found[0]


def recipe_form(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, of which those that stand at their default are left out."""
    made = _plain(recipe)
    made |= {key: dtypes.dtype(made[key]).torch for key in ("dtype", "out_dtype") if key in made}
    modules = {prefix: _module_form(module) for prefix, module in recipe.modules.items()}
    del made["modules"]
    return {**made, **(modules[""] if set(modules) == {""} and "parameters" not in modules[""] else {"modules": modules})}


def _module_form(module: Module) -> dict[str, Any]:
    """A part of a model as recipes write it: whole models, or slices."""
    said = {"parameters": _plain(module.parameters)} if module.parameters else {}
    first = module.slices[0]
    if len(module.slices) == 1 and first.base is None and not first.parameters and all(one.layers is None for one in first.inputs):
        return {"models": [_input_form(one, "model") for one in first.inputs], **said}
    slices = []
    for slice in module.slices:
        form: dict[str, Any] = {"sources": [_input_form(one, "model") for one in slice.inputs]}
        if slice.base is not None:
            form["base_model"] = str(slice.base)
        if slice.parameters:
            form["parameters"] = _plain(slice.parameters)
        slices.append(form)
    return {"slices": slices, **said}


def _input_form(given: Input, key: str) -> dict[str, Any]:
    form: dict[str, Any] = {key: str(given.source)}
    if given.layers is not None:
        form["layer_range"] = list(given.layers)
    if given.parameters:
        form["parameters"] = _plain(given.parameters)
    return form


def _plain(value: Any) -> Any:
    """A value as YAML and JSON hold it."""
    if isinstance(value, Source):
        return str(value)
    if isinstance(value, Filtered):
        return {"value": _plain(value.value), **({} if value.filter is None else {"filter": value.filter})}
    if is_dataclass(value) and not isinstance(value, type):
        given = {one.name: getattr(value, one.name) for one in fields(value)}
        return {one.name: _plain(given[one.name]) for one in fields(value) if given[one.name] != _default(one)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value


def _default(one: Field[Any]) -> Any:
    """What a field holds where nothing is said."""
    return one.default if one.default_factory is MISSING else one.default_factory()


# Reading: every function takes what was written and where it stands, and says what is wrong with it in one line.


def read_recipe(given: Mapping[str, Any], where: str) -> Recipe:
    """Read a recipe from plain values.

    Args:
        given: what was written, in mergekit's form or ours.
        where: what to call it in messages.

    Raises:
        MergeError: it is no recipe; the message names the key.
    """
    given = {key: value for key, value in given.items() if (key, value) != ("kind", "merge")}  # as recipes stand in catalogs and files
    known = ["models", "slices", *(one.name for one in fields(Recipe))]
    _expect_keys(given, known, where)
    if "merge_method" not in given:
        raise MergeError(f"{where} names no merge_method; add one, such as merge_method: linear")
    parts = [key for key in ("models", "slices", "modules") if given.get(key)]
    if len(parts) != 1:
        found = " and ".join(parts) if parts else "none of them"
        raise MergeError(f"{where} has {found}; expected exactly one of models, slices and modules")
    if given.get("tokenizer") and given.get("tokenizer_source"):
        raise MergeError(f"{where} has both tokenizer and tokenizer_source; keep one of them")
    base = None if given.get("base_model") is None else _source(given["base_model"], f"{where}, base_model")
    modules = (
        {str(prefix): _module(one, f"{where}, modules.{prefix}") for prefix, one in _mapping(given["modules"], f"{where}, modules").items()}
        if parts == ["modules"]
        else {"": _module({parts[0]: given[parts[0]]}, where)}
    )
    return Recipe(
        _word(given["merge_method"], f"{where}, merge_method"),
        modules,
        base,
        _parameters(given.get("parameters"), f"{where}, parameters"),
        _dtype(given.get("dtype"), f"{where}, dtype"),
        _dtype(given.get("out_dtype"), f"{where}, out_dtype"),
        _optional_word(given.get("tokenizer_source"), f"{where}, tokenizer_source"),
        _mapping(given.get("tokenizer") or {}, f"{where}, tokenizer"),
        _optional_word(given.get("chat_template"), f"{where}, chat_template"),
        _whole(given.get("seed", 0), f"{where}, seed"),
        _align(given.get("align"), f"{where}, align"),
        _repair(given.get("repair"), f"{where}, repair"),
        _select(given.get("select"), f"{where}, select"),
        _adapter(given.get("adapter"), f"{where}, adapter"),
        _choice(given.get("keep", "none"), ("none", "base", "all"), f"{where}, keep"),
        _optional_word(given.get("name"), f"{where}, name"),
    )


def _module(given: Any, where: str) -> Module:
    given = _mapping(given, where)
    _expect_keys(given, ("models", "slices", "parameters"), where)
    if bool(given.get("models")) == bool(given.get("slices")):
        raise MergeError(
            f"{where} has {'both models and slices' if given.get('models') else 'neither models nor slices'}; expected one of them"
        )
    if given.get("models"):
        models = _list(given["models"], f"{where}, models")
        slices: tuple[Slice, ...] = (Slice(tuple(_input(one, f"{where}, models[{at}]", sliced=False) for at, one in enumerate(models))),)
    else:
        slices = tuple(_slice(one, f"{where}, slices[{at}]") for at, one in enumerate(_list(given["slices"], f"{where}, slices")))
    return Module(slices, _parameters(given.get("parameters"), f"{where}, parameters"))


def _slice(given: Any, where: str) -> Slice:
    given = _mapping(given, where)
    _expect_keys(given, ("sources", "base_model", "parameters", "residual_weight"), where)
    sources = _list(given.get("sources") or [], f"{where}, sources")
    if not sources:
        raise MergeError(f"{where} has no sources; name the models and their layer_range")
    inputs = tuple(_input(one, f"{where}, sources[{at}]", sliced=True) for at, one in enumerate(sources))
    lengths = [one.layers[1] - one.layers[0] for one in inputs if one.layers]
    if len(set(lengths)) > 1:
        raise MergeError(f"{where} takes {', '.join(map(str, lengths))} layers of its sources; expected equally many of each")
    base = None if given.get("base_model") is None else _source(given["base_model"], f"{where}, base_model")
    return Slice(inputs, base, _parameters(given.get("parameters"), f"{where}, parameters"))


def _input(given: Any, where: str, *, sliced: bool) -> Input:
    if not isinstance(given, Mapping):
        given = {"model": given}
    _expect_keys(given, ("model", "parameters", *(["layer_range"] if sliced else [])), where)
    if given.get("model") is None:
        raise MergeError(f"{where} names no model; add model: PATH")
    layers = None
    if sliced:
        found = given.get("layer_range")
        if not isinstance(found, list) or len(found) != 2 or not all(type(one) is int for one in found) or not 0 <= found[0] < found[1]:
            raise MergeError(f"{where}: layer_range is {found!r}; expected [first, end] with 0 <= first < end, the end not taken")
        layers = (found[0], found[1])
    return Input(_source(given["model"], f"{where}, model"), _parameters(given.get("parameters"), f"{where}, parameters"), layers)


def _source(given: Any, where: str) -> Source:
    if isinstance(given, Mapping):  # mergekit's long form
        return _long_source(given, where)
    return Source.read(given if isinstance(given, Source | Path) else _word(given, where), where)


def _long_source(given: Mapping[str, Any], where: str) -> Source:
    def path(one: Any) -> str:
        if isinstance(one, Mapping):
            _expect_keys(one, ("path",), where)
        return _word(one.get("path") if isinstance(one, Mapping) else one, where)

    _expect_keys(given, ("model", "lora"), where)
    if given.get("model") is None:
        raise MergeError(f"{where} names no model; write the path of one")
    return Source(path(given["model"]), () if given.get("lora") is None else (path(given["lora"]),))


def _parameters(given: Any, where: str) -> dict[str, Setting]:
    return {str(name): _setting(value, f"{where}.{name}") for name, value in _mapping(given or {}, where).items() if value is not None}


def _setting(given: Any, where: str) -> Setting:
    if isinstance(given, Mapping):
        given = [given]
    if isinstance(given, list | tuple) and any(isinstance(one, Mapping | Filtered) for one in given):
        return tuple(one if isinstance(one, Filtered) else _filtered(one, f"{where}[{at}]") for at, one in enumerate(given))
    return _value(given, where)


def _filtered(given: Any, where: str) -> Filtered:
    given = _mapping(given, where)
    _expect_keys(given, ("filter", "value"), where)
    if given.get("value") is None:
        raise MergeError(f"{where} has a filter and no value; add value: NUMBER")
    return Filtered(_value(given["value"], where), None if given.get("filter") is None else str(given["filter"]))


def _value(given: Any, where: str) -> Scalar | tuple[Scalar, ...]:
    if isinstance(given, list | tuple):
        if not given:
            raise MergeError(f"{where} is an empty list; give one value, or several as a gradient over the layers")
        return tuple(_scalar(one, where) for one in given)
    return _scalar(given, where)


def _scalar(given: Any, where: str) -> Scalar:
    if not isinstance(given, bool | int | float | str):
        raise MergeError(f"{where} is {one_line(repr(given), 60)}; expected a number, true, false, a word, or a list of them")
    if isinstance(given, str):  # YAML takes 1e-5 for a word
        try:
            return float(given) if isfinite(float(given)) else given
        except ValueError:
            return given
    return given


def _align(given: Any, where: str) -> Align | None:
    if given is None or given is False:
        return None
    if isinstance(given, str):
        given = {"method": given}
    given = _mapping({} if given is True else given, where)
    _expect_keys(given, [one.name for one in fields(Align)], where)
    return Align(
        _word(given.get("method", "weight"), f"{where}.method"),
        None if given.get("to") is None else _source(given["to"], f"{where}.to"),
        _optional_word(given.get("spec"), f"{where}.spec"),
        _optional_word(given.get("task"), f"{where}.task"),
        _choice(given.get("many", False), (True, False), f"{where}.many"),
        _mapping(given.get("options") or {}, f"{where}.options"),
    )


def _repair(given: Any, where: str) -> Repair | None:
    if given is None:
        return None
    given = _mapping({"task": given} if isinstance(given, str) else given, where)
    _expect_keys(given, ("task", "mode"), where)
    if "task" not in given:
        raise MergeError(f"{where} names no task; add task: MODULE:FUNCTION, which returns a Task")
    return Repair(_word(given["task"], f"{where}.task"), _choice(given.get("mode", "repair"), ("repair", "reset"), f"{where}.mode"))


def _select(given: Any, where: str) -> Select | None:
    if given is None:
        return None
    given = _mapping({"task": given} if isinstance(given, str) else given, where)
    _expect_keys(given, ("task", "metric", "maximize"), where)
    if "task" not in given:
        raise MergeError(f"{where} names no task; add task: MODULE:FUNCTION, which returns a Task")
    maximize = _choice(given.get("maximize", True), (True, False), f"{where}.maximize")
    return Select(_word(given["task"], f"{where}.task"), _word(given.get("metric", "accuracy"), f"{where}.metric"), maximize)


def _adapter(given: Any, where: str) -> Adapter | None:
    if given is None:
        return None
    given = _mapping({"rank": given} if isinstance(given, int) else given, where)
    _expect_keys(given, ("rank", "alpha", "targets"), where)
    rank = _whole(given.get("rank"), f"{where}.rank")
    if rank < 1:
        raise MergeError(f"{where}.rank is {rank}; expected at least 1")
    alpha = given.get("alpha")
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float)):
        raise MergeError(f"{where}.alpha is {alpha!r}; expected a number")
    return Adapter(rank, None if alpha is None else float(alpha), _optional_word(given.get("targets"), f"{where}.targets"))


_DTYPES = {"float16": "F16", "half": "F16", "bfloat16": "BF16", "float32": "F32", "float": "F32", "float64": "F64", "double": "F64"}


def _dtype(given: Any, where: str) -> str | None:
    """The catalog's name of a dtype that torch's name stands for."""
    if given is None:
        return None
    name = str(given).removeprefix("torch.")
    if name not in _DTYPES and name not in _DTYPES.values():
        raise MergeError(f"{where} is '{one_line(name, 40)}'; expected float16, bfloat16, float32 or float64")
    return _DTYPES.get(name, name)


def _expect_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise MergeError(f"{where} has the unknown key '{one_line(str(key), 60)}'{close_names(str(key), known)}")


def _mapping(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise MergeError(f"{where} is {one_line(repr(given), 60)}; expected a mapping of names to values")
    return dict(given)


def _list(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list | tuple):
        raise MergeError(f"{where} is {one_line(repr(given), 60)}; expected a list")
    return list(given)


def _word(given: Any, where: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise MergeError(f"{where} is {one_line(repr(given), 60)}; expected a word")
    return given.strip()


def _optional_word(given: Any, where: str) -> str | None:
    return None if given is None else _word(given, where)


def _whole(given: Any, where: str) -> int:
    if type(given) is not int:
        raise MergeError(f"{where} is {one_line(repr(given), 60)}; expected a whole number")
    return given


def _choice(given: Any, choices: tuple[Any, ...], where: str) -> Any:
    if given not in choices:
        raise MergeError(f"{where} is {one_line(repr(given), 60)}; expected one of {', '.join(str(one).lower() for one in choices)}")
    return given
