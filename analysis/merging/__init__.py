"""Merging: many models into one, tensor by tensor."""

import weightspace.analysis.merging.methods  # noqa: F401 - first: a package that is loaded later takes the name of the registry
from weightspace.analysis.merging.making import Prepared, Progress
from weightspace.analysis.merging.merge import merge, prepare
from weightspace.analysis.merging.method import MergeMethod, merge_method, methods
from weightspace.analysis.merging.plan import Plan, Step
from weightspace.analysis.merging.recipe import Adapter, Align, Filtered, Input, Module, Recipe, Repair, Select, Slice, Source

__all__ = [
    "Adapter",
    "Align",
    "Filtered",
    "Input",
    "MergeMethod",
    "Module",
    "Plan",
    "Prepared",
    "Progress",
    "Recipe",
    "Repair",
    "Select",
    "Slice",
    "Source",
    "Step",
    "merge",
    "merge_method",
    "methods",
    "prepare",
]
