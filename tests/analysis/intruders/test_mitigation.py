"""What mitigation does to a model, against the formula written out, and what stands beside it as a control."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from tests.analysis.intruders.planted import decaying, drawn, spread, with_spectrum
from weightspace.analysis.intruders import intruder_dimensions, mitigate, sweep
from weightspace.analysis.intruders.directions import directions, neighbours
from weightspace.analysis.intruders.examining import Definition
from weightspace.analysis.intruders.pairing import paired
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, TaskError
from weightspace.provenance import stated

STEEP = with_spectrum(torch.cat([torch.tensor([30.0, 25.0]), 2 * 0.9 ** torch.arange(38)]), 48, 40, seed=3)  # new directions come third
BASE = {"a.weight": decaying(), "b.weight": STEEP, "b.bias": torch.ones(48), "same.weight": decaying(seed=5)}
TUNED = BASE | {
    "a.weight": BASE["a.weight"] + spread(BASE["a.weight"], 30.0) + spread(BASE["a.weight"], 20.0, seed=11),
    "b.weight": STEEP + spread(STEEP, 9.0, seed=4) + 0.01 * drawn(48, 40),
    "b.bias": torch.zeros(48),
}


def triplet(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    made: Tensor = s[rank - 1] * torch.outer(u[:, rank - 1], vh[rank - 1])
    return made


def ranks_of(found: Checkpoint) -> Any:
    return (found.recipe or {})["ranks"]


class TestFormula:
    """`W(lam) = W0 + dW + (lam - 1) s_i u_i v_i^T`."""

    @pytest.mark.parametrize("lam", [0.0, 0.3, 0.9, 2.5, -1.0])
    @pytest.mark.parametrize("which", ["top", "all"])
    def test_intruders_are_scaled_and_all_else_stays(self, which: Any, lam: float) -> None:
        found = mitigate(BASE, TUNED, lam, which)
        intruders = {one.name: [vector.rank for vector in one.intruders] for one in intruder_dimensions(BASE, TUNED).layers}
        assert intruders == {"a.weight": [1, 2], "b.weight": [3]}
        for name, ranks in intruders.items():
            scaled = ranks[:1] if which == "top" else ranks
            expected = TUNED[name].double() + (lam - 1) * sum(triplet(TUNED[name], rank) for rank in scaled)
            assert torch.allclose(found[name].double(), expected, atol=1e-4)
            assert ranks_of(found)[name] == scaled
        assert all(torch.equal(found[name], TUNED[name]) for name in ("b.bias", "same.weight"))

    def test_a_lambda_of_one_is_the_tuned_model_byte_for_byte(self) -> None:
        assert mitigate(BASE, TUNED, 1.0, "all").id == Checkpoint.of(TUNED).id

    def test_a_lambda_of_nothing_takes_the_direction_out(self) -> None:
        found = mitigate(BASE, TUNED, 0.0)["a.weight"]
        assert torch.allclose(torch.linalg.svdvals(found)[:-1], torch.linalg.svdvals(TUNED["a.weight"])[1:], atol=1e-4)

    def test_matrices_may_be_given_alone(self) -> None:
        base, tuned = BASE["a.weight"], TUNED["a.weight"]
        found = mitigate(base, tuned, 0.5)
        assert list(found) == ["matrix"] and torch.allclose(found["matrix"].double(), tuned - 0.5 * triplet(tuned, 1), atol=1e-4)

    def test_tensors_that_lie_in_out_and_kernels_are_laid_back(self) -> None:
        turned = {"a.weight": BASE["a.weight"].T.clone(), "a.bias": torch.ones(48)}
        after = turned | {"a.weight": TUNED["a.weight"].T.clone()}
        assert torch.allclose(mitigate(turned, after, 0.2)["a.weight"].T, mitigate(BASE, TUNED, 0.2)["a.weight"], atol=1e-4)
        kernels, new = {"c.weight": BASE["a.weight"].reshape(48, 10, 2, 2)}, {"c.weight": TUNED["a.weight"].reshape(48, 10, 2, 2)}
        assert torch.allclose(mitigate(kernels, new, 0.2)["c.weight"].flatten(1), mitigate(BASE, TUNED, 0.2)["a.weight"], atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_the_dtype_stays_and_values_are_rounded_once(self, dtype: torch.dtype) -> None:
        base, tuned = ({name: tensor.to(dtype) for name, tensor in one.items()} for one in (BASE, TUNED))
        found = mitigate(base, tuned, 0.0)
        exact = tuned["a.weight"].double() - triplet(tuned["a.weight"], 1)
        assert found["a.weight"].dtype == dtype
        assert (
            float((found["a.weight"].double() - exact).abs().max()) <= 1.01 * float((exact.to(dtype).double() - exact).abs().max()) + 2e-5
        )

    def test_every_name_of_a_tied_tensor_gets_the_same(self) -> None:
        shared = TUNED["a.weight"]
        base = Checkpoint.of({"a.weight": (old := BASE["a.weight"]), "z.weight": old})
        found = mitigate(base, Checkpoint.of({"a.weight": shared, "z.weight": shared}), 0.0)
        assert torch.equal(found["a.weight"], found["z.weight"]) and found.info["z.weight"].alias_of == "a.weight"
        assert not torch.equal(found["a.weight"], shared)

    def test_tensors_are_computed_when_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = mitigate(BASE, TUNED, 0.0)
        with monkeypatch.context() as patched:
            patched.setattr(torch.linalg, "svd", lambda *_, **__: pytest.fail("decomposed again"))
            assert found["a.weight"].shape == (48, 40)

    def test_inputs_stay_and_the_result_says_how_it_was_made(self, tmp_path: Path) -> None:
        base, tuned = Checkpoint.of(BASE), Checkpoint.of(TUNED)
        before = {name: tensor.clone() for name, tensor in TUNED.items()}
        found = mitigate(base, tuned, 0.5, "all")
        opened = ws.open(ws.save(found, tmp_path / "m.safetensors", stated(found.recipe or {}, found.parents)))
        assert opened.recipe == found.recipe and opened.parents == (base.id, tuned.id) and opened.id == found.id
        assert found.recipe is not None and found.recipe["kind"] == "mitigate" and found.recipe["lambda"] == 0.5
        assert all(torch.equal(TUNED[name], one) for name, one in before.items())


class TestWhich:
    """What is scaled can be chosen."""

    def test_ranks_may_be_named_and_need_not_be_intruders(self) -> None:
        assert mitigate(BASE, TUNED, 0.0, {}).id == Checkpoint.of(TUNED).id
        found = mitigate(BASE, TUNED, 0.0, {"b.weight": [12, 2]})
        assert torch.equal(found["a.weight"], TUNED["a.weight"]) and ranks_of(found) == {"b.weight": [2, 12]}
        expected = TUNED["b.weight"] - triplet(TUNED["b.weight"], 2) - triplet(TUNED["b.weight"], 12)
        assert torch.allclose(found["b.weight"].double(), expected, atol=1e-4)

    def test_guarded_leaves_flat_bands_alone(self) -> None:
        flat = torch.eye(40) * 5
        tuned = flat + 1e-2 * drawn(40, 40)
        assert ranks_of(mitigate(flat, tuned, 0.0, "guarded")) == {} != ranks_of(mitigate(flat, tuned, 0.0))

    @pytest.mark.parametrize(
        ("which", "message"),
        [
            ("first", "expected which=top, all, guarded or ranks by layer, found 'first'"),
            ({"a.weight": [0]}, r"gives layer 'a.weight' the ranks \[0\]; expected numbers from 1"),
            ({"a.weight": []}, r"gives layer 'a.weight' the ranks \[\]"),
            ({"a.weight": [41]}, "layer 'a.weight' has 40 singular vectors, asked for number 41"),
            ({"same.weight": [1]}, "nothing of layer 'same.weight' can be scaled: unchanged"),
            ({"c.weight": [1]}, "nothing of layer 'c.weight' can be scaled: no layer that the two models share"),
        ],
    )
    def test_what_cannot_be_chosen(self, which: Any, message: str) -> None:
        pairing = paired(BASE, TUNED)
        with pytest.raises(AnalysisError, match=message):
            directions(pairing, which, Definition())

    def test_other_errors(self) -> None:
        with pytest.raises(AnalysisError, match="expected a finite lambda, found nan"):
            mitigate(BASE, TUNED, float("nan"))
        with pytest.raises(AnalysisError, match="expected a control of neighbour, energy, random, found 'none'; the paper has"):
            mitigate(BASE, TUNED, 0.5, control="none")
        with pytest.raises(AnalysisError, match="a random control draws directions; pass generator="):
            mitigate(BASE, TUNED, 0.5, control="random")


class TestControls:
    """What is scaled in the intruders' place, by as much."""

    def test_a_neighbour_is_the_nearest_old_direction(self) -> None:
        layer = intruder_dimensions(BASE, TUNED).layer("b.weight")
        [intruder] = [one.rank for one in layer.intruders][:1]
        kept = [one for one in layer.vectors if one.status == "kept" and one.left >= 0.75]
        sigma = layer.vectors[intruder - 1].sigma
        nearest = min(kept, key=lambda one: max(one.sigma / sigma, sigma / one.sigma))
        assert neighbours(layer.vectors, [intruder], Definition()) == (nearest.rank,)
        found = mitigate(BASE, TUNED, 0.0, control="neighbour")
        assert ranks_of(found)["b.weight"] == [nearest.rank]
        assert torch.allclose(found["b.weight"].double(), TUNED["b.weight"] - triplet(TUNED["b.weight"], nearest.rank), atol=1e-4)

    def test_two_intruders_have_two_neighbours(self) -> None:
        vectors = intruder_dimensions(BASE, TUNED).layer("a.weight").vectors
        found = neighbours(vectors, (1, 2), Definition())
        assert len(set(found)) == 2 and not {1, 2} & set(found)

    @pytest.mark.parametrize("lam", [0.5, 1.5])
    def test_the_energy_control_takes_as_much_of_the_rest_of_the_update(self, lam: float) -> None:
        base = drawn(48, 40) * 0.3
        tuned = base + spread(base, 9.0) + 0.3 * drawn(48, 40, seed=9)
        ours, control = (mitigate(base, tuned, lam, control=one)["matrix"] for one in (None, "energy"))
        assert float((control - tuned).norm()) == pytest.approx(float((ours - tuned).norm()), rel=1e-4)
        along = triplet(tuned, 1) / triplet(tuned, 1).norm()
        assert abs(float(((control - tuned).double() * along).sum())) < 1e-4
        rest = (tuned - base).double() - ((tuned - base).double() * along).sum() * along
        cosine = float(((control - tuned).double() * rest).sum() / rest.norm() / (control - tuned).double().norm())
        assert cosine == pytest.approx(-1 if lam < 1 else 1, abs=1e-5)

    def test_it_takes_no_more_than_there_is(self) -> None:
        base = decaying()
        tuned = base + spread(base, 30.0) + 1e-3 * drawn(48, 40)
        [one] = directions(paired(base, tuned), "top", Definition(), control="energy").values()
        assert one.share(0.0) == 1 and one.norm(0.0) == pytest.approx(one.rest) and one.rest < 30

    def test_a_random_direction_has_the_norm_of_the_intruder(self, generator: torch.Generator) -> None:
        found = mitigate(BASE, TUNED, 0.5, control="random", generator=generator)
        change = found["a.weight"] - TUNED["a.weight"]
        values = torch.linalg.svdvals(change)
        assert float(values[0]) == pytest.approx(0.5 * float(triplet(TUNED["a.weight"], 1).norm()), rel=1e-3) and float(values[1]) < 1e-3


