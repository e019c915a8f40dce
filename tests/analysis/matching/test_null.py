"""What matching gains between random networks."""

import pytest
import torch
from torch import Tensor

from tests.analysis.matching.networks import attention, chain, draw, residual
from weightspace.analysis.matching import match
from weightspace.analysis.matching.null import Null, null_network, null_reduction, nulls, producer
from weightspace.errors import SymmetryError, UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act


def mlp(width: int) -> SymmetrySpec:
    rows = {"0.weight": "a 784", "0.bias": "a", "1.weight": "b a'", "1.bias": "b", "2.weight": "c b'", "2.bias": "c", "3.weight": "10 c'"}
    return SymmetrySpec.parse({**rows, "3.bias": "10"}, sizes=dict.fromkeys("abc", width))


def initial(spec: SymmetrySpec, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform weights and biases as torch.nn.Linear draws them."""
    made = {}
    for name in spec.tensors:
        bound = spec.shape(name.replace("bias", "weight"))[1] ** -0.5
        made[name] = (torch.rand(spec.shape(name), generator=generator) * 2 - 1) * bound
    return made


def test_untrained_networks_have_no_reduction_beyond_the_null(generator: torch.Generator) -> None:
    spec = mlp(128)
    a, b = initial(spec, generator), initial(spec, generator)
    found = match(a, b, spec)
    assert found.reduction > 0.05
    for name in nulls:
        null = null_reduction(a, b, spec, draws=2, null=name)
        assert abs(null.corrected(found)) < 0.01 and 0 < null.std < 0.01 and len(null.reductions) == 2


def test_an_orbit_has_nearly_all_of_it(generator: torch.Generator) -> None:
    spec = mlp(32)
    a = initial(spec, generator)
    found = match(a, act(spec.random(generator), a), spec)
    null = null_reduction(a, a, spec, draws=1)
    assert null.std == 0 and null.corrected(found) == pytest.approx(1 - null.mean, abs=1e-5)


@pytest.mark.parametrize("spec", [chain(), residual(), attention()])
def test_each_null_keeps_what_it_says(spec: SymmetrySpec, generator: torch.Generator) -> None:
    x = draw(spec, generator)
    for null in nulls:
        y = null_network(x, spec, nulls[null], generator)
        for name in spec.tensors:
            if name in spec.statistics:
                assert torch.equal(y[name], x[name])
                continue
            assert y[name].shape == x[name].shape and not torch.equal(y[name], x[name])
            j = producer(spec.axes(name))
            rows = [t.movedim(j, 0).flatten(1) if t.dim() > 1 else t[None] for t in (x[name], y[name])]
            if null == "rows" or (len(rows[0]) == 1 and null == "spectrum"):
                torch.testing.assert_close(*(r.sort(-1).values for r in rows))
            elif null == "spectrum":
                torch.testing.assert_close(*(torch.linalg.svdvals(r) for r in rows), rtol=1e-4, atol=1e-4)
            else:
                assert abs(float(y[name].norm() / x[name].norm()) - 1) < 0.7


def test_the_producers_axis_is_found_wherever_it_stands() -> None:
    assert producer(SymmetrySpec.parse({"w": "20 d"}, sizes={"d": 3}).axes("w")) == 1
    assert producer(SymmetrySpec.parse({"w": "m d'"}, sizes={"d": 3, "m": 2}).axes("w")) == 0
    assert producer(SymmetrySpec.parse({"w": "d' m"}, sizes={"d": 3, "m": 2}).axes("w")) == 1
    assert producer(SymmetrySpec.parse({"w": "5 d'"}, sizes={"d": 3}).axes("w")) == 0


def test_tied_tensors_stay_tied(generator: torch.Generator) -> None:
    spec = SymmetrySpec.parse({"embed": "20 d"}, sizes={"d": 6}, aliases={"head": "embed"})
    x = draw(spec, generator)
    y = null_network({**x, "head": x["embed"], "count": torch.tensor(3)}, spec, nulls["spectrum"], generator)
    assert y["head"] is y["embed"] and list(y) == ["embed", "head", "count"] and y["count"] == 3


def test_the_same_generator_gives_the_same_null(generator: torch.Generator) -> None:
    spec = chain()
    a, b = draw(spec, generator), draw(spec, generator)
    assert null_reduction(a, b, spec, draws=2) == null_reduction(a, b, spec, draws=2)
    assert Null((0.1, 0.3)).mean == pytest.approx(0.2) and Null((0.1, 0.3)).std == pytest.approx(0.2 / 2**0.5)


def test_mistakes_are_told() -> None:
    with pytest.raises(SymmetryError, match="expected at least 1 draw of random networks, found 0; 3 are usual"):
        null_reduction({}, {}, chain(), draws=0)
    with pytest.raises(UnknownNameError, match=r"no null named 'rose'; did you mean 'rows'\?"):
        null_reduction({}, {}, chain(), null="rose")
