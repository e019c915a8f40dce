"""What counts as an intruder: against the definition written out, and where the definition misleads."""

import pydoc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.analysis.intruders.planted import adapter, counted, decaying, drawn, orthonormal, rank_one, with_spectrum
from weightspace.adapters import LowRank
from weightspace.analysis.intruders import Intruders, LayerIntruders, intruder_dimensions
from weightspace.analysis.intruders.null import random_matrix, random_update, turned_update, update_rank, update_values
from weightspace.analysis.measure import measures
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, MergeError, UnknownNameError
from weightspace.linalg import Cache, Singular


def only(found: Intruders) -> LayerIntruders:
    [layer] = found.layers
    return layer


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("rows", "columns"), [(40, 40), (60, 32), (32, 60), (1, 9), (9, 1)])
def test_counts_are_those_of_the_definition(rows: int, columns: int, side: str) -> None:
    for seed in range(6):
        base = drawn(rows, columns, seed=seed)
        tuned = base + [0.05, 0.3, 1.0][seed % 3] * drawn(rows, 3, seed=seed + 9) @ drawn(3, columns, seed=seed + 5)
        for k, epsilon in ((10, 0.5), (1, 0.5), (100, 0.3), (5, 0.9)):
            found = intruder_dimensions(base, tuned, k, epsilon, side)
            assert found.count == counted(base, tuned, k, epsilon, side)
            assert (found.left, found.right) == (counted(base, tuned, k, epsilon), counted(base, tuned, k, epsilon, "right"))


def test_a_new_direction_is_found_and_a_larger_old_one_is_not() -> None:
    base = decaying()
    found = only(intruder_dimensions(base, base + rank_one((48, 40), 30.0)))
    assert [(one.rank, one.status) for one in found.intruders] == [(1, "intruder")]
    assert found.vectors[0].sigma == pytest.approx(30, rel=0.1) and found.vectors[0].left < 0.5 and found.vectors[0].band == 0
    assert found.similarity.shape == (10, 40) and torch.allclose(
        found.similarity.amax(1), torch.tensor([one.left for one in found.vectors]), atol=1e-5
    )
    assert found.update_norm == pytest.approx(30, rel=1e-4) and found.base_norm == pytest.approx(float(base.norm()), rel=1e-4)
    u, _, vh = torch.linalg.svd(base)
    assert intruder_dimensions(base, base + 30 * torch.outer(u[:, 20], vh[20])).count == 0


def test_left_vectors_are_of_the_outputs_whichever_way_a_tensor_lies() -> None:
    base, update = decaying(64, 32), torch.zeros(64, 32)
    update[:, 3] = 30 * drawn(64) / drawn(64).norm()  # a new direction of the outputs, from one input
    bias = torch.ones(64)
    plain = intruder_dimensions({"fc.weight": base, "fc.bias": bias}, {"fc.weight": base + update, "fc.bias": bias})
    turned = intruder_dimensions({"fc.weight": base.T.clone(), "fc.bias": bias}, {"fc.weight": (base + update).T.clone(), "fc.bias": bias})
    assert plain.values == turned.values and (only(turned).rows, only(turned).columns) == (64, 32)
    assert [one.left for one in only(plain).vectors] == pytest.approx([one.left for one in only(turned).vectors], abs=1e-4)


def test_counts_do_not_depend_on_the_order_of_neurons_or_on_the_scale() -> None:
    base, tuned = decaying(), decaying() + rank_one((48, 40), 6.0) + 0.05 * drawn(48, 40)
    rows, columns = (torch.randperm(size, generator=torch.Generator().manual_seed(size)) for size in (48, 40))
    expected = intruder_dimensions(base, tuned, epsilon=0.8)
    assert 0 < expected.count < 10
    for moved in ((base[rows][:, columns], tuned[rows][:, columns]), (1e-4 * base, 1e-4 * tuned), (-base, -tuned)):
        found = intruder_dimensions(*moved, epsilon=0.8)
        assert found.values == expected.values
        assert [row["energy"] for row in found.vectors] == pytest.approx([row["energy"] for row in expected.vectors], abs=1e-3)