def total(state_dict: dict[str, Tensor]) -> dict[str, float]:
    return {
        "norm": float(sum(tensor.double().square().sum() for tensor in state_dict.values())),
        "first": float(state_dict["a.weight"][0, 0]),
    }


class TestSweep:
    """Rows of lambda by what is scaled."""

    def test_each_row_is_what_mitigate_gives(self, generator: torch.Generator) -> None:
        found = sweep(BASE, TUNED, [0.0, 0.5, 1.0], total, ["neighbour", "energy", "random"], generator=generator)
        assert (
            found.kinds == ["intruders", "neighbour", "energy", "random"]
            and found.quantities == ["norm", "first"]
            and len(found.rows) == 12
        )
        for row in found.rows[:9]:
            control = None if row["scaled"] == "intruders" else row["scaled"]
            model = mitigate(BASE, TUNED, row["lambda"], control=control)
            assert {name: row[name] for name in found.quantities} == pytest.approx(total(model.state_dict()))
            changed = sum(float((model[name] - TUNED[name]).double().square().sum()) for name in model) ** 0.5
            assert row["changed_norm"] == pytest.approx(changed, rel=1e-3, abs=1e-6)
        assert len({row["changed_norm"] for row in found.rows if row["lambda"] == 1}) == 1
        assert found.plot().axes[0].get_ylabel() == "norm" and len(found.plot().axes[1].lines) == 5
        assert repr(found).startswith("<Sweep of 12 rows: intruders, neighbour, energy, random")

    def test_a_lambda_of_one_is_measured_once(self) -> None:
        seen: list[float] = []
        found = sweep(BASE, TUNED, [1.0, 0.0], lambda state_dict: seen.append(0.0) or 3.5, ["neighbour"])  # type: ignore[func-returns-value]
        assert len(seen) == 3 and found.quantities == ["loss"] and {row["loss"] for row in found.rows} == {3.5}

    def test_a_task_is_measured(self) -> None:
        module = nn.Linear(40, 48)
        task = ws.Task.classification(module, drawn(20, 40), torch.arange(20))
        base = {"weight": BASE["a.weight"], "bias": torch.zeros(48)}
        found = sweep(base, base | {"weight": TUNED["a.weight"]}, [0.0, 1.0], task)
        assert found.quantities == ["loss", "accuracy"]
        assert found.rows[1]["loss"] == task.evaluate(base | {"weight": TUNED["a.weight"]})["loss"] != found.rows[0]["loss"]

    def test_what_a_control_lacks_is_noted(self) -> None:
        base = decaying()
        tuned = base + spread(base, 30.0) + 1e-3 * drawn(48, 40)
        found = sweep(base, tuned, [0.0], lambda state_dict: 0.0, ["energy", "neighbour"], k=1)
        assert found.notes == (
            "energy: 1 of 1 layers have less of the update besides their intruders than is to be taken",
            "neighbour: nothing to scale in 1 of 1 layers",
        )

    @pytest.mark.parametrize(
        ("lambdas", "evaluate", "error", "message"),
        [
            ([], total, AnalysisError, "expected lambdas to sweep, found none"),
            ([float("inf")], total, AnalysisError, r"expected finite lambdas, found \[inf\]"),
            ([0.0], lambda _: "much", TaskError, "the evaluation returned loss: str; expected a number"),
            ([0.0], lambda _: {}, TaskError, "the evaluation returned nothing; expected numbers by names"),
            ([0.0], lambda _: {"lambda": 1.0}, TaskError, "the evaluation returned lambda; expected numbers by names other than"),
        ],
    )
    def test_errors(self, lambdas: list[float], evaluate: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            sweep(BASE, TUNED, lambdas, evaluate)

    def test_without_intruders_there_is_nothing_to_sweep(self) -> None:
        tuned = BASE | {"a.weight": BASE["a.weight"] + 1e-4 * drawn(48, 40)}
        with pytest.raises(AnalysisError, match="no intruder among the first 10 vectors of 3 layers"):
            sweep(BASE, tuned, [0.0], total)
