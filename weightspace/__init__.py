"""Neural-network checkpoints as data: catalog, query, compare, align, merge, generate and stitch weights.

The names below are loaded when first used, so that `import weightspace` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightspace.checkpoint import Checkpoint as Checkpoint
    from weightspace.checkpoint import TensorInfo as TensorInfo
    from weightspace.errors import WeightSpaceError as WeightSpaceError
    from weightspace.formats.safetensors import save as save
    from weightspace.opening import open as open
    from weightspace.zoo import Zoo as Zoo

_HOMES = {
    "Checkpoint": "weightspace.checkpoint",
    "TensorInfo": "weightspace.checkpoint",
    "WeightSpaceError": "weightspace.errors",
    "Zoo": "weightspace.zoo",
    "open": "weightspace.opening",
    "save": "weightspace.formats.safetensors",
}

__version__ = "0.1.0"
__all__ = ["Checkpoint", "TensorInfo", "WeightSpaceError", "Zoo", "__version__", "open", "save"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'weightspace' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
