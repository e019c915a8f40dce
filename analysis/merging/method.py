"""What a merge method is: a function of the values that one tensor has in several models, and what is known of it."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Annotated, Any, Literal, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

import torch
from torch import Tensor

from weightspace.analysis.merging.chance import Chance
from weightspace.errors import MergeError, UnknownNameError
from weightspace.registry import Registry


@dataclass(frozen=True)
class Between:
    """The values that a parameter may have, both ends included unless `open`: said in its annotation.

    Attributes:
        low: smallest.
        high: largest.
        open: whether the ends themselves are left out.
    """

    low: float | int = float("-inf")
    high: float | int = float("inf")
    open: bool = False

    def holds(self, value: float | int) -> bool:
        """Whether a value may be had."""
        return self.low < value < self.high if self.open else self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{'above' if self.open else 'from'} {self.low:g} {'and below' if self.open else 'to'} {self.high:g}"


Each = tuple[float, ...]
"""The annotation of a parameter that has one value for each input; a default of one value holds for all of them."""

Share = Annotated[Each, Between(0, 1)]
"""One share, from 0 to 1, for each input."""

Promise = Literal["identity", "order", "absence", "permutation"]
"""A law that a method keeps at any parameters, up to rounding; one that it does not promise, it breaks for some.

`identity`: inputs (and base) that are all equal come back. `order`: the order of the inputs, each with its own parameters, makes no difference.
`absence`: an input of weight 0 might as well not be there. `permutation`: reordering the rows and the columns of all inputs reorders the result.
Order says nothing of methods with one input, absence nothing of those without weights or with a fixed number of inputs: these do not promise it.
"""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, as its signature declares it.

    Attributes:
        name: as recipes write it.
        kind: float, int, bool or str.
        is_each: whether every input has its own.
        default: what holds where a recipe says nothing; `REQUIRED` where it must.
        bounds: the values it may have.
    """

    name: str
    kind: type
    is_each: bool
    default: Any
    bounds: Between = Between()

    @property
    def is_required(self) -> bool:
        """Whether a recipe must give it."""
        return self.default is REQUIRED

    def read(self, value: Any, where: str) -> Any:
        """Bring one value into the parameter's type.

        Raises:
            MergeError: another type, or out of bounds.
        """
        if value is None and self.default is None:
            return None
        if self.kind is bool and isinstance(value, str | int | float):
            value = _TRUTH.get(value, value)
        number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        fits = {float: number, int: number and value == int(value), bool: isinstance(value, bool), str: isinstance(value, str)}[self.kind]
        if not fits:
            raise MergeError(f"{where}: parameter '{self.name}' is {value!r}; expected {_SAID[self.kind]}")
        if self.kind in (int, float) and not self.bounds.holds(value):
            raise MergeError(f"{where}: parameter '{self.name}' is {value!r}; expected a number {self.bounds}")
        return self.kind(value)


REQUIRED = inspect.Parameter.empty
_TRUTH: dict[Any, bool] = {"true": True, "True": True, "false": False, "False": False, 1.0: True, 0.0: False}
_SAID = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}


@dataclass(frozen=True)
class Slab:
    """A run of rows of one tensor in every model: what methods are applied to, in the dtype that is computed in.

    Tensors with one axis or none are never cut, and none is for a method that needs the `whole`.

    Attributes:
        tensors: the inputs in their order, the base not among them; methods must not write to them.
        base: of the same shape, where the recipe has one.
        chance: draws for this run of rows of this tensor.
        evidence: what data say of each input (a Fisher, a Gram matrix), by name; None where there is nothing for this tensor.
        name: of the tensor.
    """

    tensors: tuple[Tensor, ...]
    base: Tensor | None = None
    chance: Chance = field(default_factory=Chance)
    evidence: Mapping[str, tuple[Tensor | None, ...]] = field(default_factory=dict)
    name: str = ""


