"""What a spec does not declare is counted and named."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.proof.networks import (
    BATCH_NORMED,
    INPUT,
    LOW_RANK,
    Attention,
    BatchNormed,
    LowRank,
    Normed,
    Sine,
    attention_spec,
    mlp,
    mlp_spec,
    normed_spec,
)
from weightspace.errors import SymmetryError
from weightspace.proof import Certificate, certificate
from weightspace.spec import SymmetrySpec


@pytest.mark.parametrize(
    ("spec", "module", "given", "nullity"),
    [
        (mlp_spec(a="scale", b="scale"), mlp(nn.ReLU), INPUT, 13),
        (mlp_spec(), mlp(nn.Tanh), INPUT, 0),
        (mlp_spec(), mlp(nn.GELU), INPUT, 0),
        (mlp_spec(), mlp(Sine), INPUT, 0),
        (attention_spec(k="linear", v="linear"), Attention(), torch.zeros(2, 5, 6), 36),
        (normed_spec(), Normed(), torch.zeros(8, 7), 10),
        (LOW_RANK, LowRank(), torch.zeros(3, 6), 4),
    ],
    ids=["relu", "tanh", "gelu", "sine", "attention", "rms norm", "low rank"],
)
def test_declared_and_measured_dimensions_agree(spec: SymmetrySpec, module: nn.Module, given: Tensor, nullity: int) -> None:
    found = certificate(spec, module, given)
    assert (found.nullity, found.declared, found.missing, found.complete) == (nullity, nullity, 0, True)
    assert found.parameters == sum(p.numel() for p in module.parameters()) and found.gap > 1e3
    assert spec.certificate(module, given, samples=300) == found


@pytest.mark.parametrize("rows", [{}, {"2.weight": "b a", "4.weight": "3 b"}], ids=["with marks", "without marks"])
def test_a_scale_that_is_not_declared_is_named(rows: dict[str, str]) -> None:
    found = certificate(mlp_spec(rows, b="none"), mlp(nn.ReLU), INPUT)
    assert (found.missing, found.complete) == (13, False)
    assert len(found.lines) == 2
    assert found.lines[0].startswith("7 dimensions in ") and found.lines[0].endswith(": 'a' can have 'scale'")
    assert found.lines[1].startswith("6 dimensions in ") and found.lines[1].endswith(": 'b' can have 'scale'")
    assert all(f"'{name}'" in found.lines[0] for name in ("0.weight", "0.bias", "2.weight")) and "'4.weight'" not in found.lines[0]


def test_what_is_declared_is_not_named_again() -> None:
    found = certificate(mlp_spec(a="scale"), mlp(nn.ReLU), INPUT)
    assert found.missing == 6 and len(found.lines) == 1 and "'b' can have 'scale'" in found.lines[0]


def test_a_missing_query_key_product_is_named() -> None:
    found = certificate(attention_spec(v="linear"), Attention(), torch.zeros(2, 5, 6))
    assert found.missing == 18 and len(found.lines) == 1
    assert found.lines[0].startswith("18 dimensions in '") and found.lines[0].endswith(": 'k' can be 'linear'")
    assert "'q.weight'" in found.lines[0] and "'k.weight'" in found.lines[0]


def test_what_is_declared_but_changes_the_outputs_is_named() -> None:
    found = certificate(mlp_spec(a="scale"), mlp(nn.Tanh), INPUT)
    assert (found.nullity, found.declared, found.missing, found.complete) == (0, 0, 0, False)
    assert found.lines == ("group 'a' has symmetry 'scale', but 7 of its 7 directions change the outputs",)


def test_a_stream_wider_than_what_enters_it() -> None:
    """10 rotations, 10 gains against the weights that follow, and 6 because four inputs fill four of five dimensions."""
    found = certificate(normed_spec(4, gains=True, symmetry="none"), Normed(4, gains=True), torch.zeros(8, 4))
    assert (found.nullity, found.declared) == (26, 0)
    assert found.lines[0] == "6 dimensions in 'a.weight' alone: less reaches it than it is wide"
    assert found.lines[1].startswith("10 dimensions in ") and found.lines[1].endswith(": members of 's' can be scaled")
    assert found.lines[2].startswith("10 dimensions in ") and found.lines[2].endswith(": 's' can be 'orthogonal'")


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(6, 2), nn.Linear(2, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.table(tokens)))  # type: ignore[no-any-return]


def test_rows_that_no_input_looks_up_are_named() -> None:
    spec = SymmetrySpec.parse({"table.weight": "6 h", "out.weight": "1 h", "out.bias": "1"}, sizes={"h": 2})
    found = certificate(spec, Lookup(), torch.tensor([[0, 3]]))
    assert "4 of its entries are never used" in found.lines[0] and "'table.weight' alone" in found.lines[0]


def test_directions_of_no_group_are_named_by_their_tensors() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x * (self.a + self.b))

    found = certificate(SymmetrySpec.parse({"a": "3", "b": "3"}), Doubled(), torch.zeros(2, 3))
    assert found.lines == ("3 dimensions in 'a' (50 %), 'b' (50 %), of no group of the spec",)


def test_running_statistics_are_no_parameters() -> None:
    spec = SymmetrySpec.parse(BATCH_NORMED, groups={"c": {"size": 4, "symmetry": "scale"}})
    found = certificate(spec, BatchNormed(), torch.zeros(2, 2, 4, 4))
    assert found.parameters == sum(p.numel() for p in BatchNormed().parameters())
    assert found.declared == 4 and found.missing >= 8  # a conv's rows and bias are absorbed by the norm: not declared here


def test_too_many_parameters_are_refused_in_one_line() -> None:
    with pytest.raises(SymmetryError) as caught:
        certificate(SymmetrySpec.parse({"weight": "100 100"}), nn.Linear(100, 100, bias=False), torch.zeros(1, 100))
    assert str(caught.value) == "a certificate needs at most 6000 parameters, but this module has 10000; give a smaller instance of it"


def test_the_repr_of_a_certificate() -> None:
    found = Certificate(111, 98, 7, 3.2e13, ("6 dimensions in 'x': 'b' can have 'scale'",))
    assert repr(found).splitlines() == [
        "<Certificate: 6 missing; 111 parameters, rank 98, nullity 13, declared 7, gap 3.2e+13>",
        "  6 dimensions in 'x': 'b' can have 'scale'",
    ]
    assert repr(Certificate(3, 3, 0, math.inf)) == "<Certificate: complete; 3 parameters, rank 3, nullity 0, declared 0, gap inf>"
    assert repr(Certificate(3, 3, 0, 5.0, ("the rank is not clear",))).startswith("<Certificate: doubtful;")
