from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace import linalg
from weightspace.analysis.spectra import DEFAULT, SpectraTable, spectra, take
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, UnknownNameError


def state(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (6, 5, 3, 3), "fc1.weight": (40, 30), "fc2.weight": (40, 30), "out.weight": (10, 40), "embed.weight": (50, 8)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | {"fc1.bias": torch.zeros(40)}


def model(**changes: Tensor) -> Checkpoint:
    return Checkpoint.of(state() | changes)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many matrices were decomposed, call by call."""
    calls: list[int] = []
    original: Callable[[Tensor], Tensor] = linalg.singular_values

    def counting(matrix: Tensor) -> Tensor:
        calls.append(len(matrix) if matrix.ndim == 3 else 1)
        return original(matrix)

    monkeypatch.setattr(linalg, "singular_values", counting)
    monkeypatch.setattr(linalg.kept, "singular_values", counting)
    return calls


def test_measures_every_layer_in_order() -> None:
    found = spectra(model())
    assert [row.layer.name for row in found.rows] == ["conv.weight", "fc1.weight", "fc2.weight", "out.weight"]
    assert found.measures == DEFAULT
    assert not found.notes
    first = found.table[0]
    assert (first["layer"], first["kind"], first["rows"], first["columns"]) == ("conv.weight", "kernel", 6, 45)
    exact = torch.linalg.svdvals(state()["fc1.weight"].double())
    assert found.row("fc1.weight").values["stable_rank"][""] == pytest.approx(float((exact**2).sum() / exact[0] ** 2))
    np.testing.assert_allclose(found.row("fc1.weight").eigenvalues, (exact**2).numpy(), rtol=1e-6)


def test_equal_tensors_are_decomposed_once(counted: list[int]) -> None:
    same = state()["fc1.weight"]
    found = spectra(Checkpoint.of({f"fc{at}.weight": same.clone() for at in range(5)}), ["stable_rank", "effective_rank", "alpha"])
    assert sum(counted) == 1
    assert len({row.values["alpha"][""] for row in found.rows}) == 1
    assert [row.layer.name for row in found.rows] == [f"fc{at}.weight" for at in range(5)]


def test_a_cache_is_used_and_filled(counted: list[int]) -> None:
    cache: dict[str, dict[str, Tensor]] = {}
    first = spectra(model(), cache=cache)  # type: ignore[arg-type]
    assert sum(counted) == 4
    again = spectra(model(), cache=cache)  # type: ignore[arg-type]
    assert sum(counted) == 4
    assert again.table == first.table
    spectra(model(), cache=cache, slices="pooled")  # type: ignore[arg-type]
    assert sum(counted) == 4 + 9


def test_a_bad_layer_is_reported_and_the_others_go_on() -> None:
    broken = state()["fc2.weight"].clone()
    broken[3, 4], broken[5, 6] = float("nan"), float("inf")
    found = spectra(model(**{"fc2.weight": broken}))
    good = spectra(model())
    assert found.notes == (
        "fc2.weight: layer 'fc2.weight' has 2 of 1,200 values that are NaN or infinite, expected finite ones; leave it out, or take an earlier checkpoint",
    )
    assert found.table[2]["alpha"] is None
    assert [row for row in found.table if row["layer"] != "fc2.weight"] == [row for row in good.table if row["layer"] != "fc2.weight"]
    assert found.summary["stable_rank"] == pytest.approx(
        np.mean([row["stable_rank"] for row in good.table if row["layer"] != "fc2.weight"])
    )


def test_a_layer_that_cannot_be_decomposed_is_reported_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Callable[[Tensor], Tensor] = linalg.singular_values

    def failing(matrix: Tensor) -> Tensor:
        if bool((matrix == 77).any()):
            raise AnalysisError("no method of LAPACK converges on it")
        return whole(matrix)

    monkeypatch.setattr(linalg.kept, "singular_values", failing)
    broken = state()["fc1.weight"]
    broken[0, 0] = 77
    table = {row["layer"]: row for row in spectra(model(**{"fc1.weight": broken}), ["stable_rank"]).table}
    assert table["fc1.weight"]["note"] == "no method of LAPACK converges on it" and table["fc1.weight"].get("stable_rank") is None
    assert table["fc2.weight"]["stable_rank"] > 1 and table["fc2.weight"]["note"] == ""


def test_a_cache_that_loses_everything_costs_nothing_but_time(tmp_path: Path) -> None:
    from weightspace.zoo.cache import TensorCache

    cache = TensorCache(tmp_path)
    first = spectra(model(), ["stable_rank"], cache=cache).table
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 4
    for path in files:
        path.write_bytes(path.read_bytes()[:-4])
    assert spectra(model(), ["stable_rank"], cache=cache).table == first


def test_a_measure_that_refuses_a_layer_is_noted() -> None:
    found = spectra(model(), ["operator_norm", "stable_rank"], settings={"operator_norm": {"image": (8, 8, 8)}})
    assert found.notes[0].startswith("conv.weight: operator_norm: an image of shape [8, 8, 8] does not fit")
    assert found.table[0]["stable_rank"] > 0
    assert found.table[0]["operator_norm"] is None
    assert found.table[1]["operator_norm"] > 0


def test_layers_are_chosen_by_patterns_and_embeddings_by_name() -> None:
    assert [row.layer.name for row in spectra(model(), layers=["fc*", "out*"]).rows] == ["fc1.weight", "fc2.weight", "out.weight"]
    assert len(spectra(model(), layers=["*"]).rows) == 4
    assert len(spectra(model(), layers=["*"], embeddings=True).rows) == 5
    assert spectra(model(), layers=["embed.weight"]).rows[0].layer.kind == "embedding"


def test_chance_depends_on_the_generator_and_the_content_alone(generator: torch.Generator) -> None:
    names = ["traps", "rand_distance", "alpha_interval"]
    settings = {"alpha_interval": {"bootstrap": 5}}
    seeded = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    whole = spectra(model(), names, settings=settings, generator=seeded[0])
    part = spectra(model(), names, ["fc2*"], settings=settings, generator=seeded[1])
    other = spectra(model(), names, ["fc2*"], settings=settings, generator=seeded[2])
    assert part.table == [whole.table[2]]
    assert part.table != other.table
    with pytest.raises(AnalysisError, match="measure 'alpha_interval' draws numbers, expected a generator and found none; give one"):
        spectra(model(), names)


def test_measures_that_shuffle_share_one_decomposition(counted: list[int], generator: torch.Generator) -> None:
    spectra(model(), ["traps", "rand_distance"], ["fc1*"], generator=generator)
    assert sum(counted) == 2


def test_take_says_the_same_by_tensor_measure_and_key() -> None:
    found = take(model(), ["fc2.weight", "conv.weight"], ["alpha", "traps"], seed=3)
    table = spectra(model(), ["alpha", "traps"], generator=torch.Generator().manual_seed(3))
    assert list(found) == ["fc2.weight", "conv.weight"]
    assert found["fc2.weight"] == dict(table.row("fc2.weight").values)
    bad = take(model(**{"fc2.weight": torch.full((40, 30), float("nan"))}), ["fc2.weight"], ["alpha"])
    assert bad == {"fc2.weight": {"alpha": {"": None}}}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"measures": ["alpa"]}, UnknownNameError, "no measure named 'alpa'; did you mean 'alpha'"),
        ({"measures": ["lipschitz"]}, AnalysisError, "measure 'lipschitz' is of a model, expected one of a matrix; choose among"),
        ({"settings": {"alpha": {"xmin": 3}}}, UnknownNameError, "no setting of measure 'alpha' named 'xmin'"),
        ({"layers": ["encoder*"]}, AnalysisError, "the checkpoint has no layer that fits 'encoder"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        spectra(model(), **options)  # type: ignore[arg-type]


def test_a_checkpoint_without_matrices_is_refused() -> None:
    with pytest.raises(AnalysisError, match="the checkpoint has no layer; it has no weight with two axes"):
        spectra(Checkpoint.of({"bias": torch.ones(3)}))
    with pytest.raises(UnknownNameError, match=r"no layer named 'fc9.weight'"):
        take(model(), ["fc9.weight"], ["alpha"])


def test_keys_become_columns_and_what_is_not_finite_nothing() -> None:
    found = spectra(Checkpoint.of({"a.weight": torch.zeros(4, 4), "b.weight": torch.eye(4)}), ["alpha", "condition_number"])
    assert found.columns == ("alpha", "alpha.n", "alpha.xmin", "alpha.D", "alpha.sigma", "condition_number", "condition_number.nonzero")
    assert found.table[0]["condition_number"] is None
    assert found.summary["condition_number"] == 1
    assert np.isnan(found.summary["alpha"])


def test_pictures_have_a_panel_a_value_and_a_panel_a_layer(tmp_path: Path, generator: torch.Generator) -> None:
    bad = model(**{"fc2.weight": torch.full((40, 30), float("nan")), "out.weight": torch.zeros(10, 40)})
    found: SpectraTable = spectra(
        bad, ["alpha", "alpha_interval", "stable_rank"], settings={"alpha_interval": {"bootstrap": 5}}, generator=generator
    )
    figure = found.plot()
    assert [axes.get_xlabel() for axes in figure.axes] == ["alpha", "stable_rank"]
    figure.savefig(tmp_path / "bars.png")
    chosen = found.plot(["alpha.D"])
    assert [axes.get_xlabel() for axes in chosen.axes] == ["alpha.D"]
    with pytest.raises(UnknownNameError, match=r"no value named 'alpha.d'; did you mean"):
        found.plot(["alpha.d"])
    tails = found.plot_tails()
    assert len(tails.axes) == 3
    assert "all zero" in [text.get_text() for text in tails.axes[2].texts]
    tails.savefig(tmp_path / "tails.png")
    with pytest.raises(AnalysisError, match="no layer has eigenvalues to draw"):
        found.plot_tails(["fc2.weight"])


def test_real_networks_agree_with_their_own_decomposition(real_checkpoints: Path) -> None:
    found = spectra(ws.open(real_checkpoints / "akamaster" / "resnet20_cifar10.th"), ["spectral_norm", "nuclear_norm", "alpha"])
    assert len(found.rows) == 20
    opened = ws.open(real_checkpoints / "akamaster" / "resnet20_cifar10.th")
    for row in found.rows:
        exact = torch.linalg.svdvals(opened[row.layer.name].flatten(1).double())
        assert row.values["spectral_norm"][""] == pytest.approx(float(exact[0]), rel=1e-10)
        assert row.values["nuclear_norm"][""] == pytest.approx(float(exact.sum()), rel=1e-6)
