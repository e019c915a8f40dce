"""Folding gains: the function stays, ones are left, and a stream may be turned after it."""

import pickle

import pytest
import torch
from torch import Tensor

from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError
from weightspace.folding import fold
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

SPEC = SymmetrySpec.parse(
    {"embed": "4 d", "norm": "d", "up": "m d'", "down": "d m'", "last": "d", "head": "3 d'"},
    groups={"d": {"size": 6, "symmetry": "orthogonal"}, "m": {"size": 8}},
    gains={"norm": ["up"], "last": ["head"]},
)


def forward(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    def norm(h: Tensor) -> Tensor:
        return h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    h = x @ weights["embed"]
    h = h + torch.nn.functional.gelu(norm(h) * weights["norm"] @ weights["up"].T) @ weights["down"].T
    return norm(h) * weights["last"] @ weights["head"].T


@pytest.fixture
def weights(generator: torch.Generator) -> dict[str, Tensor]:
    return {name: torch.randn(SPEC.shape(name), generator=generator, dtype=torch.float64) for name in SPEC.tensors}


def test_folding_keeps_the_function_and_leaves_ones(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    folded = fold(weights, SPEC)
    torch.testing.assert_close(forward(folded, x), forward(weights, x))
    assert bool((folded["norm"] == 1).all() and (folded["last"] == 1).all())
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_a_folded_stream_may_be_turned_and_an_unfolded_one_may_not(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    turn = SPEC.random(generator)
    torch.testing.assert_close(forward(act(turn, fold(weights, SPEC)), x), forward(weights, x))
    with pytest.raises(SymmetryError, match="a matrix acts on group 'd', but gain 'norm' is not constant; fold it away first"):
        act(turn, weights)


def test_a_checkpoint_is_folded_when_it_is_read(weights: dict[str, Tensor]) -> None:
    lazily = fold(Checkpoint.of(weights), SPEC)
    assert isinstance(lazily, Checkpoint)
    torch.testing.assert_close(lazily.state_dict(), dict(fold(weights, SPEC)))
    again = pickle.loads(pickle.dumps(lazily))
    assert all(torch.equal(again[name], lazily[name]) for name in lazily)


def test_messages(weights: dict[str, Tensor]) -> None:
    with pytest.raises(SymmetryError, match="gain 'norm' is read by tensors of which 'gone' has no row"):
        SymmetrySpec.parse({"norm": "d"}, sizes={"d": 2}, gains={"norm": ["gone"]})
    tied = SymmetrySpec.parse({"embed": "4 d'", "last": "d"}, sizes={"d": 6}, aliases={"head": "embed"}, gains={"last": ["embed"]})
    with pytest.raises(SymmetryError, match="tensor 'head' is tied to 'embed', which gain 'last' would scale; untie them first"):
        fold({"embed": weights["embed"], "last": weights["last"], "head": weights["embed"]}, tied)
    wrong = SymmetrySpec.parse({"norm": "d", "down": "d m'"}, sizes={"d": 6, "m": 8}, gains={"norm": ["down"]})
    with pytest.raises(SymmetryError, match="gain 'norm' scales group 'd', which tensor 'down' does not read"):
        fold({"norm": weights["norm"], "down": weights["down"]}, wrong)
