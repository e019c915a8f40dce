"""The report of the experiment on reassembly, and its networks."""

import pytest
import torch

from weightspace.analysis.stitching import Chain
from weightspace.experiments import reassembly


@pytest.mark.parametrize("one", [("mlp", 8, 3), ("cnn", 8, 4)])
def test_networks_run_on_signals(one: tuple[str, int, int]) -> None:
    assert reassembly.build(*one)(torch.zeros(3, 40)).shape == (3, 10)


def test_new_weights_are_drawn_as_torch_draws_them() -> None:
    chain = Chain.of_blocks({"a": torch.nn.Linear(100, 50), "b": torch.nn.Linear(50, 3)}, torch.zeros(2, 100))
    made, again, other = (reassembly.initialised(chain, seed) for seed in (1, 1, 2))
    weight = made.parts[0].weight.detach()
    assert 0.095 < float(weight.abs().max()) <= 0.1001 and float(made.parts[0].bias.detach().abs().max()) <= 0.1001
    assert torch.equal(weight, again.parts[0].weight) and not torch.equal(weight, other.parts[0].weight)
    assert not torch.equal(weight, next(chain.parameters()))


def test_the_report_pairs_with_the_best_single_and_leaves_out_seeds_that_are_not_done() -> None:
    rows = []
    for seed, gain in ((0, 0.1), (1, 0.2)):
        for share in reassembly.BUDGETS:
            here = {"seed": seed, "share": share, "budget": 200}
            rows.append(here | {"arm": reassembly.TUNED, "accuracy": 0.5 + gain, "flops": 100, "zero-shot": 0.4})
            rows.append(here | {"arm": "reassembled", "accuracy": 0.5 + 2 * gain, "flops": 200, "zero-shot": 0.2})
    rows.append({"seed": 2, "share": 0.25, "budget": 200, "arm": reassembly.TUNED, "accuracy": 0.9, "flops": 100})
    lines = list(reassembly.report(rows))
    assert "2 zoos" in lines[0]
    row = next(line for line in lines[1].splitlines() if line.startswith("| reassembled "))
    assert [cell.split()[0] for cell in row.split("|")[2:-1]] == ["0.800"] * 3 + ["0.150"] * 3 + ["0.200", "1.000"]
