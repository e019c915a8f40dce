"""Plans from a zoo."""

import copy
import math

import pytest
import torch
from torch import nn

from tests.analysis.stitching.reassembly.zoos import INPUTS, generator, mlp, task
from weightspace.analysis.stitching import Chain
from weightspace.analysis.stitching.costs import flops_of
from weightspace.analysis.stitching.patchwork import batch_like
from weightspace.analysis.stitching.reassembly import Assembly, assemble, plan_reassembly
from weightspace.analysis.stitching.reassembly.planning import SELECTIONS, Zoo, choose, network_qualities
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    return {f"n{at}": mlp(*widths, seed=at) for at, widths in enumerate([(5, 7), (8, 6, 4), (12, 12), (4, 4, 9)])}


@pytest.fixture(scope="module")
def zoo(chains: dict[str, Chain]) -> Zoo:
    return Zoo(chains, task(), blocks=3)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_what_is_planned_is_what_is_built(chains: dict[str, Chain], zoo: Zoo, selection: str) -> None:
    plan = choose(zoo, selection=selection, max_flops=400, candidates=3)
    made = assemble(plan, chains, task())
    assert plan.flops == flops_of(made, batch_like(task().batches)) <= 400
    assert plan.parameters == sum(one.numel() for one in made.parameters())
    assert len(plan.blocks) == 3 and len(plan.compatibility) == 2 and len(plan.networks) > 1
    assert made(torch.zeros(4, INPUTS)).shape == (4, 3)


def test_the_best_is_proved_and_others_say_how_far_they_are(zoo: Zoo) -> None:
    best, taken, drawn = (choose(zoo, selection=selection, candidates=5) for selection in ("score", "random", "chance"))
    assert best.gap == 0 and best.proxy is None
    assert best.score >= taken.score and taken.gap == pytest.approx((best.score - taken.score) / best.score)
    assert math.isnan(drawn.gap)


def test_the_proxies_take_the_best_of_the_best(chains: dict[str, Chain], zoo: Zoo) -> None:
    plan = choose(zoo, selection="loss", candidates=6)
    made = assemble(plan, chains, task())
    correct = [-Task.classification(made, *batch).evaluate(made.state_dict())["loss"] for batch in task().batches]
    assert plan.proxy == pytest.approx(sum(correct) / len(correct), rel=1e-5)
    other = choose(zoo, selection="score")
    unproxied = assemble(other, chains, task())
    losses = [-Task.classification(unproxied, *batch).evaluate(unproxied.state_dict())["loss"] for batch in task().batches]
    assert plan.proxy is not None and plan.proxy >= sum(losses) / len(losses) - 1e-6
    assert (choose(zoo, selection="naswot", candidates=6).proxy or -math.inf) >= (
        choose(zoo, selection="naswot", candidates=1).proxy or math.inf
    )


def test_a_zoo_of_copies_reassembles_to_the_same_function() -> None:
    one = mlp(6, 6, seed=4)
    chains = {name: copy.deepcopy(one) for name in "abc"}
    plan = plan_reassembly(chains, task(), blocks=3, most=1)
    assert sorted(plan.networks) == ["a", "b", "c"]
    inputs = torch.randn(8, INPUTS, generator=generator(3))
    assert torch.allclose(assemble(plan, chains, task())(inputs), one(inputs), atol=5e-3)


def test_equal_chance_gives_equal_plans(chains: dict[str, Chain]) -> None:
    one, other = (plan_reassembly(chains, task(), blocks=3, starts=3, selection="chance", generator=generator(2)) for _ in range(2))
    assert one.to_dict() == other.to_dict()
    assert Assembly.from_dict(one.to_dict()).blocks == one.blocks


def test_quality_can_be_given(chains: dict[str, Chain]) -> None:
    given = {name: float(name == "n2") for name in chains}
    plan = plan_reassembly(chains, task(), blocks=3, quality=given, weight=0.0)
    assert [one.network for one in plan.blocks].count("n2") == 2
    with pytest.raises(AnalysisError, match="expected a quality for each network, found none for 'n0'"):
        plan_reassembly(chains, task(), blocks=3, quality={})


def test_quality_is_accuracy_or_the_rank_of_losses(chains: dict[str, Chain]) -> None:
    judged = task()
    by_accuracy = network_qualities(chains, judged)
    assert by_accuracy["n1"] == chains["n1"].task(judged).evaluate(chains["n1"].state_dict())["accuracy"]
    by_loss = network_qualities(chains, Task(nn.Identity(), judged.batches, judged.loss))
    assert sorted(by_loss.values())[0] == 0 and sorted(by_loss.values())[-1] == 1
    assert network_qualities({"a": chains["n0"]}, Task(nn.Identity(), judged.batches, judged.loss)) == {"a": 1.0}


def test_square_kinds_join_equal_widths_alone(chains: dict[str, Chain], zoo: Zoo) -> None:
    with pytest.raises(AnalysisError, match="too few can follow each other"):
        choose(Zoo({"a": mlp(5, 7), "b": mlp(4, 6)}, task(), blocks=3), kind="orthogonal", most=1)
    plan = choose(Zoo({"a": mlp(5, 6), "b": mlp(5, 6, seed=1)}, task(), blocks=3), kind="orthogonal")
    assert plan.kind == "orthogonal" and len(plan.networks) == 2


def test_budgets_too_small_say_the_smallest_that_is_possible(chains: dict[str, Chain]) -> None:
    with pytest.raises(AnalysisError, match=r"no assembly of 3 blocks has at most 10 flops; the smallest has \d+ flops; allow more"):
        plan_reassembly(chains, task(), blocks=3, max_flops=10)


@pytest.mark.parametrize("settings", [{"similarity": "cke"}, {"compatibility": "fitt"}, {"selection": "scor"}])
def test_unknown_words_are_refused(chains: dict[str, Chain], settings: dict[str, str]) -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        plan_reassembly(chains, task(), blocks=3, starts=1, **settings)  # type: ignore[arg-type]
