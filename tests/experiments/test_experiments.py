"""What the tables rest on: networks run side by side are the networks, what a GPT may be turned by, intervals are right."""

from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.experiments.data import Examples
from weightspace.experiments.gpt import GPT, WINDOW, encode, windows
from weightspace.experiments.networks import ARCHITECTURES, CLASSES, run_stacked
from weightspace.experiments.tables import Estimate, report
from weightspace.experiments.train import train
from weightspace.symmetry import act

INPUTS = {"mnist1d": 40, "mnist": 28 * 28}


def inputs_of(name: str) -> int:
    return INPUTS[name.partition("-")[0]]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_run_side_by_side_are_the_networks_one_by_one(name: str, generator: torch.Generator) -> None:
    modules = [ARCHITECTURES[name](4).train() for _ in range(3)]
    weights = {part: torch.stack([module.state_dict()[part] for module in modules]) for part in modules[0].state_dict()}
    inputs = torch.randn(3, 16, inputs_of(name), generator=generator)
    logits = run_stacked(modules[0], weights, inputs)
    torch.testing.assert_close(logits, torch.stack([module(own) for module, own in zip(modules, inputs, strict=True)]))
    for part in (part for part, _ in modules[0].named_buffers() if "running" in part):
        torch.testing.assert_close(weights[part], torch.stack([module.state_dict()[part] for module in modules]))


@pytest.mark.slow
def test_the_stream_and_the_heads_of_the_gpt_may_be_turned(generator: torch.Generator) -> None:
    module = GPT(11, 16, 1, 4).eval()
    tokens = torch.randint(11, (3, WINDOW), generator=generator)
    spec = ws.trace(module, tokens)
    kinds = sorted(group.symmetry for group in spec.movable)
    assert kinds == ["linear"] * 2 + ["none"] * 2 + ["orthogonal"]
    weights = {name: tensor.double() for name, tensor in module.state_dict().items()}
    moved = dict(act(spec.random(generator), weights))
    assert not torch.allclose(moved["head.weight"], weights["head.weight"])
    before, after = (torch.func.functional_call(module.double(), state, (tokens,)) for state in (weights, moved))
    torch.testing.assert_close(before, after)


def test_training_learns_and_a_network_does_not_depend_on_those_beside_it(generator: torch.Generator) -> None:
    classes = torch.randint(CLASSES, (512,), generator=generator)
    inputs = 3 * torch.nn.functional.one_hot(classes, 40) + torch.randn(512, 40, generator=generator)
    examples = Examples(inputs, classes, inputs, classes)
    first, second = train(ARCHITECTURES["mnist1d-mlp"], 64, examples, [0, 1], 150)
    alone = train(ARCHITECTURES["mnist1d-mlp"], 64, examples, [1], 150)[0]
    for name, tensor in second.items():
        torch.testing.assert_close(alone[name], tensor, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(first["head.weight"], second["head.weight"])
    logits = torch.func.functional_call(ARCHITECTURES["mnist1d-mlp"](64), first, (inputs,))
    assert (logits.argmax(1) == classes).float().mean() > 0.6


def test_an_interval_is_that_of_student() -> None:
    found = Estimate.of([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert str(Estimate.of([1.0])) == "1.000"


def test_a_report_is_written_as_markdown_and_csv(tmp_path: Path) -> None:
    report([{"width": 4, "loss": Estimate(0.5, 0.25)}], "table", tmp_path)
    assert (tmp_path / "table.md").read_text() == "| width | loss |\n| --- | --- |\n| 4 | 0.500 ± 0.250 |\n"
    assert (tmp_path / "table.csv").read_text() == "width,loss,loss ±\n4,0.5,0.25\n"


def test_windows_of_text_hold_the_character_that_follows() -> None:
    text, count = encode("ab" * 100)
    assert count == 3
    assert windows(text, torch.tensor([1])).tolist() == [[1, 0] * (WINDOW // 2) + [1]]
