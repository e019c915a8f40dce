"""Merging: every method equals its reference, however a tensor is cut; keeps the laws it promises, and only these; and leaves its inputs alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.analysis.merging import reference_averages, reference_matrices, reference_task_vectors
from weightspace.analysis.merging.chance import Chance
from weightspace.analysis.merging.method import MergeMethod, Parameter, Promise, Slab, Slabs, Whole, methods
from weightspace.errors import MergeError

REFERENCES: dict[str, Callable[..., Any]] = {
    **reference_averages.REFERENCES,
    **reference_task_vectors.REFERENCES,
    **reference_matrices.REFERENCES,
}
NAMES = list(methods)
SHAPES = [(), (1,), (6,), (1, 7), (7, 1), (1, 1), (5, 6), (9, 4), (4, 3, 2, 2)]
LAWS: tuple[Promise, ...] = get_args(Promise)

# Where a parameter is drawn from; one that stands in neither table keeps its default.
RANGES = {
    "weight": (0.2, 1.5),
    "density": (0.3, 0.75),
    "epsilon": (0.05, 0.2),
    "gamma": (0.0, 0.2),
    "lambda": (0.3, 1.7),
    "t": (0.0, 1.0),
    "scale": (-1.0, 2.0),
    "score": (-1.0, 1.0),
    "temperature": (0.3, 3.0),
    "r": (0.0, 0.5),
    "alpha": (0.0, 1.0),
    "ratio": (0.0, 1.0),
    "ridge": (1e-3, 1.0),
    "select_topk": (0.2, 1.0),
    "common_space_fraction": (0.0, 1.0),
    "max_iter": (1, 20),
}
WORDS = {"rescale_by": ("norm", "density"), "merge": ("ties", "linear")}


@dataclass(frozen=True)
class Case:
    """A method with all that it is called with."""

    method: MergeMethod
    slab: Slab
    parameters: dict[str, Any]

    def merged(self, rows: int | None = None) -> Tensor:
        """The result, of the whole tensor or of runs of so many rows."""
        slabs: Slabs = Whole(self.slab) if rows is None or not self.slab.tensors[0].ndim > 1 else Rows(self.slab, rows)
        combine = self.method.apply(slabs, self.method.read(self.parameters, len(self.slab.tensors)))
        return (
            torch.cat([combine(slab).reshape(slab.tensors[0].shape) for slab in slabs]) if isinstance(slabs, Rows) else combine(self.slab)
        )

    def referred(self) -> Tensor:
        """The result by the reference."""

        def plain(tensor: Tensor | None) -> Any:
            return None if tensor is None else tensor.double().numpy().copy()

        told = {name: tuple(map(plain, found)) for name, found in self.slab.evidence.items()}
        extra = {"evidence": told} if told else {}
        made = REFERENCES[self.method.name](
            [plain(one) for one in self.slab.tensors], plain(self.slab.base), self.slab.chance, **self.parameters, **extra
        )
        return torch.from_numpy(np.asarray(made, dtype=np.float64))

    def of_inputs(self, places: Sequence[int]) -> "Case":
        """The same with some of the inputs, in another order."""
        slab = self.slab
        chosen = replace(
            slab,
            tensors=tuple(slab.tensors[place] for place in places),
            chance=replace(slab.chance, keys=tuple(slab.chance.keys[place] for place in places)),
            evidence={name: tuple(found[place] for place in places) for name, found in slab.evidence.items()},
        )
        return Case(self.method, chosen, {name: self._some(value, places) for name, value in self.parameters.items()})

    def _some(self, value: Any, places: Sequence[int]) -> Any:
        return [value[place] for place in places] if isinstance(value, list) else value


@dataclass(frozen=True)
class Rows:
    """A tensor cut into runs of rows."""

    slab: Slab
    rows: int

    def __iter__(self) -> Iterator[Slab]:
        for start in range(0, self.shape[0], self.rows):
            run = slice(start, start + self.rows)
            evidence = {
                name: tuple(one[run] if one is not None and one.shape == self.shape else one for one in found)
                for name, found in self.slab.evidence.items()
            }
            base = None if self.slab.base is None else self.slab.base[run]
            yield Slab(tuple(one[run] for one in self.slab.tensors), base, self.slab.chance.at(start), evidence, self.slab.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.slab.tensors[0].shape)


def draw(name: str, seed: int, shape: tuple[int, ...] = (5, 6), dtype: torch.dtype = torch.float64, inputs: int | None = None) -> Case:
    """A case at random: models around a base or far from it, with it or without, each parameter drawn or left to its default."""
    method, chance = methods[name], np.random.default_rng(seed)
    low, high = method.inputs
    count = inputs or int(chance.integers(low, min(high or low + 3, 4) + 1))
    spread = chance.choice([0.2, 1.0])

    def values(*size: int) -> Tensor:
        return torch.from_numpy(np.asarray(chance.normal(size=size))).to(dtype)

    base = values(*shape)
    has_base = method.base == "required" or (method.base == "optional" and bool(chance.integers(2)))
    tensors = tuple((base + spread * values(*shape)).to(dtype) for _ in range(count))
    evidence: dict[str, tuple[Tensor | None, ...]] = {}
    if "fisher" in method.evidence:
        evidence["fisher"] = tuple(values(*shape).square() for _ in range(count))
    if "gram" in method.evidence and len(shape) > 1:
        width = int(np.prod(shape[1:]))
        data = [values(2 * width, width) for _ in range(count)]
        evidence["gram"] = tuple(one.T @ one for one in data)
    parameters = {}
    for parameter in method.parameters.values():
        if parameter.is_required or chance.integers(3) or name.startswith("della"):  # its density goes with its epsilon
            value = sample(parameter, chance, count)
            if value is not None:
                parameters[parameter.name] = value
    keys = tuple(f"model {index}" for index in range(count))
    return Case(
        method, Slab(tensors, base if has_base else None, Chance(seed, "layer.weight", keys=keys), evidence, "layer.weight"), parameters
    )


def sample(parameter: Parameter, chance: np.random.Generator, inputs: int) -> Any:
    if parameter.name in WORDS:
        return str(chance.choice(WORDS[parameter.name]))
    if parameter.kind is bool:
        return bool(chance.integers(2))
    if parameter.name not in RANGES:
        assert not parameter.is_required, f"say in RANGES where '{parameter.name}' is to be drawn from"
        return None
    drawn = chance.uniform(*RANGES[parameter.name], size=inputs)
    return [float(one) for one in drawn] if parameter.is_each else parameter.kind(drawn[0])


def difference(one: Tensor, other: Tensor, case: Case) -> float:
    """The largest, relative to the largest value that occurs."""
    assert one.shape == other.shape
    if not one.numel():
        return 0.0
    scale = max(float(tensor.abs().max()) for tensor in (one, other, *case.slab.tensors))
    return float((one.double() - other.double()).abs().max()) / scale


def test_every_method_has_a_reference() -> None:
    assert set(REFERENCES) == set(methods)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    rows=st.integers(1, 4),
)
def test_a_method_equals_its_reference_whole_and_cut(name: str, seed: int, shape: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    case = draw(name, seed, shape, dtype)
    whole = case.merged()
    close = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
    assert whole.dtype == dtype
    assert difference(whole, case.referred(), case) <= close
    if not case.method.whole:
        assert difference(case.merged(rows), whole, case) <= close


def breach(law: Promise, case: Case) -> float:
    """How far a method is from a law, relative to the largest value."""
    slab, count = case.slab, len(case.slab.tensors)
    if law == "identity":
        value = slab.tensors[0]
        equal = replace(slab, tensors=(value,) * count, base=None if slab.base is None else value)
        return difference(replace(case, slab=equal).merged(), value, case)
    if law == "order":
        return difference(case.of_inputs(range(count)[::-1]).merged(), case.merged(), case)
    if law == "absence":
        absent = {**case.parameters, "weight": [*case.parameters["weight"][:-1], 0.0]}
        return difference(replace(case, parameters=absent).merged(), case.of_inputs(range(count - 1)).merged(), case)
    rows, columns = (torch.from_numpy(np.random.default_rng(0).permutation(size)) for size in slab.tensors[0].shape)

    def moved(tensor: Tensor) -> Tensor:
        return tensor[rows][:, columns]

    def witnessed(one: Tensor | None) -> Tensor | None:  # a Gram matrix of the inputs has columns on both axes
        return None if one is None else moved(one) if one.shape == slab.tensors[0].shape else one[columns][:, columns]

    evidence = {name: tuple(map(witnessed, found)) for name, found in slab.evidence.items()}
    base = None if slab.base is None else moved(slab.base)
    turned = replace(slab, tensors=tuple(map(moved, slab.tensors)), base=base, evidence=evidence)
    return difference(replace(case, slab=turned).merged(), moved(case.merged()), case)


def speaks_of(law: Promise, name: str) -> bool:
    """Whether a law says anything of a method: order and absence want a choice of inputs, absence weights besides."""
    low, high = methods[name].inputs
    return {"order": high != 1, "absence": "weight" in methods[name].parameters and high != low}.get(law, True)


def drawn_for(law: Promise, name: str, seed: int) -> Case:
    case = draw(name, seed, inputs=max(methods[name].inputs[0], 3) if law == "absence" else None)
    if law == "absence" and "weight" not in case.parameters:
        return replace(case, parameters={**case.parameters, "weight": [1.0] * len(case.slab.tensors)})
    return case


@pytest.mark.parametrize(("name", "law"), [(name, law) for name in NAMES for law in LAWS if law in methods[name].promises])
def test_a_promise_is_kept(name: str, law: Promise) -> None:
    assert speaks_of(law, name), f"'{law}' says nothing of a method like '{name}'"
    for seed in range(10):
        assert breach(law, drawn_for(law, name, seed)) < 1e-9, seed


@pytest.mark.parametrize(
    ("name", "law"), [(name, law) for name in NAMES for law in LAWS if law not in methods[name].promises and speaks_of(law, name)]
)
def test_a_law_that_is_not_promised_is_broken(name: str, law: Promise) -> None:
    assert any(breach(law, drawn_for(law, name, seed)) > 1e-3 for seed in range(25)), "it holds: promise it"


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_as_they_are(name: str) -> None:
    for seed in range(8):
        case = draw(name, seed)
        given = [one for found in case.slab.evidence.values() for one in found if one is not None]
        given += [*case.slab.tensors, *([] if case.slab.base is None else [case.slab.base])]
        before = [one.clone() for one in given]
        case.merged()
        assert all(map(torch.equal, given, before))


@dataclass(frozen=True)
class Watched(Chance):
    """Chance that tells when it is drawn from."""

    drawn: tuple[list[int], ...] = ([],)

    def uniform(self, index: int, shape: tuple[int, ...]) -> Tensor:
        self.drawn[0].append(index)
        return super().uniform(index, shape)

    def keeps(self, index: int, shape: tuple[int, ...], share: float) -> Tensor:
        self.drawn[0].append(index)
        return super().keeps(index, shape, share)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_is_all_that_chance_hangs_on(name: str) -> None:
    drawn: tuple[list[int]] = ([],)
    case = draw(name, 3, (9, 8))
    slabs = [replace(case.slab, chance=Watched(seed, "layer.weight", keys=case.slab.chance.keys, drawn=drawn)) for seed in (0, 0, 1)]
    first, again, other = (replace(case, slab=slab).merged() for slab in slabs)
    assert torch.equal(first, again)
    assert torch.equal(first, other) != bool(drawn[0])


@pytest.mark.parametrize("name", NAMES)
def test_zeros_give_numbers(name: str) -> None:
    case = draw(name, 0, dtype=torch.float32)
    zero = torch.zeros_like(case.slab.tensors[0])
    base = None if case.slab.base is None else zero
    all_zero = replace(case.slab, tensors=(zero,) * len(case.slab.tensors), base=base)
    one_zero = replace(case.slab, tensors=(zero, *case.slab.tensors[1:]))
    assert not replace(case, slab=all_zero).merged().any()
    assert replace(case, slab=one_zero).merged().isfinite().all()
    if base is not None:
        assert replace(case, slab=replace(case.slab, base=base)).merged().isfinite().all()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("arcee_fusion", "nearswap", "iso_c", "iso_cts", "tsv")])
def test_equal_inputs_come_back_wherever_their_base_is(name: str) -> None:
    # Of those left out two take a part of a model alone, and three give its directions other sizes.
    for seed in range(5):
        case = draw(name, seed)
        equal = replace(case.slab, tensors=case.slab.tensors[:1] * len(case.slab.tensors))
        wanted = {parameter.name: 1.0 for parameter in case.method.parameters.values() if parameter.is_required}
        wanted |= {"normalize": True} if "normalize" in case.method.parameters else {}
        assert difference(Case(case.method, equal, wanted).merged(), case.slab.tensors[0], case) < 1e-9, seed


@pytest.mark.parametrize("name", [name for name in NAMES if methods[name].base != "none"])
def test_an_input_may_equal_the_base(name: str) -> None:
    # as frozen layers do; its direction is none, and whatever a method makes of it must not magnify rounding
    for seed in range(8):
        case = draw(name, seed, dtype=torch.float32)
        if case.slab.base is not None:
            frozen = replace(case, slab=replace(case.slab, tensors=(*case.slab.tensors[:-1], case.slab.base)))
            assert difference(frozen.merged(), frozen.referred(), frozen) <= 1e-4, seed


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "nearswap"])  # which moves towards infinity, by no more than t
def test_what_is_no_number_is_refused_or_comes_out(name: str, value: float) -> None:
    for seed in range(5):
        case = draw(name, seed)
        broken = case.slab.tensors[0].clone()
        broken[1, 2] = value
        case = replace(case, slab=replace(case.slab, tensors=(broken, *case.slab.tensors[1:])))
        try:
            assert not case.merged().isfinite().all(), seed
        except MergeError as error:
            assert "NaN or infinite" in str(error)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("name", NAMES)
def test_tensors_without_values_stay_so(name: str, shape: tuple[int, ...]) -> None:
    assert draw(name, 1, shape).merged().shape == shape
