"""Folders of checkpoints and their catalog; names are loaded when first used, since ingest workers need no database."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightspace.zoo.edges import Edge as Edge
    from weightspace.zoo.ingest import Progress as Progress
    from weightspace.zoo.ingest import Report as Report
    from weightspace.zoo.mapping import Measure as Measure
    from weightspace.zoo.query import ModelPage as ModelPage
    from weightspace.zoo.zoo import Added as Added
    from weightspace.zoo.zoo import Zoo as Zoo

_HOMES = {
    "Added": "zoo",
    "Edge": "edges",
    "Measure": "mapping",
    "ModelPage": "query",
    "Progress": "ingest",
    "Report": "ingest",
    "Zoo": "zoo",
}

__all__ = ["Added", "Edge", "Measure", "ModelPage", "Progress", "Report", "Zoo"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'weightspace.zoo' has no attribute '{name}'")
    return getattr(importlib.import_module(f"weightspace.zoo.{_HOMES[name]}"), name)
