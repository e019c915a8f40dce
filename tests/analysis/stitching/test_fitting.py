"""Stitches are found batch by batch for many pairs at once, and judged on examples that they were not found on."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.analysis.stitching.networks import CLASSES, IMAGES, task, trained
from weightspace.analysis.moments import Moments
from weightspace.analysis.stitching import Bridge, Chain, fit_error, fit_stitches, gather, match_task, stitched
from weightspace.analysis.stitching.fitting import BIASES, Gathered, expect_bias
from weightspace.errors import AnalysisError, TaskError, UnknownNameError
from weightspace.task import Task
from weightspace.tracing.cutting import Cut


class Wide(nn.Module):
    """In double precision."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


FAMILIES = ("mlp", "cnn", "vit")


@pytest.mark.parametrize("front", FAMILIES)
@pytest.mark.parametrize("end", FAMILIES)
def test_any_two_families_are_stitched_at_every_pair_of_cuts(front: str, end: str) -> None:
    a, b = trained(front), trained(end, 1, 5)
    pairs = [(i, j) for i in (-1, 0, 1) for j in (0, 1)]
    accuracies = []
    for (i, j), stitch in fit_stitches(a, b, task(b), pairs).items():
        with torch.no_grad():
            logits = stitched(a, b, stitch, (i, j))(IMAGES)
        assert logits.shape == (120, 3) and bool(logits.isfinite().all())
        accuracies += [float((logits.argmax(1) == CLASSES).double().mean())] * (i >= 0)
    assert sum(accuracies) / 4 > 0.45  # 0.33 by chance


def test_batches_give_what_all_examples_give_at_once() -> None:
    a, b = trained("cnn"), trained("vit", 1)
    for kind in ("linear", "orthogonal"):
        one, other = (fit_stitches(a, b, task(b, size), [(0, 1)], kind)[0, 1] for size in (17, 120))
        assert torch.allclose(one.weight, other.weight, atol=1e-5) and torch.allclose(one.bias, other.bias, atol=1e-5)


def test_least_squares_at_each_place_is_what_a_slow_one_finds() -> None:
    a, b = trained("cnn"), trained("vit", 1)
    with torch.no_grad():
        x, y = a.run([IMAGES], stop=1), b.run([IMAGES], stop=0)
    stitch = fit_stitches(a, b, task(b), [(1, 0)], settings={"ridge": 0.0})[1, 0]
    rows = stitch.bridge.rows(x).double()
    marks = torch.eye(5).double().expand(120, 5, 5)  # a column of ones for each place
    found = torch.linalg.lstsq(torch.cat([rows, marks], 2).flatten(0, 1), y.double().flatten(0, 1)).solution
    assert torch.allclose(stitch.weight.double(), found[:6].T, atol=1e-4) and torch.allclose(stitch.bias.double(), found[6:], atol=1e-4)
    with torch.no_grad():
        assert stitch(x).shape == y.shape
        missed = [float((fit_stitches(a, b, task(b), [(1, 0)], bias=bias)[1, 0](x) - y).square().sum()) for bias in BIASES[::-1]]
    assert missed[0] < missed[1]


def test_moments_are_those_of_what_crosses() -> None:
    a, b = trained("mlp"), trained("mlp", 1)
    bridge, moments = gather(a, b, task(b), [(0, 1)])[0, 1]
    with torch.no_grad():
        left, right = a.run([IMAGES], stop=0), b.run([IMAGES], stop=1)
    slow = Moments()
    slow.add(left, right)
    assert bridge.units == (12, 6) and moments.count == 120 and torch.allclose(moments.between.cross, slow.between.cross)


def test_the_error_is_on_the_examples_that_were_left_out() -> None:
    a, b = trained("cnn"), trained("vit", 1)
    for kind, bias in (("linear", "places"), ("linear", "units"), ("low_rank", "places")):
        fit = fit_error(a, b, task(b), [(0, 0)], kind, bias=bias)[0, 0]  # type: ignore[arg-type]
        odd = torch.cat([images[1::2] for images, _ in task(b).batches])
        with torch.no_grad():
            y = b.run([odd], stop=0)
            missed = (fit.stitch(a.run([odd], stop=0)) - y).square().sum() / (y - y.mean(0)).square().sum()
        assert fit.error == pytest.approx(float(missed), rel=1e-3)
        assert fit.samples == 60 * 5 and 0 < fit.rank <= 6
    even = replace(task(b), batches=[(x[::2], y[::2]) for x, y in task(b).batches])
    assert torch.allclose(fit_error(a, b, task(b), [(0, 0)])[0, 0].stitch.weight, fit_stitches(a, b, even, [(0, 0)])[0, 0].weight)


