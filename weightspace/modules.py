"""How a checkpoint becomes an `nn.Module` again, and which of the module's tensors each of its own is."""

import copy
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weightspace.checkpoint import Checkpoint
from weightspace.errors import MissingDependencyError, ShapeMismatchError, TaskError, UnknownNameError, WeightSpaceError, one_line
from weightspace.naming import wrapper_prefix
from weightspace.registry import Registry

if TYPE_CHECKING:
    import torch

    from weightspace.task import Task

    _Tensors = Mapping[str, "torch.Tensor"]
else:
    _Tensors = Mapping  # run-time type checkers would read a tensor of a lazy checkpoint at every call they check

MADE_BY = ("weightspace.zoo.populations", "weightspace.analysis.stitching.saving")
"""Where recipes are made that name a module or a task, and what builds these is registered."""

module_builders: Registry[Callable[[Mapping[str, Any]], "torch.nn.Module"]] = Registry("module builder", *MADE_BY)
"""What builds the module of a recipe, by the recipe's `name`; a population registers its own beside its training."""

HELD = "held"
"""The key under which a builder finds how many values the file holds that a recipe is of, where it is of one."""

Part = Literal["train", "test"]
"""Of the examples of a population's data: those that training saw, or those that it did not see."""

task_builders: Registry[Callable[["torch.nn.Module", Mapping[str, Any], Part], "Task"]] = Registry("task builder", *MADE_BY)
"""What builds the task that a module is judged by, from the module, its recipe and the part of the data; likewise."""

_FETCHING = (
    "_attn_implementation_internal",
    "_experts_implementation_internal",
    "auto_map",
    "quantization_config",
    "use_pretrained_backbone",
)


def module_for(
    checkpoint: Checkpoint, build: "str | Callable[..., torch.nn.Module] | None" = None, *, load: bool = True
) -> "torch.nn.Module":
    """Build the module that a checkpoint holds the weights of, in eval mode.

    It is found, in this order: by `build`; by the recipe of a population; by a `config.json` beside the weights, with the class
    of transformers that it names. Nothing is downloaded, and no code that came with the weights is run.

    Args:
        checkpoint: what `ws.open` returned.
        build: a function or `"module:function"`, called with nothing, or with a configuration where it has a parameter
            without a default: the `config.json` beside the weights, else the recipe, else the metadata. The current folder is importable.
        load: whether the weights are loaded; otherwise they are what building gave, the same every time.

    Raises:
        TaskError: no way to build it is known, or what was built does not fit.
        MissingDependencyError: a `config.json` of transformers, which is not installed.
        UnknownNameError: `build` names a function that its module does not have.
        ShapeMismatchError: a tensor has another shape in the module.
    """
    import torch

    with torch.random.fork_rng(devices=[]):  # building draws initial weights: no matter of the caller's randomness
        torch.default_generator.manual_seed(0)
        module = _built(checkpoint, build)
    if load:
        tensors = checkpoint.state_dict()
        module.load_state_dict({name: tensors[own] for name, own in tensors_of(module, tensors).items()}, strict=False)
    return module.eval()


def tensors_of(module: "torch.nn.Module", state_dict: _Tensors) -> dict[str, str]:
    """For each tensor of a module's state, the name that a state dict has for it; tied ones once, by the module's first name.

    Wrapper prefixes (`module.` and the like) on either side make no difference, nor does the prefix under which a transformers
    model keeps its base model.

    Raises:
        TaskError: names are missing or unexpected, or tied tensors differ.
        ShapeMismatchError: a tensor has another shape in the module.
    """
    import torch

    state = module.state_dict(keep_vars=True)
    state = {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}  # not the extra state of quantizers
    named = _as_named_in(module, list(state), list(state_dict))
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, tensor in state.items():
        owner = first.setdefault(id(tensor), name)
        if name in named and owner in found:
            _expect_equal(state_dict, found[owner], named[name])
        elif name in named:
            found[owner] = named[name]
    absent = [name for name in first.values() if name not in found]
    ignored = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    extra = [own for name, own in named.items() if name not in state and not _is_ignored(name, ignored)]
    # Integers are no weights: older versions of a module have saved position indices that newer ones make themselves.
    unexpected = [own for own in extra if state_dict[own].is_floating_point()]
    if absent or unexpected:
        raise TaskError(
            f"the state dict does not fit module {type(module).__name__}: {_some(absent)} missing, {_some(unexpected)} unexpected; "
            "give a module of the same architecture, or a state dict with its names"
        )
    for name, own in found.items():
        if state[name].shape != state_dict[own].shape:
            raise ShapeMismatchError(
                f"tensor '{own}' has shape {tuple(state_dict[own].shape)} in the state dict but {tuple(state[name].shape)} in module "
                f"{type(module).__name__}; give a module of the same architecture"
            )
    return found


