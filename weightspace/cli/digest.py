"""What a user's function or task is made of, as a digest: results that hang on it are taken anew when it changes."""

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from blake3 import blake3

if TYPE_CHECKING:
    from torch import Tensor

    from weightspace.task import Task

_DIGITS = 32


def function_digest(reference: str) -> str:
    """Digest of the source behind `module:function`: the file of that module, and the one that the function stands in.

    What those import is not followed.

    Raises:
        TaskError: there is no such function.
    """
    from weightspace.modules import load_function

    function = load_function(reference)
    return _digest([_source(sys.modules[reference.partition(":")[0]]), _source(inspect.getmodule(function))])


def task_digest(task: "Task", reference: str | None = None) -> str:
    """Digest of what a task judges by: its module without the weights, its batches, the source of what it computes, and that of the function that made it.

    The batches are read once. Batches that come in another order, or otherwise cut, make another task.

    Args:
        task: whatever its tensors are on.
        reference: `module:function` that made it, where a user named one.
    """
    module = task.module
    kept = module.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in module.named_buffers() if name not in kept}  # those are no part of a checkpoint
    classes = dict.fromkeys(type(part) for part in module.modules() if not type(part).__module__.startswith("torch."))
    made_by = function_digest(reference) if reference else ""
    computed = [task.loss, task.forward, task.weight, task.metrics]
    return _digest(_content([made_by, repr(module), buffers, list(classes), computed, task.batches]))


def _content(value: Any) -> Iterator[str | bytes]:
    """What a value holds, tensors as type, shape and bytes; of an object of another kind, its type alone, since its text may be an address."""
    from torch import Tensor

    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}"
        yield _bytes(value)
    elif isinstance(value, str | bytes | int | float | bool | None):
        yield repr(value)
    elif isinstance(value, partial):
        yield from _content([value.func, value.args, value.keywords])
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield f"{key!r}:"
            yield from _content(one)
    elif callable(value):
        yield _source(value)
    elif isinstance(value, Iterable):
        yield "["
        for one in value:
            yield from _content(one)
        yield "]"
    else:
        yield type(value).__qualname__


def _bytes(tensor: "Tensor") -> bytes:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _source(thing: Any) -> str:
    """The text of a function, class or module; empty where there is none, as for what is built in."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _digest(parts: Iterable[str | bytes]) -> str:
    hasher = blake3(b"weightspace task 1\n")
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        hasher.update(len(raw).to_bytes(8, "little") + raw)
    return hasher.hexdigest()[:_DIGITS]