def test_a_network_fits_itself_and_a_random_stitch_fits_nothing() -> None:
    chain = trained("cnn")
    assert fit_error(chain, chain, task(chain), [(0, 0)])[0, 0].error < 1e-9
    assert fit_error(chain, chain, task(chain), [(0, 0)], "random")[0, 0].error > 1


def test_what_does_not_vary_has_no_error() -> None:
    still = Chain.of_blocks({"first": nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), "head": nn.Linear(4, 3)}, IMAGES[:2])
    with torch.no_grad():
        for parameter in still.parameters():
            parameter.zero_()
    fit = fit_error(trained("mlp"), still, task(still), [(0, 0)])[0, 0]
    assert fit.error != fit.error and not fit.stitch.weight.any()
    assert fit_error(still, trained("mlp"), task(still), [(0, 0)])[0, 0].rank == 0


def test_precision_follows_the_end_and_nothing_changes() -> None:
    a, b = trained("mlp"), trained("mlp", 1)
    before = {name: tensor.clone() for name, tensor in a.weights().items()}
    wide = Chain(
        [nn.Sequential(Wide(), part) if at == 0 else part for at, part in enumerate(deepcopy(b).double().parts)], b.cuts, b.needs, b.inputs
    )
    stitch = fit_stitches(a, wide, task(a), [(0, 1)])[0, 1]
    with torch.no_grad():
        assert stitch.weight.dtype == torch.float64 and stitched(a, wide, stitch, (0, 1))(IMAGES).dtype == torch.float64
    assert all(torch.equal(before[name], tensor) for name, tensor in a.weights().items())


def test_blocks_in_training_mode_are_looked_at_in_eval_mode_and_stay_as_they_are() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    made = {"first": nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Dropout()), "head": nn.Sequential(nn.Flatten(), nn.Linear(16, 3))}
    chain = Chain.of_blocks(made, IMAGES[:2]).train()
    first, second = (fit_stitches(chain, chain, task(chain), [(0, 0)])[0, 0] for _ in range(2))
    match_task(chain, chain, task(chain), (0, 0), first, epochs=1)
    assert torch.equal(first.weight, second.weight) and norm.state_dict()["num_batches_tracked"] == 0 and norm.training


def test_what_cannot_be_fitted_is_said_in_one_line() -> None:
    chain = trained("mlp")
    with pytest.raises(AnalysisError, match="expected data to fit stitches on, found no batches; give the task some"):
        fit_stitches(chain, chain, replace(task(chain), batches=[]), [(0, 0)])
    with pytest.raises(AnalysisError, match="a stitch needs two samples or more, found 1; give it more data"):
        fit_stitches(chain, chain, task(chain, count=1), [(0, 0)])
    with pytest.raises(TaskError, match="a batch has one example alone and cannot be halved"):
        fit_error(chain, chain, task(chain, count=1), [(0, 0)])
    with pytest.raises(AnalysisError, match="expected finite activations, found NaN or infinite ones"):
        fit_stitches(chain, chain, Task.classification(chain, IMAGES / 0, CLASSES), [(0, 0)])
    for function in (fit_stitches, fit_error):
        with pytest.raises(UnknownNameError, match="no stitch named 'liner'; did you mean 'linear'"):
            function(chain, chain, task(chain), [(0, 0)], "liner")
    with pytest.raises(UnknownNameError, match="no bias of a stitch named 'place'; did you mean 'places'"):
        expect_bias("place")
    with pytest.raises(AnalysisError, match="stitch 'permutation' needs as many units on both sides, found 12 and 6; take 'linear'"):
        fit_stitches(chain, chain, task(chain), [(0, 1)], "permutation")
    with pytest.raises(
        AnalysisError, match=r"from 'a' \(4,\) to 'b' \(3, 80, 80\) has 19,200 units on one side, expected 16,384 at most; cut"
    ):
        Gathered(Bridge(Cut("a", (4,), 0), Cut("b", (3, 80, 80), 0)))
    tokens = Chain.of_blocks({"first": nn.Embedding(9, 4), "head": nn.Linear(4, 3)}, torch.ones(2, 5, dtype=torch.long))
    whole = Task.classification(tokens, torch.ones(8, 5, dtype=torch.long), torch.zeros(8, dtype=torch.long))
    with pytest.raises(AnalysisError, match="the input is no tensor of floats, so nothing can be stitched to it; name a cut"):
        fit_stitches(tokens, tokens, whole, [(-1, 0)])
