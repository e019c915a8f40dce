"""Flow matching on weights whose density is known."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.generation import Material, Target, Wish, fit, load_generator, sample, save_generator
from weightspace.analysis.generation.generators.flow import Flow
from weightspace.errors import GenerationError
from weightspace.metanets import WeightBatch
from weightspace.spec import SymmetrySpec

SPEC = SymmetrySpec.parse({"weight": "2 2"})
SMALL: dict[str, Any] = {"hidden": 32, "blocks": 2, "steps": 400, "batch_size": 64, "learning_rate": 5e-3}


def material(rows: Tensor, conditions: Tensor | None = None) -> Material:
    networks = WeightBatch.stack([{"weight": row.view(2, 2)} for row in rows], SPEC)
    return Material(Target.of_networks(networks), networks, conditions=conditions)


def two_clouds() -> tuple[Tensor, Tensor]:
    """Networks around two places, and which of them."""
    side = (torch.arange(100) % 2 * 2 - 1).float()
    around = 0.1 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    return side[:, None] * torch.tensor([3.0, -1.0, 2.0, 5.0]) + around, side[:, None]


def test_two_clouds_are_drawn_and_not_their_mean() -> None:
    rows, _ = two_clouds()
    made = sample(fit("flow", material(rows), **SMALL), 200)["weight"].flatten(1)
    first, second = rows[::2].mean(0), rows[1::2].mean(0)
    nearest = torch.minimum((made - first).norm(dim=1), (made - second).norm(dim=1))
    assert (nearest < 1).float().mean() > 0.9  # their mean lies 6.2 from both
    assert 0.3 < ((made - first).norm(dim=1) < 1).float().mean() < 0.7


def test_a_condition_chooses_the_cloud() -> None:
    rows, side = two_clouds()
    fitted = fit("flow", material(rows, side), **SMALL)
    for wanted, cloud in ((-1.0, rows[::2]), (1.0, rows[1::2])):
        made = sample(fitted, 50, Wish(torch.tensor([wanted])))["weight"].flatten(1)
        assert ((made - cloud.mean(0)).norm(dim=1) < 1).float().mean() > 0.9


class Exact(nn.Module):
    """Where lines to a normal distribution of mean 0 end in the mean, from a place on them: regression of one normal on the other."""

    def __init__(self, source: float, deviation: float) -> None:
        super().__init__()
        self.source, self.deviation = source, deviation

    def forward(self, place: Tensor, time: Tensor, asked: Tensor) -> Tensor:
        variance = (1 - time) ** 2 * self.source**2 + time**2 * self.deviation**2
        return time * self.deviation**2 / variance * place


@pytest.mark.parametrize(("solver", "tolerance"), [("euler", 0.25), ("heun", 0.02)])
def test_solvers_follow_the_exact_flow(solver: str, tolerance: float) -> None:
    """The flow from N(0, a^2) to N(0, b^2) multiplies by b / a, so what is drawn is the noise times b / a."""
    target = material(torch.zeros(2, 4)).target
    flow = Flow(target, source=2.0, solver=solver, solver_steps=40)
    flow.field = Exact(2.0, 0.5)
    made = flow.sample(300, Wish(), generator=torch.Generator().manual_seed(0))["weight"].flatten(1)
    noise = 2 * torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    assert (made - noise * 0.25).abs().max() < tolerance


def test_more_steps_of_euler_come_nearer() -> None:
    target = material(torch.zeros(2, 4)).target

    def error(steps: int) -> float:
        flow = Flow(target, solver="euler", solver_steps=steps)
        flow.field = Exact(1.0, 0.5)
        made = flow.sample(300, Wish(), generator=torch.Generator().manual_seed(0))["weight"].flatten(1)
        return float((made - 0.5 * torch.randn(300, 4, generator=torch.Generator().manual_seed(0))).abs().mean())

    assert error(40) < 0.6 * error(20) < 0.4 * error(10)


def test_the_field_learns_where_lines_end() -> None:
    """At time 0 the best guess is the mean of all networks; near time 1 it is where one is."""
    rows, _ = two_clouds()
    fitted = fit("flow", material(rows), **SMALL)
    assert isinstance(fitted, Flow)
    ends = fitted.standard.shrink(rows)
    noise = torch.randn(100, 4, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        at_start = fitted.field(noise, torch.zeros(100, 1), torch.zeros(100, 0))
        near_end = fitted.field(0.95 * ends + 0.05 * noise, torch.full((100, 1), 0.95), torch.zeros(100, 0))
    assert at_start.square().mean() < 0.1
    assert (near_end - ends).square().mean() < 0.05 < 0.5 < at_start.sub(ends).square().mean()


def test_components_keep_networks_where_they_lie(tmp_path: Path) -> None:
    rows, _ = two_clouds()
    line = rows.mean(0) + (rows[:, :1] - rows[:, :1].mean()) * torch.tensor([1.0, 2.0, 0.0, -1.0])
    fitted = fit("flow", material(line), components=1, **SMALL)
    made = sample(fitted, 30)["weight"].flatten(1)
    across = torch.tensor([[2.0, -1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]])
    torch.testing.assert_close((made - line.mean(0)) @ across.T, torch.zeros(30, 3), rtol=0, atol=1e-4)
    loaded = load_generator(save_generator(fitted, tmp_path / "flow.safetensors"))
    assert torch.equal(sample(loaded, 30)["weight"].flatten(1), made)


def test_temperature_0_draws_one_network() -> None:
    rows, _ = two_clouds()
    made = sample(fit("flow", material(rows), **{**SMALL, "steps": 20}, temperature=0.0), 5)["weight"]
    assert made.std(0).max() == 0


def test_networks_that_do_not_vary_come_back() -> None:
    rows = torch.arange(4.0).expand(3, 4)
    assert torch.equal(sample(fit("flow", material(rows), **{**SMALL, "steps": 3}), 2)["weight"].flatten(1), rows[:2])


def test_settings_that_cannot_be_used_are_told() -> None:
    rows, _ = two_clouds()
    with pytest.raises(GenerationError, match="generator 'flow' has no solver 'midpoint'; expected euler or heun"):
        fit("flow", material(rows), solver="midpoint")
    with pytest.raises(GenerationError, match="setting 'solver_steps' of generator 'flow' is 0; expected a whole number from 1 to 10,000"):
        fit("flow", material(rows), solver_steps=0)
    with pytest.raises(GenerationError, match="3 components were asked for of 2 networks; ask for at most as many"):
        fit("flow", material(rows[:2]), components=3)
    with pytest.raises(GenerationError, match="lower the learning rate"):
        fit("flow", material(rows), **{**SMALL, "learning_rate": 1e30})
    assert math.isfinite(float(sample(fit("flow", material(rows), **{**SMALL, "steps": 0}), 1)["weight"].sum()))