def test_kernels_are_laid_out_as_outputs_by_the_rest() -> None:
    base, update = drawn(16, 8, 3, 3), rank_one((16, 72), 60.0).reshape(16, 8, 3, 3)
    found = intruder_dimensions({"conv.weight": base}, {"conv.weight": base + update})
    assert found.count == counted(base.flatten(1), (base + update).flatten(1)) == 1


class TestFlatBands:
    """A rotation among vectors of nearly one singular value makes vectors that are like no single one, and means nothing."""

    def test_noise_in_a_flat_bulk_counts_by_the_definition_and_not_by_the_guard(self) -> None:
        values = torch.cat([5 + 1e-5 * torch.arange(40), torch.linspace(3, 0.1, 60)])
        base = with_spectrum(values, 100, 100)
        found = only(intruder_dimensions(base, base + 1e-3 * drawn(100, 100)))
        assert found.count >= 8 and found.guarded == 0
        assert all(one.status == "degenerate" and one.energy > 0.99 and one.band == 40 for one in found.intruders)

    def test_a_rotation_of_an_orthogonal_base_is_all_band(self) -> None:
        base = orthonormal(64, 64).float()
        found = intruder_dimensions(base, base + 1e-4 * drawn(64, 64))
        assert found.count == 10 and found.guarded == 0

    def test_a_new_direction_above_a_flat_bulk_stays_an_intruder(self) -> None:
        base = orthonormal(64, 64).float()
        found = only(intruder_dimensions(base, base + rank_one((64, 64), 8.0)))
        assert found.vectors[0].status == "intruder" and found.guarded == 1

    def test_a_new_direction_inside_a_narrow_band_stays_an_intruder(self) -> None:
        # sigma is that of five base vectors; a random direction of 200 has nothing to do with them
        base = with_spectrum(torch.cat([torch.tensor([6.0, 6.05, 5.95, 6.02, 5.98]), torch.linspace(2, 0.1, 100)]), 200, 180)
        update = rank_one((200, 180), 6.0)
        found = only(intruder_dimensions(base, base + update, gap=0.1))
        # and mixes with them: the definition sees two new vectors, where one was added
        assert found.guarded == 1 and found.count == counted(base, base + update) == 2

    def test_without_a_gap_nothing_is_explained(self) -> None:
        base = orthonormal(64, 64).float()
        found = intruder_dimensions(base, base + 1e-2 * drawn(64, 64), gap=0.0)
        assert found.guarded == found.count > 0


