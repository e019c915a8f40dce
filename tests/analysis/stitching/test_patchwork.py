"""A patchwork runs the route in use through chains and stitches, and each parameter is there once."""

import pytest
import torch

from tests.analysis.stitching.networks import IMAGES, task, trained
from weightspace.analysis.stitching import Patchwork, Piece, Route, fit_stitches, stitched
from weightspace.analysis.stitching.patchwork import anchors, batch_like
from weightspace.errors import AnalysisError


@pytest.fixture(scope="module")
def made() -> Patchwork:
    a, b = trained("mlp"), trained("cnn", 1)
    found = [*fit_stitches(a, b, task(b), [(0, 0)]).values(), *fit_stitches(b, a, task(a), [(1, 1)]).values()]
    through = Route((Piece(0, -1, 0), Piece(1, 0, 1), Piece(0, 1)), (0, 1))
    return Patchwork([a, b], found, [*anchors([a, b]), Route((Piece(0, -1, 0), Piece(1, 0)), (0,)), through])


def test_routes_that_are_networks_run_as_these(made: Patchwork) -> None:
    with torch.no_grad():
        for at in (0, 1):
            assert made.use(at) is made and torch.equal(made(IMAGES), made.chain(at)(IMAGES))
            assert made.routes[at].is_anchor and made.describe(at) == str(at)


def test_a_route_runs_front_stitch_and_end(made: Patchwork) -> None:
    a, b = made.chain(0), made.chain(1)
    with torch.no_grad():
        crossing = made.stitches[0](a.run([IMAGES], stop=0))
        assert torch.equal(made.use(2)(IMAGES), b.run([IMAGES], crossing, start=0))
        assert torch.equal(made(IMAGES), stitched(a, b, made.stitches[0], (0, 0))(IMAGES))  # type: ignore[arg-type]
        back = made.stitches[1](b.run([IMAGES], crossing, start=0, stop=1))
        assert torch.equal(made.use(3)(IMAGES), a.run([IMAGES], back, start=1))
    assert made.describe(2) == "0:first > 1:first" and made.describe(3) == "0:first > 1:first, 1:second > 0:second"


def test_a_route_knows_the_parameters_that_it_runs_through(made: Patchwork) -> None:
    a, b = made.chain(0), made.chain(1)
    held = {id(one) for part in (a.parts[0], b.parts[1], b.parts[2], made.stitches[0]) for one in part.parameters()}
    assert {id(one) for one in made.parameters_of(2)} == held
    assert len(made.parameters_of(0)) == len(list(a.parameters()))
    assert len(list(made.parameters())) == len(list(a.parameters())) + len(list(b.parameters())) + 4


def test_the_raw_input_may_be_stitched_on() -> None:
    a, b = trained("mlp"), trained("cnn", 1)
    stitch = fit_stitches(a, b, task(b), [(-1, 0)])[-1, 0]
    with torch.no_grad():
        assert torch.equal(stitched(a, b, stitch, (-1, 0))(IMAGES), b.run([IMAGES], stitch(IMAGES), start=0))
    assert stitched(a, b, stitch, (-1, 0)).describe(0) == "0:input > 1:first"


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (Route((Piece(0, -1, 0), Piece(1, 0))), "a route begins at an input, ends at an output and has a stitch between each two pieces"),
        (Route((Piece(0, 0),)), "a route begins at an input"),
        (Route((Piece(0, -1, 5), Piece(1, 0)), (0,)), "there is no piece of chain 0 from cut -1 to 5; chains have 2 cuts"),
        (Route((Piece(2),)), "there is no chain 2 among 2; name one that there is"),
        (Route((Piece(0, -1, 0), Piece(1, 0)), (1,)), r"a route names a stitch that there is not: \(1,\) of 1"),
    ],
)
def test_routes_that_lead_nowhere_are_refused(made: Patchwork, route: Route, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        Patchwork([made.chain(0), made.chain(1)], [made.stitches[0]], [route])  # type: ignore[list-item]


def test_only_routes_that_there_are_can_be_used(made: Patchwork) -> None:
    with pytest.raises(AnalysisError, match="expected a route from 0 to 3, found 4; name one that there is"):
        made.use(4)


def test_examples_for_costs_are_the_first_of_the_first_batch() -> None:
    images, classes = batch_like(task(trained("mlp")).batches, 3)
    assert images.shape == (3, 1, 4, 4) and classes.shape == (3,)
