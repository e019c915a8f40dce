"""A stitch is trained through frozen networks on what they answer together, and nothing else changes."""

import pytest
import torch

from tests.analysis.stitching.networks import CLASSES, IMAGES, task, trained
from weightspace.analysis.stitching import Stitch, fit_stitches, match_task, stitched
from weightspace.analysis.stitching import task_matching as module
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task, cross_entropy

FRONT, END = "mlp", "cnn"


def logits(stitch: Stitch) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = stitched(trained(FRONT), trained(END, 1), stitch, (1, 1))(IMAGES)
    return found


def loss(stitch: Stitch) -> float:
    return float(cross_entropy(logits(stitch), (IMAGES, CLASSES)))


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("start", ["linear", "random"])
def test_training_lowers_the_loss_from_any_start_and_changes_nothing_else(start: str, norms: bool) -> None:
    front, end = trained(FRONT), trained(END, 1)
    before = [{name: tensor.clone() for name, tensor in chain.weights().items()} for chain in (front, end)]
    first = fit_stitches(front, end, task(end), [(1, 1)], start)[1, 1]
    kept = first.weight.clone()
    seen: list[tuple[int, int]] = []
    found = match_task(
        front, end, task(end), (1, 1), first, epochs=5, learning_rate=1e-2, norms=norms, progress=lambda *at: seen.append(at)
    )
    assert loss(found) < loss(first) and seen == [(at, 5) for at in range(1, 6)]
    assert torch.equal(first.weight, kept) and first.weight.grad is None and type(found) is Stitch
    for chain, old in zip((front, end), before, strict=True):
        assert all(torch.equal(old[name], tensor) for name, tensor in chain.weights().items())
    assert all(one.grad is None for chain in (front, end) for one in chain.parameters())


def test_the_same_seed_gives_the_same_stitch() -> None:
    found = [
        match_task(trained(FRONT), trained(END, 1), task(trained(END, 1)), (1, 1), epochs=2, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(found[0].weight, found[1].weight) and not torch.equal(found[0].weight, found[2].weight)


@pytest.mark.parametrize("family", ["mlp", "cnn", "vit"])
def test_norms_are_folded_into_the_map(family: str) -> None:
    front, end = trained("vit"), trained(family, 1)
    first = fit_stitches(front, end, task(end), [(0, 0)])[0, 0]
    same = match_task(front, end, task(end), (0, 0), first, epochs=0, norms=True)
    with torch.no_grad():
        features = front.run([IMAGES], stop=0)
        assert torch.allclose(same(features), first(features), atol=1e-3)
    through = module._Through(front, end, task(end), (0, 0), "labels", 1.0)
    normed = module._Normed(match_task(front, end, task(end), (0, 0), first, epochs=0), through)
    with torch.no_grad():
        for norm in (normed.before, normed.after):
            norm.weight.mul_(1.5)
            norm.bias.add_(0.3)
        folded = normed.folded()
        assert torch.allclose(folded(features), normed.eval()(features), atol=1e-4)


@pytest.mark.parametrize(("targets", "teachers"), [("end", ["end"]), ("front", ["front"]), ("mean", ["front", "end"])])
def test_soft_targets_are_the_answers_of_the_networks(targets: str, teachers: list[str]) -> None:
    chains = {"front": trained(FRONT), "end": trained(END, 1)}
    first = fit_stitches(chains["front"], chains["end"], task(chains["end"]), [(1, 1)], "random")[1, 1]
    blind = Task.classification(chains["end"], IMAGES, torch.zeros(120, dtype=torch.long), batch_size=50)  # labels are not looked at
    found = match_task(
        chains["front"], chains["end"], blind, (1, 1), first, targets=targets, temperature=2.0, epochs=10, learning_rate=1e-2
    )
    with torch.no_grad():
        wanted = torch.stack([chains[name](IMAGES) for name in teachers]).mean(0).div(2).softmax(1)
    distance = [float((logits(one).div(2).softmax(1) - wanted).square().sum()) for one in (first, found)]
    assert distance[1] < 0.8 * distance[0]


def test_sparsity_makes_weights_smaller() -> None:
    front, end = trained(FRONT), trained(END, 1)
    plain, sparse = (
        match_task(front, end, task(end), (1, 1), epochs=5, learning_rate=1e-2, sparsity=one).weight.detach().abs().sum()
        for one in (0.0, 0.1)
    )
    assert float(sparse) < 0.9 * float(plain)


def test_features_that_are_too_many_are_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    front, end = trained(FRONT), trained(END, 1)
    monkeypatch.setattr(module, "CACHED", 100)
    first = fit_stitches(front, end, task(end), [(1, 1)], "random")[1, 1]
    assert loss(match_task(front, end, task(end), (1, 1), first, epochs=3, learning_rate=1e-2, norms=True)) < loss(first)


def test_what_cannot_be_trained_is_said_in_one_line() -> None:
    front, end = trained(FRONT), trained(END, 1)
    with pytest.raises(UnknownNameError, match="no targets named 'teacher'"):
        match_task(front, end, task(end), (1, 1), targets="teacher")
    with pytest.raises(
        AnalysisError, match=r"expected a temperature above 0, epochs of 0 or more and batches of 2 or more, found 0\.0, 30 and 128"
    ):
        match_task(front, end, task(end), (1, 1), temperature=0.0)
    with pytest.raises(AnalysisError, match="the loss of the stitched network became nan in epoch 1; take a smaller learning rate"):
        broken = fit_stitches(front, end, task(end), [(1, 1)])[1, 1]
        with torch.no_grad():
            broken.bias[0] = float("nan")
        match_task(front, end, task(end), (1, 1), broken)
    good = fit_stitches(front, end, task(end), [(1, 1)])[1, 1]
    with pytest.raises(AnalysisError, match="expected data to train a stitch on, found no batches; give the task some"):
        match_task(front, end, Task(end, [], cross_entropy), (1, 1), good)
    alone = fit_stitches(front, trained("mlp", 1), task(end), [(1, 1)])[1, 1]
    with pytest.raises(AnalysisError, match="a batch of one example has no statistics, which batch norms need"):
        match_task(front, trained("mlp", 1), task(end, count=1), (1, 1), alone, norms=True)
