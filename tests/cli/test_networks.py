"""Networks of a query: each with the symmetries and the module that are its own."""

from pathlib import Path

import pytest
import torch

from weightspace.cli.left_out import LeftOut
from weightspace.cli.networks import Network, networks_of, sound_weights, specs_for, weights_of
from weightspace.metanets.running import run
from weightspace.modules import module_for
from weightspace.zoo.populations.filling import fill
from weightspace.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Network]:
    """Perceptrons of one shape whose activations differ: equal names and shapes, other functions."""
    zoo = Zoo(tmp_path_factory.mktemp("mixed"))
    fill(zoo, "mlps", count=12, data="digits", widths=(4,), depths=(1,), activations=("relu", "tanh", "gelu"), steps=(0,), jobs=1)
    return networks_of(zoo, None, LeftOut(), needs_module=True)


def test_networks_of_one_shape_keep_their_own_activation(mixed: list[Network]) -> None:
    symmetries = {"ReLU": "scale", "Tanh": "sign", "GELU": "none"}
    found = set()
    for one in mixed:
        [name] = [name for name in symmetries if name in str(module_for(one.checkpoint, load=False))]
        assert name in str(one.module) and one.spec.groups["fc1"].symmetry == symmetries[name]
        found.add(name)
    assert found == set(symmetries) and len({one.checkpoint.architecture_id for one in mixed}) == 1
    assert len({id(one.module) for one in mixed}) == 3  # so that they are run together


def test_each_is_run_as_itself(mixed: list[Network]) -> None:
    inputs = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    weights = weights_of(mixed)
    made = weights.gather([run(batch, inputs) for batch in weights.batches])
    with torch.no_grad():
        expected = torch.stack([module_for(one.checkpoint)(inputs) for one in mixed])
    torch.testing.assert_close(made, expected)


def test_a_family_of_one_architecture_takes_activations_for_no_difference(mixed: list[Network]) -> None:
    assert len(specs_for(mixed, "gmn")) == 3 and len(specs_for(mixed, "statistics")) == 1
    assert specs_for([mixed[0]], "statistics") == [mixed[0].spec]


def test_what_cannot_be_read_is_told_and_the_others_are_there(mixed: list[Network], tmp_path: Path) -> None:
    gone = Network(mixed[0].row | {"name": "gone"}, mixed[0].checkpoint, mixed[1].spec.with_groups(fc1={"size": 5}), mixed[0].module)
    left_out = LeftOut()
    kept, weights = sound_weights([mixed[1], gone, mixed[2]], left_out)
    assert kept == [mixed[1], mixed[2]] and weights is not None and len(weights) == 2 and list(left_out.reasons) == ["gone"]
    assert sound_weights([gone], LeftOut()) == ([], None)
