"""Methods that look at data or at matrices: against plain references, and for what each of them claims."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.analysis.merging.reference_matrices import REFERENCES
from weightspace.analysis.merging.method import methods
from weightspace.errors import MergeError

SHAPES = [(5, 5), (1, 6), (6, 1), (3, 11), (12, 4), (6, 2, 3, 3), (7,), (), (1, 1)]
SPECTRAL = ["tsv", "iso_c", "iso_cts", "knots"]


def draw(shape: Sequence[int], count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(tuple(shape), generator=generator, dtype=dtype)
    return [base + 0.1 * torch.randn(tuple(shape), generator=generator, dtype=dtype) for _ in range(count)], base


def draw_evidence(name: str, shape: Sequence[int], count: int, seed: int = 1) -> dict[str, list[Tensor | None]]:
    generator = torch.Generator().manual_seed(seed)
    if name == "fisher":
        return {"fisher": [torch.rand(tuple(shape), generator=generator, dtype=torch.float64) ** 4 * 1e-3 for _ in range(count)]}
    if name != "regmean" or len(shape) < 2:
        return {}
    inputs = torch.Size(shape[1:]).numel()
    data = [torch.randn(30, inputs, generator=generator, dtype=torch.float64) for _ in range(count)]
    return {"gram": [one.T @ one / 30 for one in data]}


def referred(name: str, tensors: Sequence[Tensor], base: Tensor | None, evidence: Mapping[str, Any], **parameters: Any) -> Tensor:
    arrays = {key: [None if one is None else one.double().numpy() for one in found] for key, found in evidence.items()}
    told: dict[str, Any] = {"evidence": arrays} if arrays else {}
    plain = None if base is None else base.double().numpy()
    made = REFERENCES[name]([one.double().numpy() for one in tensors], plain, None, **told, **parameters)
    return torch.from_numpy(np.asarray(made))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("uniform_soup", {}),
    ("smear", {"score": (0.3, -1.0, 2.0), "temperature": 0.7}),
    ("fisher", {}),
    ("fisher", {"weight": (1.0, 0.0, 3.0), "floor": 1e-5}),
    ("regmean", {}),
    ("regmean", {"weight": (10.0, 20.0, 5.0), "ratio": 0.3, "ridge": 0.01}),
    ("tsv", {}),
    ("tsv", {"lambda": 0.4}),
    ("iso_c", {"lambda": 1.3}),
    ("iso_cts", {"lambda": 0.8, "common_space_fraction": 0.5}),
    ("iso_cts", {}),
    ("knots", {}),
    ("knots", {"weight": (0.5, 0.0, 2.0), "density": (0.3, 0.5, 0.8), "lambda": 0.9, "normalize": False}),
    ("knots", {"merge": "linear", "density": 0.6}),
]


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-9), (torch.float32, 3e-6)], ids=str)
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_equals_the_reference(name: str, parameters: dict[str, Any], dtype: torch.dtype, near: float) -> None:
    for shape in SHAPES:
        tensors, base = draw(shape, 3, dtype=dtype)
        given_base = None if methods[name].base == "none" else base
        evidence = draw_evidence(name, shape, 3)
        made = methods[name](tensors, given_base, evidence=evidence, **parameters)
        assert made.dtype == dtype and made.shape == base.shape
        torch.testing.assert_close(made.double(), referred(name, tensors, given_base, evidence, **parameters), rtol=near, atol=near)


@given(st.sampled_from(CASES), st.integers(1, 4), st.lists(st.integers(1, 9), min_size=2, max_size=3), st.integers(0, 1 << 30))
@settings(max_examples=60)
def test_equals_the_reference_on_any_shape(case: tuple[str, dict[str, Any]], count: int, shape: list[int], seed: int) -> None:
    name, parameters = case
    parameters = {key: value[:1] * count if isinstance(value, tuple) else value for key, value in parameters.items()}
    tensors, base = draw(shape, count, seed)
    given_base = None if methods[name].base == "none" else base
    evidence = draw_evidence(name, shape, count, seed + 1)
    made = methods[name](tensors, given_base, evidence=evidence, **parameters)
    torch.testing.assert_close(made, referred(name, tensors, given_base, evidence, **parameters), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SPECTRAL)
def test_models_that_did_not_change_leave_the_base(name: str) -> None:
    for shape in SHAPES:
        base = draw(shape, 1, dtype=torch.float32)[1]
        assert torch.equal(methods[name]([base.clone()] * 3, base), base)


@pytest.mark.parametrize("name", ["tsv", "iso_c", "iso_cts"])
def test_a_model_that_did_not_change_adds_no_directions(name: str) -> None:
    """What a solver makes of a zero matrix is orthonormal, and would push the vectors of the other model about."""
    tensors, base = draw((8, 6), 1)
    parameters: dict[str, Any] = {"common_space_fraction": 0.0} if name == "iso_cts" else {}
    made = methods[name]([*tensors, base], base, **parameters)
    left = torch.linalg.svd(tensors[0] - base)[0][:, :6]
    change = made - base
    torch.testing.assert_close(left @ left.T @ change, change)


@pytest.mark.parametrize("name", ["iso_c", "iso_cts", "tsv"])
def test_low_rank_updates_keep_their_rank(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(20, 16, generator=generator, dtype=torch.float64)
    updates = [torch.randn(20, 2, generator=generator).double() @ torch.randn(2, 16, generator=generator).double() for _ in range(3)]
    made = methods[name]([base + one for one in updates], base)
    assert torch.linalg.matrix_rank(made - base, rtol=1e-9) == 6


@pytest.mark.parametrize("name", SPECTRAL)
def test_same_bits_every_time(name: str) -> None:
    tensors, base = draw((24, 40), 3, dtype=torch.float32)
    assert torch.equal(methods[name](tensors, base), methods[name]([one.clone() for one in tensors], base.clone()))


def test_tsv_keeps_orthogonal_tasks_whole() -> None:
    """Tasks in spaces of their own do not interfere, so nothing is whitened away."""
    base = torch.zeros(6, 6, dtype=torch.float64)
    tasks = [base.clone() for _ in range(3)]
    for at, task in enumerate(tasks):
        task[2 * at : 2 * at + 2, 2 * at : 2 * at + 2] = draw((2, 2), 1, seed=at)[1]
    torch.testing.assert_close(methods["tsv"](tasks, base), sum(tasks, base))


def test_tsv_takes_what_all_tasks_share_once() -> None:
    tensors, base = draw((6, 6), 1)
    left, values, right = torch.linalg.svd(tensors[0] - base)
    shared = (left[:, :2] * values[:2]) @ right[:2]
    torch.testing.assert_close(methods["tsv"](tensors * 3, base), base + shared)


def test_iso_c_gives_all_directions_one_size() -> None:
    tensors, base = draw((8, 5), 4)
    values = torch.linalg.svdvals(methods["iso_c"](tensors, base) - base)
    torch.testing.assert_close(values, torch.linalg.svdvals(sum(tensors, -4 * base)).mean().expand(5))


def test_iso_cts_without_a_task_specific_space_is_iso_c() -> None:
    tensors, base = draw((8, 5), 2)
    torch.testing.assert_close(methods["iso_cts"](tensors, base, common_space_fraction=1.0), methods["iso_c"](tensors, base))


def test_knots_by_ties_is_not_ties_and_linear_is_plain() -> None:
    tensors, base = draw((8, 5), 3)
    mean = torch.stack(tensors).mean(0)
    torch.testing.assert_close(methods["knots"](tensors, base, merge="linear"), mean)
    flat = methods["knots"]([one.flatten() for one in tensors], base.flatten()).view(8, 5)
    assert not torch.allclose(methods["knots"](tensors, base), flat, atol=1e-3)


def test_knots_merges_only_by_what_it_knows() -> None:
    tensors, base = draw((3, 3), 2)
    with pytest.raises(MergeError, match="'knots' merges by ties or linear, found merge: 'dare'; name one of them"):
        methods["knots"](tensors, base, merge="dare")


def test_knots_of_nothing_is_the_base() -> None:
    tensors, base = draw((3, 3), 2)
    assert torch.equal(methods["knots"](tensors, base, weight=0.0), base)


def test_fisher_does_not_lose_tiny_importances() -> None:
    tensors, _ = draw((4,), 2, dtype=torch.float32)
    found = [torch.full((4,), 1e-42), torch.full((4,), 3e-42)]
    made = methods["fisher"](tensors, evidence={"fisher": found})
    torch.testing.assert_close(made, 0.25 * tensors[0] + 0.75 * tensors[1], rtol=1e-2, atol=1e-3)


def test_fisher_of_nobody_is_the_average() -> None:
    tensors, _ = draw((2, 3), 2)
    important = torch.tensor([[1.0, 0, 0], [0, 0, 1]], dtype=torch.float64)
    made = methods["fisher"](tensors, weight=(1.0, 3.0), evidence={"fisher": [important, torch.zeros(2, 3).double()]})
    torch.testing.assert_close(made, torch.where(important > 0, tensors[0], 0.25 * tensors[0] + 0.75 * tensors[1]))


def test_regmean_solves_the_least_squares_problem_it_claims() -> None:
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(n, 6, generator=generator, dtype=torch.float64) @ torch.randn(6, 6, generator=generator).double() for n in (40, 15)]
    tensors, _ = draw((4, 6), 2)
    grams = [one.T @ one / len(one) for one in data]
    made = methods["regmean"](tensors, weight=(40.0, 15.0), ratio=1.0, ridge=1e-12, evidence={"gram": grams})
    outputs = np.concatenate([(x @ w.T).numpy() for x, w in zip(data, tensors, strict=True)])
    best = np.linalg.lstsq(np.concatenate([x.numpy() for x in data]), outputs)[0]
    np.testing.assert_allclose(made.numpy(), best.T, rtol=1e-7, atol=1e-8)


def test_regmean_leaves_directions_without_data_to_the_average() -> None:
    tensors, _ = draw((4, 6), 2)
    gram = torch.diag(torch.tensor([1.0, 2, 3, 0, 0, 0], dtype=torch.float64))
    made = methods["regmean"](tensors, evidence={"gram": [gram, torch.zeros_like(gram)]})
    torch.testing.assert_close(made[:, :3], tensors[0][:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(made[:, 3:], (tensors[0] + tensors[1])[:, 3:] / 2)


def test_regmean_of_layers_stored_input_first() -> None:
    tensors, _ = draw((5, 5), 2)
    grams = draw_evidence("regmean", (5, 5), 2)["gram"]
    usual = methods["regmean"](tensors, evidence={"gram": grams})
    turned = methods["regmean"]([one.T for one in tensors], evidence={"gram": [one[None] for one in grams if one is not None]})
    torch.testing.assert_close(turned, usual.T)


@pytest.mark.parametrize(
    ("name", "evidence", "message"),
    [
        ("fisher", {"fisher": [torch.ones(2, 3), None]}, "has the evidence 'fisher' in 1 of 2 models; compute it for all of them, or none"),
        ("fisher", {"fisher": [torch.ones(2, 3), torch.ones(3, 2)]}, r"Fisher .* has shape \(3, 2\); expected squares of shape \(2, 3\)"),
        ("fisher", {"fisher": [torch.ones(2, 3), -torch.ones(2, 3)]}, "has negative values; expected squares"),
        ("regmean", {"gram": [torch.eye(3), None]}, "has the evidence 'gram' in 1 of 2 models"),
        ("regmean", {"gram": [torch.eye(3), torch.eye(2)]}, r"Gram matrix .* has shape \(2, 2\), expected \(3, 3\) for weights of shape"),
    ],
)
def test_says_what_is_wrong_with_evidence(name: str, evidence: dict[str, list[Tensor | None]], message: str) -> None:
    with pytest.raises(MergeError, match=message):
        methods[name]([torch.zeros(2, 3), torch.ones(2, 3)], evidence=evidence)


@pytest.mark.parametrize("name", ["fisher", "regmean"])
def test_weights_of_nothing_are_refused(name: str) -> None:
    shape = (3, 3)
    with pytest.raises(MergeError, match=r"the weights \[0.0, 0.0\]"):
        methods[name](draw(shape, 2)[0], weight=0.0, evidence=draw_evidence(name, shape, 2))
