from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from weightspace.cli.layers import collapsed, single
from weightspace.cli.pictures import bar, blocks


def row(name: str, values: npt.NDArray[Any], alias_of: str | None = None) -> dict[str, object]:
    finite = values[np.isfinite(values)]
    return {
        "name": name, "shape": list(values.shape), "dtype": "F32", "alias_of": alias_of, "numel": values.size,
        "num_zero": int((values == 0).sum()), "num_nan": int(np.isnan(values).sum()), "num_inf": int(np.isinf(values).sum()),
        "mean": float(finite.mean()), "std": float(finite.std()), "l2": float(np.linalg.norm(finite)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["a.0.w", "a.1.w", "a.2.w"], ["a.{0..2}.w"]),
        (["0.weight", "2.weight", "4.weight"], ["{0,2,4}.weight"]),
        (["a.0.b.0", "a.0.b.1", "a.1.b.0", "a.1.b.1"], ["a.{0..1}.b.{0..1}"]),
        (["block/7/w", "block/8/w"], ["block/{7..8}/w"]),
        (["layer1.w", "layer2.w"], ["layer1.w", "layer2.w"]),  # a digit that is part of a word is not an index
        (["a.3.w", "b.3.w"], ["a.3.w", "b.3.w"]),
        ([f"h.{n}.w" for n in (0, 3, 6, 9, 12, 15, 18)], ["h.{0,3,6,9,…,18}.w"]),
    ],
)
def test_names_that_differ_in_numbers_share_a_row(names: list[str], patterns: list[str]) -> None:
    assert [layer.name for layer in collapsed(row(name, np.ones(2)) for name in names)] == patterns


def test_tensors_of_another_shape_stay_apart() -> None:
    layers = collapsed([row("a.0.w", np.ones(2)), row("a.1.w", np.ones(3)), row("a.2.w", np.ones(2))])
    assert [layer.name for layer in layers] == ["a.{0,2}.w", "a.1.w"]


def test_statistics_of_a_row_are_those_of_all_its_elements() -> None:
    draw = np.random.default_rng(0)
    parts = [draw.normal(loc=at, size=50) for at in range(3)]
    parts[1][:5] = 0
    parts[2][0] = np.nan
    [layer] = collapsed(row(f"a.{at}", part) for at, part in enumerate(parts))
    together = np.concatenate(parts)
    finite = together[np.isfinite(together)]
    assert layer.mean == pytest.approx(finite.mean())
    assert layer.std == pytest.approx(finite.std())
    assert layer.l2 == pytest.approx(np.linalg.norm(finite))
    assert layer.zero_share == pytest.approx(5 / 150)
    assert (layer.numel, layer.num_not_finite) == (150, 1)


def test_tied_tensors_count_once() -> None:
    layers = single([row("a", np.ones(4)), row("b", np.ones(4), alias_of="a")])
    assert [layer.numel for layer in layers] == [4, 0]


def test_pictures_are_of_their_width_and_hide_nothing() -> None:
    assert [len(bar(share, 8)) for share in (0, 1e-9, 0.3, 1, 1.5)] == [8] * 5
    assert bar(1e-9).strip() and not bar(0).strip()
    assert bar(1) == "█" * 8
    assert blocks([0, 1, 10_000]) == " ▁█"
    assert blocks([]) == ""
