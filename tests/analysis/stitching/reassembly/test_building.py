"""Laws of networks built from a plan."""

import copy

import pytest
import torch

from tests.analysis.stitching.reassembly.zoos import INPUTS, empty, generator, mlp, task
from weightspace.analysis.stitching import Chain, Patchwork, Stitch, fit_stitches
from weightspace.analysis.stitching.reassembly import Assembly, Block, assemble
from weightspace.errors import AnalysisError, UnknownNameError

PLAN = Assembly((Block("a", -1, 0), Block("b", 0, 1), Block("a", 1, None)))


def _stitch(made: Patchwork, at: int) -> Stitch:
    found = made.stitches[at]
    assert isinstance(found, Stitch)
    return found


@pytest.fixture
def chains() -> dict[str, Chain]:
    return {"a": mlp(5, 7, seed=1), "b": mlp(9, 6, seed=2)}


def test_the_first_stitch_is_the_fit_between_the_networks_and_the_next_one_sees_what_arrives(chains: dict[str, Chain]) -> None:
    made, original = (assemble(PLAN, chains, task(), features=features) for features in ("arriving", "original"))
    wanted = fit_stitches(chains["a"], chains["b"], task(), [(0, 0)])[0, 0]
    for one in (made, original):
        assert torch.allclose(_stitch(one, 0).weight, wanted.weight, atol=1e-5)
    alone = fit_stitches(chains["b"], chains["a"], task(), [(1, 1)])[1, 1]
    assert torch.allclose(_stitch(original, 1).weight, alone.weight, atol=1e-5)
    assert not torch.allclose(_stitch(made, 1).weight, alone.weight, atol=1e-3)


def test_fits_on_what_arrives_are_closer_to_what_is_wanted(chains: dict[str, Chain]) -> None:
    inputs = torch.cat([batch[0] for batch in task().batches])
    with torch.no_grad():
        wanted = chains["a"].run((inputs,), stop=1)
        errors = {}
        for features in ("arriving", "original"):
            made = assemble(PLAN, chains, task(), features=features)
            middle = made.stitches[0](made.chain(0).run((inputs,), stop=0))
            given = made.stitches[1](made.chain(1).run((inputs,), middle, start=0, stop=1))
            errors[features] = float((given - wanted).square().sum())
    assert errors["arriving"] < errors["original"]


def test_pieces_of_equal_networks_make_that_network(chains: dict[str, Chain]) -> None:
    made = assemble(PLAN, {"a": chains["a"], "b": copy.deepcopy(chains["a"])}, task())
    inputs = torch.randn(9, INPUTS, generator=generator(5))
    assert torch.allclose(made(inputs), chains["a"](inputs), atol=1e-3)


def test_blocks_that_follow_each_other_need_no_stitch(chains: dict[str, Chain]) -> None:
    made = assemble(Assembly((Block("a", -1, 0), Block("a", 0, 1), Block("a", 1, None))), chains, task())
    inputs = torch.randn(9, INPUTS, generator=generator(5))
    assert not len(made.stitches) and torch.equal(made(inputs), chains["a"](inputs))


def test_it_holds_copies_of_what_runs_and_nothing_else(chains: dict[str, Chain]) -> None:
    before = copy.deepcopy({name: chain.state_dict() for name, chain in chains.items()})
    made = assemble(PLAN, chains, task())
    assert sum(one.numel() for one in made.parameters()) == sum(one.numel() for one in made.parameters_of(0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    for name, chain in chains.items():
        assert all(torch.equal(tensor, before[name][key]) for key, tensor in chain.state_dict().items())


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Assembly((Block("a", -1, 0), Block("c", 0, None))), r"takes c\[0:end\] from network 'c', which is not given"),
        (Assembly((Block("a", -1, 5), Block("b", 0, None))), r"takes a\[-1:5\], but network 'a' has 2 cuts"),
        (Assembly((Block("a", -1, 0), Block("b", 2, None))), r"takes b\[2:end\], but network 'b' has 2 cuts"),
    ],
)
def test_a_plan_that_does_not_fit_the_networks_is_refused(chains: dict[str, Chain], plan: Assembly, said: str) -> None:
    with pytest.raises(AnalysisError, match=said):
        assemble(plan, chains, task())


def test_no_data_and_unknown_words_are_refused(chains: dict[str, Chain]) -> None:
    with pytest.raises(AnalysisError, match="expected data to fit stitches on, found no batches"):
        assemble(PLAN, chains, empty())
    with pytest.raises(UnknownNameError, match="arriving"):
        assemble(PLAN, chains, task(), features="ariving")
