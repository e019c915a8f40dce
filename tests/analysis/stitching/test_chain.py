"""A chain runs from any cut to any other, as the network does."""

import pytest
import torch
from torch import Tensor, nn

from tests.analysis.stitching.networks import CLASSES, IMAGES, blocks, task, trained
from weightspace.analysis.stitching import Chain, chain_of
from weightspace.analysis.stitching.chain import sequential
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def test_a_traced_chain_runs_as_the_module_whole_and_in_stretches(network: nn.Sequential) -> None:
    chain = Chain.of(network, IMAGES[:3])
    whole = network(IMAGES)
    assert torch.allclose(chain(IMAGES), whole)
    for at in range(len(chain.cuts)):
        crossing = chain.run([IMAGES], stop=at)
        assert crossing.shape[1:] == chain.cuts[at].shape
        assert torch.allclose(chain.run([IMAGES], crossing, start=at), whole)
    between = chain.run([IMAGES], chain.run([IMAGES], stop=0), start=0, stop=1)
    assert torch.allclose(between, chain.run([IMAGES], stop=1))


def test_a_chain_has_copies_under_the_modules_names(network: nn.Sequential) -> None:
    chain = Chain.of(network, IMAGES[:3])
    assert chain.weights().keys() == network.state_dict().keys()
    with torch.no_grad():
        next(chain.parameters()).add_(1)
    assert not torch.equal(chain.weights()["1.weight"], network.state_dict()["1.weight"])
    assert torch.equal(Chain.of(network, IMAGES[:3]).weights()["1.weight"], network.state_dict()["1.weight"])


def test_a_chain_of_a_task_is_judged_as_its_module(network: nn.Sequential) -> None:
    asked = Task.classification(network, IMAGES, CLASSES)
    chain = chain_of(asked)
    assert chain.task(asked).evaluate(chain.state_dict()) == pytest.approx(asked.evaluate(network.state_dict()))


def test_inputs_by_keyword_are_put_in_order_and_targets_left_out() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            made: Tensor = self.second(self.first(x).relu() * (1 if mask is None else mask[:, None]))
            return made

    x, mask = torch.randn(3, 4), torch.tensor([1, 0, 1])
    module = Named()
    chain = Chain.of(module, x=x, mask=mask)
    assert chain.inputs == ("x", "mask")
    assert torch.allclose(chain(mask=mask, x=x, labels=torch.ones(3)), module(x, mask))


def test_blocks_are_used_as_they_are() -> None:
    made = blocks("cnn")
    chain = Chain.of_blocks(made, IMAGES[:2])
    assert [(one.name, one.shape, one.axis) for one in chain.cuts] == [("first", (6, 4, 4), 0), ("second", (6, 2, 2), 0)]
    assert torch.equal(chain(IMAGES), nn.Sequential(made)(IMAGES))
    assert chain.parts[0] is made["first"]
    tokens = Chain.of_blocks(blocks("vit"), IMAGES[:2])
    assert [(one.shape, one.axis) for one in tokens.cuts] == [((5, 6), 1), ((5, 6), 1)]
    assert Chain.of_blocks(blocks("vit"), IMAGES[:2], axes={"first": 0}).cuts[0].units == 5
    assert list(sequential(nn.Sequential(made))) == ["first", "second", "head"]


def test_cuts_are_found_by_name_and_by_number() -> None:
    chain = trained("mlp")
    assert [chain.index(name) for name in ("input", "first", "second", 0, -1)] == [-1, 0, 1, 0, -1]
    with pytest.raises(UnknownNameError, match="no cut named 'frist'; did you mean 'first'"):
        chain.index("frist")
    with pytest.raises(AnalysisError, match=r"expected a cut from -1 \(the input\) to 1, found 2; name one that there is"):
        chain.index(2)


def test_what_is_no_chain_is_said_in_one_line() -> None:
    with pytest.raises(AnalysisError, match=r"module Linear falls apart nowhere: .* give its parts yourself, as a list of blocks"):
        Chain.of(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(AnalysisError, match="expected two blocks or more, found 1; give the network in parts"):
        Chain.of_blocks({"all": nn.Linear(4, 3)}, torch.randn(2, 4))
    with pytest.raises(
        AnalysisError, match=r"block 'counts' gives \(2, 4\), expected one tensor of floats with examples first; cut elsewhere"
    ):
        Chain.of_blocks({"counts": nn.Identity(), "all": nn.Identity()}, torch.ones(2, 4, dtype=torch.long))
    with pytest.raises(AnalysisError, match="block 'pair' gives tuple, expected one tensor of floats"):
        Chain.of_blocks({"pair": nn.LSTM(4, 3), "all": nn.Identity()}, torch.ones(2, 4))


def test_running_a_task_needs_no_gradients_and_leaves_none() -> None:
    chain = trained("vit")
    task(chain).evaluate(chain.state_dict())
    assert all(one.grad is None for one in chain.parameters())
