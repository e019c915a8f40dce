"""Neural-network checkpoints as data: catalog, query, compare, align, merge, generate and stitch weights.

The names below are loaded when first used, so that `import weightspace` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightspace.architectures import spec_for as spec_for
    from weightspace.checkpoint import Checkpoint as Checkpoint
    from weightspace.checkpoint import TensorInfo as TensorInfo
    from weightspace.errors import WeightSpaceError as WeightSpaceError
    from weightspace.folding import fold as fold
    from weightspace.formats.safetensors import save as save
    from weightspace.inference import infer_spec as infer_spec
    from weightspace.modules import module_for as module_for
    from weightspace.opening import open as open
    from weightspace.spec import NeuronGroup as NeuronGroup
    from weightspace.spec import SymmetrySpec as SymmetrySpec
    from weightspace.symmetry import Symmetry as Symmetry
    from weightspace.symmetry import act as act
    from weightspace.task import Task as Task
    from weightspace.task import task_for as task_for
    from weightspace.tracing import trace as trace
    from weightspace.zoo import Zoo as Zoo

_HOMES = {
    "Checkpoint": "weightspace.checkpoint",
    "NeuronGroup": "weightspace.spec",
    "Symmetry": "weightspace.symmetry",
    "SymmetrySpec": "weightspace.spec",
    "Task": "weightspace.task",
    "TensorInfo": "weightspace.checkpoint",
    "WeightSpaceError": "weightspace.errors",
    "Zoo": "weightspace.zoo",
    "act": "weightspace.symmetry",
    "fold": "weightspace.folding",
    "infer_spec": "weightspace.inference",
    "module_for": "weightspace.modules",
    "open": "weightspace.opening",
    "save": "weightspace.formats.safetensors",
    "spec_for": "weightspace.architectures",
    "task_for": "weightspace.task",
    "trace": "weightspace.tracing",
}

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "NeuronGroup",
    "Symmetry",
    "SymmetrySpec",
    "Task",
    "TensorInfo",
    "WeightSpaceError",
    "Zoo",
    "__version__",
    "act",
    "fold",
    "infer_spec",
    "module_for",
    "open",
    "save",
    "spec_for",
    "task_for",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'weightspace' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
