"""Models that stand out in a family by catalogued statistics, and families in which none does."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from weightspace.analysis.outliers import LEAST_MODELS, Outliers, outliers
from weightspace.cli.statistics import statistics_of
from weightspace.errors import AnalysisError
from weightspace.zoo import Zoo
from weightspace.zoo.populations.digits import digits_cnn

State = dict[str, Tensor]
Stored = dict[str, dict[str, dict[str, float | int | None]]]


@pytest.fixture(scope="module")
def catalogued(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Statistics that a catalog keeps of twelve healthy networks that were trained alike."""
    zoo = Zoo(tmp_path_factory.mktemp("family"))
    zoo.add_many(list(digits_cnn(widths=(8,), learning_rates=(0.05,), repeats=12, steps=(60,))))
    return statistics_of(zoo)


def family(count: int = 12, layers: int = 3) -> dict[str, State]:
    made = {}
    for at in range(count):
        draw = torch.Generator().manual_seed(at)
        made[f"m{at}"] = {f"fc{layer}.weight": torch.randn(24, 16, generator=draw) for layer in range(layers)}
    return made


def statistics(models: dict[str, State]) -> Stored:
    made: Stored = {}
    for name, state in models.items():
        made[name] = {}
        for key, tensor in state.items():
            wide = tensor.double()
            std = wide.std(correction=0).item()
            made[name][key] = {
                "numel": tensor.numel(), "num_zero": int((tensor == 0).sum()), "mean": wide.mean().item(), "std": std,
                "l2": wide.norm().item(), "minimum": wide.min().item(), "maximum": wide.max().item(),
                "kurtosis": ((wide - wide.mean()) ** 4).mean().item() / std**4 if std else None,
            }  # fmt: skip
    return made


def only(found: list[Outliers]) -> Outliers:
    [one] = found
    return one


def test_no_network_of_a_healthy_population_stands_out(catalogued: Stored) -> None:
    found = only(outliers(catalogued))
    assert len(found.models) == 12 and found.found == () and found.table == []


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "tripled": (lambda tensor: 3 * tensor, "norm"),
    "shifted": (lambda tensor: tensor + 1, "mean in deviations"),
    "pruned": (lambda tensor: tensor * (tensor.abs() > 0.5), "share of zeros"),
    "one large": (lambda tensor: tensor.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(40.0)), "kurtosis"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_stands_out_with_the_reason(change: str) -> None:
    models = family()
    edit, statistic = CHANGES[change]
    models["m5"]["fc1.weight"] = edit(models["m5"]["fc1.weight"])
    found = only(outliers(statistics(models)))
    [outlier] = found.found
    assert outlier.model == "m5" and {one.layer for one in outlier.deviations} == {"fc1.weight"}
    assert statistic in {one.statistic for one in outlier.deviations}
    [row] = found.table
    assert row["layers"] == 1 and row["of_layers"] == 3 and row["reason"] == row["reasons"][0] == outlier.deviations[0].text
    assert found.scores[5, 1] == pytest.approx(outlier.score)


def test_what_is_usual_is_the_median_of_the_family() -> None:
    models = family()
    models["m0"]["fc0.weight"] *= 10
    norms = sorted(state["fc0.weight"].norm().item() for state in models.values())
    [outlier] = only(outliers(statistics(models))).found
    told = next(one for one in outlier.deviations if one.statistic == "norm")
    assert told.usual == pytest.approx(math.sqrt(norms[5] * norms[6]), rel=1e-6)
    assert told.text.startswith("norm of fc0.weight is ") and f"usually {told.usual:.3g}" in told.text


def test_architectures_are_families_of_their_own() -> None:
    deep = {f"deep {name}": state for name, state in family(7, layers=4).items()}
    alone = {"alone": {"w": torch.ones(3, 3)}}
    found = outliers(statistics({**deep, **family(), **alone}))
    assert [len(one.models) for one in found] == [12, 7]


def test_unknown_and_constant_statistics_are_no_outliers() -> None:
    models = family()
    for state in models.values():
        state["bn.weight"] = torch.ones(24)
    known = statistics(models)
    known["m3"]["fc0.weight"] = {"numel": known["m3"]["fc0.weight"]["numel"]}
    found = only(outliers(known))
    assert found.found == () and math.isnan(found.scores[3, 0])


def test_a_family_is_not_made_of_a_few() -> None:
    with pytest.raises(AnalysisError, match=f"need {LEAST_MODELS} models of one architecture or more, found at most 4"):
        outliers(statistics(family(4)))


def test_the_picture_has_a_row_a_model(tmp_path: Path) -> None:
    models = family()
    models["m7"]["fc2.weight"] *= 5
    figure = only(outliers(statistics(models))).plot()
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "1 of 12 models stands out"
    assert axes.get_yticklabels()[0].get_text() == "m7"