class TestNull:
    """What random updates of the same norm and rank give."""

    def test_a_random_update_is_no_rarer_than_others(self, generator: torch.Generator) -> None:
        base = decaying()
        found = intruder_dimensions(base, base + random_update((48, 40), 2, 20.0, generator).matrix(), null=9, generator=generator)
        assert found.p is not None and found.p > 0.1 and len(found.null) == 9 and sum(found.null) / 9 == pytest.approx(found.count, abs=1)

    def test_an_update_along_old_directions_is_less_new_than_every_random_one(self, generator: torch.Generator) -> None:
        base = decaying()
        u, _, vh = torch.linalg.svd(base)
        found = only(intruder_dimensions(base, base + 20 * torch.outer(u[:, 3], vh[3]), null=9, generator=generator))
        assert found.count == 0 and min(found.null) >= 1 and found.p == 1 and found.vectors[0].p == 1

    def test_one_strong_direction_is_rarer_than_as_much_norm_spread_out(self, generator: torch.Generator) -> None:
        base = decaying(96, 96)
        spread = base + rank_one((96, 96), 12.0) + 1e-2 * drawn(96, 96)  # of full rank, so the null has full rank
        found = only(intruder_dimensions(base, spread, k=1, null=19, generator=generator))
        assert found.count == 1 and found.p == pytest.approx(0.05) and found.vectors[0].p == pytest.approx(0.05)

    @pytest.mark.parametrize("full", [False, True])
    def test_a_null_may_keep_the_spectrum(self, full: bool, generator: torch.Generator) -> None:
        # one strong direction among many weak ones: as strong a random one is as new, as much norm in many directions is not
        values = torch.cat([torch.tensor([20.0]), torch.full((95 if full else 7,), 0.4)])
        base, update = decaying(96, 96), turned_update((96, 96), values, generator).matrix()
        counts = [
            intruder_dimensions(base, base + update, 1, null=9, null_keeps=kept, generator=generator) for kept in ("spectrum", "norm")
        ]
        assert [one.count for one in counts] == [1, 1] and sum(counts[0].null) >= 7 and (not full or sum(counts[1].null) == 0)

    def test_drawn_spectra_are_those_asked_for(self, generator: torch.Generator) -> None:
        values = torch.tensor([4.0, 2.0, 1.0])
        made = turned_update((48, 40), values, generator)
        assert torch.allclose(torch.linalg.svdvals(made.matrix())[:4], torch.tensor([4.0, 2.0, 1.0, 0.0]), atol=1e-5)
        assert torch.allclose(update_values(made).float(), values, atol=1e-5)

    def test_the_same_generator_gives_the_same(self) -> None:
        base, tuned = decaying(), decaying() + rank_one((48, 40), 9.0)
        first, second = (intruder_dimensions(base, tuned, null=3, generator=torch.Generator().manual_seed(4)).vectors for _ in range(2))
        assert first == second

    @pytest.mark.parametrize("rank", [1, 4, 16])
    def test_drawn_updates_have_their_norm_and_rank(self, rank: int, generator: torch.Generator) -> None:
        drawn_one = random_update((48, 40), rank, 3.0, generator).matrix()
        assert float(drawn_one.norm()) == pytest.approx(3, rel=1e-5) and int(torch.linalg.matrix_rank(drawn_one)) == rank
        assert float(random_matrix((48, 40), 3.0, generator).norm()) == pytest.approx(3, rel=1e-5)

    @pytest.mark.parametrize("spare", ["zeros", "copies"])
    def test_an_adapter_has_the_rank_of_what_it_adds_and_not_of_its_factors(self, spare: str, generator: torch.Generator) -> None:
        base, update = {"fc.weight": decaying(96, 96)}, adapter({"fc": (96, 96)}, rank=16).state_dict()
        for name, wide in update.items():
            rows = wide.T if "lora_B" in name else wide
            rows[1:] = 0 if spare == "zeros" else rows[:1].clone()
        given = Checkpoint.of(update, kind="adapter", metadata=adapter({"fc": (96, 96)}, rank=16).metadata)
        b, a = update["base_model.model.fc.lora_B.weight"], update["base_model.model.fc.lora_A.weight"]
        assert len(update_values(LowRank("", a, b, 1.0, (96, 96)))) == 1
        merged = {"fc.weight": base["fc.weight"] + b @ a}
        plain, written = (intruder_dimensions(base, one, null=9, generator=torch.Generator().manual_seed(0)) for one in (given, merged))
        assert plain.null == written.null and plain.p == written.p

    @pytest.mark.parametrize(("dtype", "stored"), [(torch.float32, "F32"), (torch.bfloat16, "BF16"), (torch.float16, "F16")])
    def test_the_rank_of_a_merged_adapter_is_seen_through_its_rounding(self, dtype: torch.dtype, stored: str) -> None:
        base = drawn(200, 160).to(dtype).float()
        tuned = (base + 0.5 * drawn(200, 4) @ drawn(4, 160)).to(dtype).float()
        assert (
            int(torch.linalg.matrix_rank(tuned - base)) >= 4
            and update_rank(torch.linalg.svdvals((tuned - base).double()), tuned, stored) == 4
        )