def population_recipe(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The recipe that says whose module a checkpoint's weights are of: its own, or that of the networks that it was generated like."""
    recipe = checkpoint.recipe or {}
    like = recipe.get("like")
    return like if isinstance(like, Mapping) else recipe


def module_of(recipe: Mapping[str, Any]) -> "torch.nn.Module":
    """Build the module of a population's recipe, in eval mode, its weights as building draws them: the same every time.

    Raises:
        UnknownNameError: no population has that name.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return module_builders[str(recipe.get("name"))](recipe).eval()


def load_function(reference: str) -> Callable[..., Any]:
    """Import what `"module:function"` names; the current folder is importable from then on, as with `python -m`.

    Raises:
        TaskError: it is not of that form, there is no such module, importing it failed, or the name is no function.
        UnknownNameError: the module has no such name.
    """
    path, colon, name = reference.partition(":")
    if not (path and colon and name):
        raise TaskError(f"expected 'module:function', found '{reference}'; name a module that can be imported and a function in it")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = importlib.import_module(path)
    except (Exception, SystemExit) as error:  # a script without a guard ends itself
        if isinstance(error, ModuleNotFoundError) and error.name and f"{path}.".startswith(f"{error.name}."):
            raise TaskError(f"no module '{path}' in {folder} or among what is installed; run from the folder it is in") from None
        raise TaskError(f"importing '{path}' failed ({type(error).__name__}: {error}); mend it, or name another module") from error
    if not hasattr(found, name):
        raise UnknownNameError.of(f"function in module '{path}'", name, [one for one in vars(found) if not one.startswith("_")])
    function = getattr(found, name)
    if not callable(function):
        raise TaskError(f"'{reference}' is of type {type(function).__name__}, expected a function; name one")
    return function  # type: ignore[no-any-return]


def shared_copy(module: "torch.nn.Module") -> "torch.nn.Module":
    """Copy a module but not its tensors: flags and hooks of the copy are its own, parameters and buffers are the original's.

    Raises:
        TaskError: something in the module cannot be copied.
    """
    import torch

    tensors = [*module.parameters(), *module.buffers()]
    # What hooks compute before each call (as the older weight norm does) lies among the plain attributes, and refuses to be copied.
    tensors += [value for part in module.modules() for value in vars(part).values() if isinstance(value, torch.Tensor)]
    try:
        return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    except Exception as error:
        raise TaskError(
            f"module {type(module).__name__} cannot be copied ({type(error).__name__}: {error}); "
            "expected one that copy.deepcopy takes; keep locks and open files out of its attributes"
        ) from error


def _built(checkpoint: Checkpoint, build: "str | Callable[..., torch.nn.Module] | None") -> "torch.nn.Module":
    if build is not None:
        return _built_by_user(checkpoint, build)
    recipe = population_recipe(checkpoint)
    name = recipe.get("name")
    if isinstance(name, str) and name in module_builders:
        return module_builders[name]({**recipe, HELD: checkpoint.num_params})
    config = _config_file(checkpoint)
    if config is not None:
        return module_of_config(_json(config), str(config))
    raise TaskError(
        f"no way is known to build a module for {checkpoint.path or 'this checkpoint'}: expected the recipe of a population or a config.json "
        "beside it, found neither; name a function that builds it, as 'module:function'"
    )


def _built_by_user(checkpoint: Checkpoint, build: "str | Callable[..., torch.nn.Module]") -> "torch.nn.Module":
    import torch

    function = load_function(build) if isinstance(build, str) else build
    parameters = inspect.signature(function).parameters.values()
    needed = [one for one in parameters if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    name = build if isinstance(build, str) else getattr(build, "__name__", "the function")
    try:
        made = function(_config(checkpoint)) if needed else function()
    except WeightSpaceError:
        raise
    except (Exception, SystemExit) as error:  # what a user wrote
        said = one_line(f"{type(error).__name__}: {error}", 200)
        raise TaskError(f"'{name}' raised {said}; mend it, or name another function that builds the module") from error
    if not isinstance(made, torch.nn.Module):
        raise TaskError(f"'{name}' returned a {type(made).__name__}, expected a torch.nn.Module; return the module itself")
    return made


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    found = config_of(checkpoint)
    return found if found is not None else dict(checkpoint.recipe or checkpoint.metadata)


def config_of(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What the `config.json` beside a checkpoint holds, where there is one.

    Raises:
        TaskError: it cannot be read.
    """
    file = _config_file(checkpoint)
    return None if file is None else dict(_json(file))


def _config_file(checkpoint: Checkpoint) -> Path | None:
    """The `config.json` in a checkpoint's folder, or in the folder of its file."""
    if checkpoint.path is None:
        return None
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    return folder / "config.json" if (folder / "config.json").is_file() else None


def _json(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"{file} cannot be read as JSON ({error}); mend it, or name a function that builds the module") from None
    if not isinstance(content, dict):
        raise TaskError(f"{file} holds a {type(content).__name__}, expected an object; mend it, or name a function that builds the module")
    return content


def module_of_config(config: Mapping[str, Any], where: str) -> "torch.nn.Module":
    """Build the module that a configuration of transformers describes; nothing is downloaded, and no code that came with it is run.

    Args:
        config: what a `config.json` holds.
        where: it was found, for messages.

    Raises:
        TaskError: transformers has no such class, or cannot build it.
        MissingDependencyError: transformers is not installed.
    """
    kind, names = config.get("model_type"), config.get("architectures") or ["AutoModel"]
    if not isinstance(kind, str) or not isinstance(names, list) or not isinstance(names[0], str):
        raise TaskError(
            f"{where} is no configuration of transformers: expected 'model_type' and 'architectures'; name a function that builds the module"
        )
    try:
        import transformers
    except ImportError:
        raise MissingDependencyError.of("transformers", f"building the module that {where} describes", "transformers") from None
    model_class: Any = getattr(transformers, names[0], None)
    is_auto = names[0].startswith("AutoModel")
    is_model = isinstance(model_class, type) and (is_auto or issubclass(model_class, transformers.PreTrainedModel))
    if not is_model or kind not in transformers.CONFIG_MAPPING:
        raise TaskError(
            f"{where} wants {names[0]} of type '{one_line(kind, 80)}', which transformers {transformers.__version__} does not have; "
            "code that comes with weights is never run: name a function that builds the module"
        )
    try:
        settings = transformers.CONFIG_MAPPING[kind].from_dict(_harmless(config))
        module: torch.nn.Module = model_class.from_config(settings, trust_remote_code=False) if is_auto else model_class(settings)
    except Exception as error:
        raise TaskError(
            f"{names[0]} cannot be built from {where} ({type(error).__name__}: {error}); mend it, or name a function that builds it"
        ) from error
    return module.float()


def _harmless(config: Any) -> Any:
    """A configuration without what makes transformers fetch something: kernels by the name of a repository, weights of a backbone."""
    if isinstance(config, list):
        return [_harmless(part) for part in config]
    if not isinstance(config, dict):
        return config
    kept = {key: _harmless(part) for key, part in config.items() if not (key.endswith("_implementation") or key in _FETCHING)}
    return kept | ({"use_pretrained_backbone": False} if "use_pretrained_backbone" in config else {})


def _as_named_in(module: "torch.nn.Module", wanted: list[str], given: list[str]) -> dict[str, str]:
    """Given names by the name that the module would have for each."""
    ours, theirs = wrapper_prefix(wanted), wrapper_prefix(given)
    known, base = set(wanted), getattr(module, "base_model_prefix", "")
    named = {ours + own[len(theirs) :]: own for own in given}
    if not base or all(name in known for name in named):
        return named
    return {(name if name in known else _moved(name, ours, base, known)): own for name, own in named.items()}


def _moved(name: str, wrapper: str, base: str, known: set[str]) -> str:
    """A name with the base model's prefix added or taken away, if the module has that one."""
    bare = name.removeprefix(wrapper)
    candidates: Iterator[str] = (wrapper + one for one in (f"{base}.{bare}", bare.removeprefix(f"{base}.")))
    return next((one for one in candidates if one in known), name)


def _expect_equal(state_dict: _Tensors, first: str, second: str) -> None:
    import torch

    one, two = state_dict[first], state_dict[second]
    if one is not two and not (one.shape == two.shape and torch.equal(one, two)):
        raise TaskError(
            f"tensors '{first}' and '{second}' are one in the module but differ in the state dict; give both the same values, or untie the module"
        )


def _is_ignored(name: str, patterns: Any) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return f"{shown or 'none'}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
