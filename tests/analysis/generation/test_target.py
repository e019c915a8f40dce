"""Targets: the dtypes of networks, in and out of what computes in float32."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.analysis.generation.materials import material, networks, task
from weightspace.analysis.generation import Material, Target, evaluation_card, fit, generate, generators, sample
from weightspace.errors import GenerationError
from weightspace.metanets import WeightBatch
from weightspace.spec import SymmetrySpec
from weightspace.task import halves


def test_a_network_beside_says_the_dtypes_where_the_stack_is_float32() -> None:
    stacked = networks()
    like = {name: tensor[0].to(torch.bfloat16) for name, tensor in stacked.tensors.items()}
    [made] = generate(fit("mean", Material(Target.of_networks(stacked, like), stacked)))
    assert {tensor.dtype for tensor in made.state_dict().values()} == {torch.bfloat16}


def test_values_beyond_a_dtype_are_refused() -> None:
    stacked = replace(networks(), tensors={name: 1e5 + tensor for name, tensor in networks().tensors.items()})
    target = replace(Target.of_networks(stacked), dtypes={"fc2.bias": torch.float16})
    with pytest.raises(GenerationError) as raised:
        sample(fit("mean", Material(target, stacked)))
    assert str(raised.value) == "tensor 'fc2.bias' came out with values beyond float16; fit the generator on networks of a wider dtype"


def test_the_material_stays_as_it_is() -> None:
    given = material(generators["flow"], dtypes=(torch.float64,))
    before = dict(given.networks.tensors) if given.networks else {}
    fit("flow", given, steps=1)
    assert given.networks is not None and all(given.networks.tensors[name] is tensor for name, tensor in before.items())


@pytest.mark.parametrize("norms", ["generate", "fuse", "re-estimate"])
def test_running_statistics_keep_their_dtypes_under_every_policy(norms: str) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    rows = [
        "0.weight: a 3",
        "0.bias: a",
        "1.weight: a",
        "1.bias: a",
        "1.running_mean: a",
        "1.running_var: a",
        "2.weight: 2 a'",
        "2.bias: 2",
    ]
    own = SymmetrySpec.parse(dict(row.split(": ") for row in rows), sizes={"a": 4}, statistics=["1.running_mean", "1.running_var"])
    states = [{name: tensor + at / 10 for name, tensor in module.state_dict().items() if tensor.ndim} for at in range(3)]
    batch = WeightBatch.stack(states, own, module=module, dtype=torch.float64)
    given = replace(task(), module=module, batches=[(torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 2)])
    made = fit("mean", Material(Target.of_networks(batch, module.state_dict()), batch, [given]), norms=norms)
    [checkpoint] = generate(made, task=given)
    assert {tensor.dtype for name, tensor in checkpoint.state_dict().items() if "num_batches" not in name} == {torch.float64}
    assert given.evaluate(checkpoint)["loss"] > 0


def test_a_card_judges_narrow_networks() -> None:
    given = material(generators["gaussian"], dtypes=(torch.bfloat16,))
    validation, test = halves(task(1))
    card = evaluation_card(fit("gaussian", given), given, validation=validation, test=test, count=3, compared=2)
    assert card.rows[0].distance is not None and card.rows[0].distance > 0