@runtime_checkable
class Slabs(Protocol):
    """All slabs of one tensor in order; they can be iterated over again, and are read anew each time."""

    def __iter__(self) -> Iterator[Slab]:
        """Read them one after another."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""


@dataclass(frozen=True)
class Whole:
    """One slab that is the whole tensor."""

    slab: Slab

    def __iter__(self) -> Iterator[Slab]:
        yield self.slab

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(self.slab.tensors[0].shape)


@dataclass(frozen=True)
class MergeMethod:
    """A way to merge.

    Attributes:
        name: as recipes write it.
        combine: gives the merged values of a slab: `combine(slab, **parameters)`, with `summary=` where there is one.
        paper: where it comes from.
        parameters: by the name that recipes use, from the signature of `combine`.
        promises: the laws it keeps.
        base: whether a recipe must, may or cannot name a base.
        inputs: the fewest and the most inputs besides the base; None for any number.
        summary: what must be known of the whole tensor first: `summary(slabs, **parameters)`.
        whole: whether it needs the whole tensor at once: matrices are decomposed, not cut.
        evidence: names of what it wants to know of the data.
        chance: whether it draws.
    """

    name: str
    combine: Callable[..., Tensor]
    paper: str
    parameters: Mapping[str, Parameter]
    promises: frozenset[Promise]
    base: Literal["required", "optional", "none"]
    inputs: tuple[int, int | None]
    summary: Callable[..., Any] | None = None
    whole: bool = False
    evidence: tuple[str, ...] = ()
    chance: bool = False

    def __call__(
        self,
        tensors: Sequence[Tensor],
        base: Tensor | None = None,
        *,
        seed: int = 0,
        evidence: Mapping[str, Sequence[Tensor | None]] | None = None,
        **parameters: Any,
    ) -> Tensor:
        """Merge the values of one tensor, all of one shape and dtype.

        Args:
            tensors: the inputs.
            base: what they come from.
            seed: of methods that leave something to chance.
            evidence: what data say of each input, by name.
            parameters: as in a recipe; those of which each input has one may be one number for all.

        Raises:
            MergeError: inputs or parameters that the method does not take.
        """
        self.expect(len(tensors), base is not None)
        kinds = {(tuple(one.shape), one.dtype) for one in (*tensors, *([] if base is None else [base]))}
        if len(kinds) > 1 or any(dtype not in (torch.float32, torch.float64) for _, dtype in kinds):
            found = ", ".join(sorted(f"{shape} {str(dtype).removeprefix('torch.')}" for shape, dtype in kinds))
            raise MergeError(
                f"merge method '{self.name}' takes tensors of one shape, all float32 or all float64, found {found}; convert them"
            )
        named = {name: tuple(values) for name, values in (evidence or {}).items()}
        slab = Slab(tuple(tensors), base, Chance(seed, keys=tuple(map(str, range(len(tensors))))), named)
        return self.apply(Whole(slab), self.read(parameters, len(tensors)))(slab)

    def apply(self, slabs: Slabs, parameters: Mapping[str, Any]) -> Callable[[Slab], Tensor]:
        """Look at all slabs if need be; returns what merges each of them.

        Args:
            slabs: of one tensor.
            parameters: what `read` returned.
        """
        if self.summary is None:
            return lambda slab: self.combine(slab, **parameters)
        found = self.summary(slabs, **parameters)
        return lambda slab: self.combine(slab, summary=found, **parameters)

    def expect(self, inputs: int, has_base: bool) -> None:
        """See that a recipe has as many inputs as the method takes.

        Raises:
            MergeError: too few, too many, a base missing or one too many.
        """
        low, high = self.inputs
        if inputs < low or (high is not None and inputs > high):
            wanted = f"exactly {low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
            beside = "" if self.base == "none" else " besides the base"
            raise MergeError(
                f"merge method '{self.name}' takes {wanted} model{'s' * ((high or low) != 1)}{beside}, found {inputs}; name as many"
            )
        if self.base == "required" and not has_base:
            raise MergeError(f"merge method '{self.name}' needs a base model, found none; name it as base_model")
        if self.base == "none" and has_base:
            raise MergeError(f"merge method '{self.name}' has no use for a base model; list it among the models, or leave it out")

    def read(self, given: Mapping[str, Any], inputs: int, where: str = "the recipe") -> dict[str, Any]:
        """Bring parameters into the form that `combine` takes: checked, defaults filled in, one value for each input.

        Raises:
            UnknownNameError: no such parameter.
            MergeError: a value is missing, of another type, or out of bounds.
        """
        for name in given:
            if name not in self.parameters:
                raise UnknownNameError.of(f"parameter of merge method '{self.name}'", name, self.parameters)
        made: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            value = given.get(name, parameter.default)
            if value is REQUIRED:
                raise MergeError(f"{where}: merge method '{self.name}' needs the parameter '{name}'; give it a value")
            if parameter.is_each:
                values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
                values = values * inputs if len(values) == 1 else values
                if len(values) != inputs:
                    raise MergeError(f"{where}: parameter '{name}' has {len(values)} values for {inputs} models; give one for each")
                made[_argument(name)] = tuple(parameter.read(one, where) for one in values)
            else:
                made[_argument(name)] = parameter.read(value, where)
        return made


methods: Registry[MergeMethod] = Registry("merge method", package="weightspace.analysis.merging.methods")


def merge_method(
    name: str,
    *,
    paper: str,
    promises: Sequence[Promise],
    base: Literal["required", "optional", "none"] = "required",
    inputs: tuple[int, int | None] = (1, None),
    summary: Callable[..., Any] | None = None,
    whole: bool = False,
    evidence: Sequence[str] = (),
    chance: bool = False,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function of a slab as a merge method; its keyword arguments are its parameters.

    An argument annotated `Each` has one value for each input, another one is of the whole recipe; `Annotated[..., Between(a, b)]`
    states what values it may have. A name that Python keeps for itself ends in `_`, which recipes leave out. Fields as in `MergeMethod`.
    """

    def register(combine: Callable[..., Tensor]) -> Callable[..., Tensor]:
        parameters = {one.name: one for one in _declared(combine)}
        kept = frozenset(promises)
        methods.add(name, MergeMethod(name, combine, paper, parameters, kept, base, inputs, summary, whole, tuple(evidence), chance))
        return combine

    return register


def _declared(combine: Callable[..., Tensor]) -> Iterator[Parameter]:
    hints = get_type_hints(combine, include_extras=True)
    for argument in inspect.signature(combine).parameters.values():
        if argument.kind is not argument.KEYWORD_ONLY or argument.name == "summary":
            continue
        hint, bounds = hints[argument.name], Between()
        if get_origin(hint) is Annotated:
            hint, bounds = get_args(hint)[:2]
        is_each = get_origin(hint) is tuple
        kind = next(one for one in (get_args(hint) if get_args(hint) else (hint,)) if one is not type(None))
        default = argument.default
        if is_each and default is not REQUIRED:
            (default,) = default
        yield Parameter(argument.name.rstrip("_"), kind, is_each, default, bounds)


def _argument(name: str) -> str:
    """The argument that a recipe's name stands for."""
    return f"{name}_" if name in ("lambda",) else name


__all__ = [
    "REQUIRED",
    "Between",
    "Each",
    "MergeMethod",
    "Parameter",
    "Promise",
    "Share",
    "Slab",
    "Slabs",
    "Whole",
    "merge_method",
    "methods",
]