NAMES = ("a.weight", "b.weight", "c.weight", "d.weight", "same.weight")
FIVE = {name: decaying(seed=at) for at, name in enumerate(NAMES)}


class TestLayers:
    """Layers that cannot be looked at are told apart, and the others go on."""

    def test_a_bad_layer_is_reported_and_the_run_goes_on(self) -> None:
        tuned = {name: tensor + rank_one((48, 40), 30.0) for name, tensor in FIVE.items()} | {"same.weight": FIVE["same.weight"]}
        tuned["b.weight"][0, 0] = torch.nan
        base = FIVE | {
            "c.weight": torch.zeros(48, 40),
            "embed.weight": drawn(9, 8),
            "gone.weight": drawn(4, 4),
            "wide.weight": drawn(4, 4),
        }
        found = intruder_dimensions(
            base, tuned | {"d.weight": torch.zeros(48, 40), "embed.weight": drawn(9, 8) + 1, "wide.weight": drawn(4, 5)}
        )
        assert [one.name for one in found.layers] == ["a.weight"] and found.count == 1
        assert found.skipped == {
            "b.weight": "NaN or infinities in the tuned model",
            "c.weight": "the base's matrix is zero, and has no singular vectors",
            "d.weight": "the tuned matrix is zero, and has no singular vectors",
            "embed.weight": "an embedding, which is left out unless asked for",
            "gone.weight": "the tuned model has no such tensor",
            "same.weight": "unchanged",
            "wide.weight": "its shape is [4, 4] in the base, [4, 5] in the tuned model",
        }

    @pytest.mark.parametrize("where", ["kept.svd", "top_singular"])
    def test_a_layer_that_cannot_be_decomposed_is_reported_and_the_run_goes_on(self, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        place = "weightspace.linalg.kept.svd" if where == "kept.svd" else "weightspace.analysis.intruders.counting.top_singular"
        whole = pydoc.locate(place)
        assert callable(whole)

        def failing(matrix: Tensor, *rest: Any) -> Singular:
            if bool((matrix == 77).any()):
                raise AnalysisError("no method of LAPACK converges on it")
            return whole(matrix, *rest)  # type: ignore[no-any-return]

        monkeypatch.setattr(place, failing)
        base = {name: tensor.clone() for name, tensor in FIVE.items()}
        base["b.weight"][0, 0] = 77
        tuned = {name: tensor + rank_one((48, 40), 30.0) for name, tensor in base.items()}
        tuned["b.weight"][0, 0] = 77
        found = intruder_dimensions(base, tuned)
        assert len(found.layers) == 4 and found.skipped == {"b.weight": "no method of LAPACK converges on it"}

    def test_a_random_update_that_cannot_be_decomposed_is_reported_too(
        self, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
    ) -> None:
        def failing(*_: object) -> Tensor:
            raise AnalysisError("no method of LAPACK converges on it")

        monkeypatch.setattr("weightspace.analysis.intruders.examining.singular_values", failing)
        found = intruder_dimensions(decaying(), decaying() + rank_one((48, 40), 30.0), null=2, generator=generator)
        assert found.skipped == {"matrix": "no method of LAPACK converges on it"}

    def test_a_base_with_nan_and_an_adapter_with_infinities(self) -> None:
        broken = {"fc.weight": decaying(), "up.weight": decaying()}
        broken["fc.weight"][3, 3] = torch.inf
        assert intruder_dimensions(broken, adapter({"fc": (48, 40), "up": (48, 40)})).skipped == {
            "fc.weight": "NaN or infinities in the base"
        }
        update = adapter({"fc": (48, 40)}).state_dict()
        update["base_model.model.fc.lora_B.weight"][0, 0] = torch.inf
        hostile = Checkpoint.of(update, kind="adapter", metadata=adapter({"fc": (48, 40)}).metadata)
        assert intruder_dimensions({"fc.weight": decaying()}, hostile).skipped == {"fc.weight": "NaN or infinities in the tuned model"}

    def test_an_adapter_that_adds_nothing_changes_nothing(self) -> None:
        found = intruder_dimensions({"fc.weight": decaying()}, adapter({"fc": (48, 40)}, size=0.0))
        assert found.skipped == {"fc.weight": "unchanged"} and found.count == 0 and found.table == []

    def test_layers_and_embeddings_can_be_asked_for(self) -> None:
        tuned = {name: tensor + rank_one((48, 40), 30.0) for name, tensor in FIVE.items()}
        assert [one.name for one in intruder_dimensions(FIVE, tuned, layers="[ab].*").layers] == ["a.weight", "b.weight"]
        table = drawn(60, 20)
        found = intruder_dimensions({"embed.weight": table}, {"embed.weight": table + rank_one((60, 20), 90.0)}, embeddings=True)
        assert found.layers[0].notes == ("the base's left vectors span 20 of 60 dimensions",)

    def test_what_limits_the_numbers_is_noted(self) -> None:
        flat = with_spectrum(torch.tensor([4.0, 2.0, 1.0]), 12, 6)
        assert only(intruder_dimensions(flat, flat + 3 * rank_one((12, 6), 1.0))).notes == (
            "only 4 singular vectors",
            "the base has rank 3 of 6, and arbitrary vectors beyond",
            "the base's left vectors span 6 of 12 dimensions",
        )

    def test_one_vector_is_one_vector(self) -> None:
        assert only(intruder_dimensions(torch.ones(1, 6), drawn(1, 6))).notes == ("only 1 singular vector",)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_every_float_dtype(self, dtype: torch.dtype) -> None:
        base, tuned = decaying().to(dtype), (decaying() + rank_one((48, 40), 30.0)).to(dtype)
        assert intruder_dimensions(base, tuned).count == counted(base.float(), tuned.float()) == 1
        assert intruder_dimensions(decaying(), tuned).count == 1


def mixed() -> dict[str, Tensor]:
    return {"fc.weight": decaying(), "fc.bias": torch.ones(48)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intruder_dimensions(mixed(), mixed(), k=0), "expected k of 1 or more singular vectors, found 0"),
        (lambda: intruder_dimensions(mixed(), mixed(), epsilon=0.0), "expected an epsilon above 0 and up to 1, found 0"),
        (lambda: intruder_dimensions(mixed(), mixed(), side="top"), "expected the side 'left' or 'right', found 'top'"),
        (lambda: intruder_dimensions(mixed(), mixed(), gap=1.0), "expected a relative gap of 0 or more and under 1, found 1"),
        (lambda: intruder_dimensions(mixed(), mixed(), null=3), "and a generator to draw with, found null=3"),
        (lambda: intruder_dimensions(mixed(), mixed(), null_keeps="rank"), "expected null_keeps='norm' or 'spectrum', found 'rank'"),
        (lambda: intruder_dimensions(mixed(), mixed(), layers="*head*"), "the base has no layer that fits '\\*head\\*'"),
        (lambda: intruder_dimensions({"b": torch.ones(3)}, mixed()), "give models with dense or convolutional layers"),
        (
            lambda: intruder_dimensions(mixed(), {"other.weight": decaying()}),
            "no layer can be compared: 'fc.weight': the tuned model has no such",
        ),
        (lambda: intruder_dimensions(decaying(), decaying(30)), r"its shape is \[48, 40\] in the base, \[30, 40\] in the tuned model"),
        (lambda: intruder_dimensions(torch.ones(3), torch.ones(3)), r"expected a matrix of floats, found torch.float32 of shape \(3,\)"),
        (lambda: intruder_dimensions(torch.ones(3, 3).int(), torch.ones(3, 3)), "expected a matrix of floats, found torch.int32"),
        (lambda: intruder_dimensions(adapter({"fc": (48, 40)}), mixed()), "the base is an adapter; give the model"),
    ],
)
def test_errors_say_what_to_do(call: object, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        call()  # type: ignore[operator]


def test_an_adapter_that_does_not_fit_says_so() -> None:
    with pytest.raises(MergeError, match=r"the adapter fits nothing in the base: no tensor is named like 'other.weight'"):
        intruder_dimensions(mixed(), adapter({"other": (48, 40)}))
    with pytest.raises(MergeError, match=r"the adapter's update of 'fc.weight' is \[9, 9\], the tensor in the base is \[48, 40\]"):
        intruder_dimensions(mixed(), adapter({"fc": (9, 9)}))


def test_the_base_of_a_hundred_adapters_is_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from weightspace.linalg import svd

    calls: list[tuple[int, ...]] = []

    def watched(matrix: Tensor) -> Singular:
        calls.append(tuple(matrix.shape))
        return svd(matrix)

    monkeypatch.setattr("weightspace.linalg.kept.svd", watched)
    shapes = {"fc": (24, 20), "turned": (24, 16)}
    base = Checkpoint.of({"fc.weight": decaying(24, 20), "turned.weight": decaying(16, 24), "turned.bias": torch.ones(24)})
    cache: Cache = {}
    counts = [intruder_dimensions(base, adapter(shapes, size=0.1 * at, rank=1 + at % 3), cache=cache).count for at in range(100)]
    assert sorted(calls) == [(24, 16), (24, 20)] and len(cache) == 2
    assert counts[0] == 0 and counts[-1] == 2
    assert counts[-1] == intruder_dimensions(base, adapter(shapes, size=9.9, rank=1)).count


def test_tables_have_a_row_for_each_layer_and_each_vector() -> None:
    base = {"a.weight": decaying(), "b.weight": decaying(seed=3)}
    found = intruder_dimensions(base, {name: one + rank_one((48, 40), 30.0) for name, one in base.items()}, k=4)
    assert [row["layer"] for row in found.table] == ["a.weight", "b.weight"] and len(found.vectors) == 8
    assert found.table[0]["top_intruder"] == 1 and found.table[0]["p"] is None and found.table[0]["count"] == 1
    assert found.table[0]["smallest_similarity"] == min(one.left for one in found.layers[0].vectors)
    assert repr(found) == "<Intruders: 2 in 2 layers (2 guarded)>"
    with pytest.raises(UnknownNameError, match=r"no layer named 'c.weight'"):
        found.layer("c.weight")


def test_pictures_show_similarities_and_counts(generator: torch.Generator) -> None:
    base = {f"layer{at}.weight": decaying(seed=at) for at in range(3)}
    found = intruder_dimensions(base, {name: one + rank_one((48, 40), 30.0) for name, one in base.items()}, null=2, generator=generator)
    bars: Any = found.plot().axes[0]
    assert [patch.get_width() for patch in bars.patches[:3]] == [one.count for one in found.layers]
    image: Any = found.plot("layer1.weight").axes[0].images[0]
    assert np.allclose(image.get_array(), found.layer("layer1.weight").similarity)
    wide = only(intruder_dimensions(drawn(300, 300), drawn(300, 300) + rank_one((300, 300), 90.0), k=3))
    shown: Any = Intruders((wide,), {}, 3, 0.5, "left").plot().axes[0].images[0].get_array()
    assert shown.shape == (3, 150) and float(shown.max()) == pytest.approx(float(wide.similarity.max()))


def test_the_measure_gives_the_counts() -> None:
    base, tuned = Checkpoint.of({"fc.weight": decaying()}), Checkpoint.of({"fc.weight": decaying() + rank_one((48, 40), 30.0)})
    assert measures["intruders"](base, tuned) == {"count": 1.0, "guarded": 1.0, "left": 1.0, "right": 1.0, "layers": 1.0}
