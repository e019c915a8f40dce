"""What a signature is, which tensors it is made of, and how it lies in a file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import weightspace as ws
from tests.analysis.signatures.networks import family, norms_of_network
from weightspace.analysis.layers import Layer
from weightspace.analysis.signatures import QUANTISERS, Part, Signature, extract, open_signature, quantise
from weightspace.analysis.signatures.selection import selected, smallest
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, FormatError, UnknownNameError

State = dict[str, Tensor]


def by_hand(start: Tensor, clean: Tensor, corrupted: Tensor) -> Tensor:
    """The projection as the paper writes it, with a d x d matrix."""
    a, t = (one.double().flatten() - start.double().flatten() for one in (clean, corrupted))
    projector = torch.outer(a, a) / (a @ a)
    return ((torch.eye(len(a), dtype=torch.float64) - projector) @ t).reshape(start.shape).float()


def test_the_projection_is_that_of_the_paper(generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    found = extract(start, clean, noisy)
    for name in ("conv1.weight", "conv2.weight", "fc.weight", "fc.bias"):
        torch.testing.assert_close(found[name], by_hand(start[name], clean[name], noisy[name]))
    assert list(found) == ["conv1.weight", "conv2.weight", "fc.weight", "fc.bias"]


def test_it_is_orthogonal_to_what_clean_training_did(generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    for name, change in extract(start, clean, noisy).items():
        moved = (clean[name] - start[name]).flatten()
        assert abs(float(change.flatten() @ moved)) < 1e-5 * float(change.norm() * moved.norm())


def test_clean_and_robust_training_alike_leave_nothing(generator: torch.Generator) -> None:
    start, clean, _ = family(generator)
    assert extract(start, clean, clean).energy < 1e-25


def test_a_frozen_tensor_gives_all_of_its_task_vector(generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    clean["fc.weight"] = start["fc.weight"].clone()
    found = extract(start, clean, noisy)
    torch.testing.assert_close(found["fc.weight"], noisy["fc.weight"] - start["fc.weight"])
    assert (found.parts["fc.weight"].along, found.parts["fc.weight"].ratio) == (0, None)


def test_inputs_are_not_touched(generator: torch.Generator) -> None:
    models = family(generator)
    before = [{name: tensor.clone() for name, tensor in model.items()} for model in models]
    signature = quantise(extract(*models), 4)
    assert all(tensor.isfinite().all() for tensor in signature.values())
    for model, was in zip(models, before, strict=True):
        assert all(torch.equal(model[name], was[name]) for name in was)


def test_precision_follows_the_models(generator: torch.Generator) -> None:
    models = family(generator)
    assert extract(*models)["fc.weight"].dtype == torch.float32
    assert extract(*[{name: tensor.double() for name, tensor in model.items()} for model in models])["fc.weight"].dtype == torch.float64
    halves = [{name: tensor.bfloat16() for name, tensor in model.items()} for model in models]
    torch.testing.assert_close(extract(*halves)["fc.weight"], by_hand(*(half["fc.weight"] for half in halves)))


def test_one_bad_tensor_is_reported_and_the_others_go_on(generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    noisy["conv2.weight"][0, 0, 0, 0] = torch.nan
    start["fc.weight"] = torch.zeros(7, 6)
    clean["fc.bias"] = clean["fc.bias"].int()
    del noisy["conv1.weight"]
    clean["conv3.weight"] = start["conv3.weight"] = noisy["conv3.weight"] = torch.ones(2, 2, 3, 3)
    found = extract(start, clean, noisy)
    assert list(found) == ["conv3.weight"] and found.energy == 0
    assert found.left_out == {
        "conv2.weight": "holds NaN or infinities",
        "fc.weight": "has shape [7, 6] in the pre-trained model, [4, 6] in the standard one",
        "conv1.weight": "is not in the robust model",
    }


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(
        AnalysisError, match=r"no learnt tensor in common; of 'w': is not in the robust model; give models of one architecture"
    ):
        extract({"w": torch.ones(2)}, {"w": torch.ones(2)}, {"v": torch.ones(2)})


def test_zero_models_and_single_rows_have_a_defined_signature() -> None:
    nothing, row = {"w": torch.zeros(3, 2)}, {"w": torch.ones(1, 4)}
    assert extract(nothing, nothing, nothing)["w"].eq(0).all()
    assert extract(row, row, {"w": 2 * torch.ones(1, 4)})["w"].eq(1).all()
    for quantiser in QUANTISERS:
        assert quantise(extract(nothing, nothing, nothing), 2, quantiser)["w"].eq(0).all()


def test_tied_tensors_count_once(generator: torch.Generator) -> None:
    models = []
    for _ in range(3):
        tied = torch.randn(5, 3, generator=generator)
        models.append({"embed.weight": tied, "head.weight": tied})
    assert list(extract(*models)) == ["embed.weight"]


# Batch norms.


def test_batch_norms_come_along_whole(generator: torch.Generator) -> None:
    models = family(generator)
    found = extract(*models)
    assert found.norms == norms_of_network()
    for name in found.norms:
        assert torch.equal(found.stored["norm." + name], models[2][name])
    assert extract(*models, batch_norms=False).norms == ()


def test_the_batch_norms_of_keras_are_known(generator: torch.Generator) -> None:
    names = ("conv/kernel:0", "bn/gamma:0", "bn/beta:0", "bn/moving_mean:0", "bn/moving_variance:0")
    found = extract(*[{name: torch.randn(3, 3, generator=generator) for name in names} for _ in range(3)])
    assert list(found) == ["conv/kernel:0"] and found.norms == tuple(sorted(names[1:]))


def test_a_batch_norm_that_is_not_finite_stays_away(generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    noisy["norm1.running_var"][0] = torch.inf
    found = extract(start, clean, noisy)
    assert set(norms_of_network()) - set(found.norms) == {"norm1.running_var"}
    assert found.left_out == {"norm1.running_var": "holds NaN or infinities"}


def test_a_selection_of_nothing_is_an_empty_signature(generator: torch.Generator, tmp_path: Path) -> None:
    start, clean, _ = family(generator)
    found = extract(start, clean, start, layers="energy:.9")
    assert len(found) == 0 and found.table() == []
    read = open_signature(quantise(found, 4).save(tmp_path / "empty.safetensors"))
    assert len(read) == 0 and len(read.norms) == 8


# Selection.


PARTS = {
    name: Part(name, (1,), float(energy), clean)
    for name, energy, clean in (
        ("a.weight", 1, 1.0),
        ("a.bias", 1, 1.0),
        ("b.weight", 6, 100.0),
        ("norm.weight", 90, 1.0),
        ("c.weight", 2, 0.5),
    )
}
LAYERS = [Layer(name, "dense", (1, 1)) for name in ("a.weight", "b.weight", "c.weight")]


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("all", list(PARTS)),
        ("first:1", ["a.weight", "a.bias"]),
        ("first:2", ["a.weight", "a.bias", "b.weight"]),
        ("first:9", ["a.weight", "a.bias", "b.weight", "c.weight"]),
        ("energy:0.6", ["b.weight"]),
        ("energy:.61", ["a.weight", "a.bias", "b.weight"]),
        ("energy:1", ["a.weight", "a.bias", "b.weight", "c.weight"]),
        ("ratio:.7", ["c.weight"]),
        ("ratio:.9", ["a.weight", "a.bias", "c.weight"]),
        ("?.weight", ["a.weight", "b.weight", "c.weight"]),
        (["c.*", "a.bias"], ["a.bias", "c.weight"]),
    ],
)
def test_layers_are_selected_by_rule(rule: str | list[str], names: list[str]) -> None:
    assert selected(PARTS, rule, LAYERS) == names


def test_a_layer_that_clean_training_left_alone_is_first_by_ratio() -> None:
    assert smallest({"a": 1.0, "b": float("inf"), "c": 3.0}, 0.5) == ["b", "c"]
    assert smallest({"a": 0.0, "b": 0.0}, 0.5) == []


@pytest.mark.parametrize("rule", ["first:0", "first:x", "first:-1"])
def test_a_rule_needs_a_number(rule: str) -> None:
    with pytest.raises(AnalysisError, match=f"expected a number of layers after 'first:', found '{rule}'; write it as in first:7"):
        selected(PARTS, rule, LAYERS)


@pytest.mark.parametrize("rule", ["energy:0", "ratio:1.1", "energy:nan", "ratio:much"])
def test_a_share_is_one(rule: str) -> None:
    with pytest.raises(AnalysisError, match=f"expected a share above 0 and up to 1 after '{rule[: rule.index(':')]}:', found '{rule}'"):
        selected(PARTS, rule, LAYERS)


def test_a_pattern_that_nothing_has_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match=r"no tensor named 'd\.\*'.*select layers by 'all', 'first:7'"):
        selected(PARTS, "d.*", LAYERS)


def test_the_first_convolutions_of_a_network(generator: torch.Generator) -> None:
    assert list(extract(*family(generator), layers="first:2")) == ["conv1.weight", "conv2.weight"]


def test_the_order_of_a_sorted_file_is_that_of_the_numbers_in_names() -> None:
    names = [f"features.{number}.weight" for number in (0, 10, 13, 3, 7)]
    parts = {name: Part(name, (1, 1, 3, 3), 1.0) for name in [*names, "aux.weight", "classifier.weight"]}
    kernels = [Layer(name, "kernel", (1, 1, 3, 3)) for name in names]
    dense = [Layer(name, "dense", (1, 1)) for name in ("aux.weight", "classifier.weight")]
    assert sorted(selected(parts, "first:3", [*dense, *kernels])) == ["features.0.weight", "features.3.weight", "features.7.weight"]
    assert selected(parts, "first:2", kernels[::-1]) == ["features.3.weight", "features.7.weight"], "another order is the model's own"


# Files.


@pytest.mark.parametrize("bits", [0, 2, 3, 8, 16])
@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_a_file_reads_back_exactly(bits: int, quantiser: str, generator: torch.Generator, tmp_path: Path) -> None:
    whole = extract(*family(generator))
    signature = quantise(whole, bits, quantiser) if bits else whole
    read = open_signature(signature.save(tmp_path / "a.safetensors"))
    assert (read.id, read.parts, read.norms, read.bits, read.parents) == (
        signature.id,
        signature.parts,
        signature.norms,
        bits,
        whole.parents,
    )
    assert read.stored.kind == "signature" and read.recipe == signature.recipe
    for name in signature:
        assert torch.equal(read[name], signature[name])
        assert read[name].shape == whole[name].shape and read[name].dtype == whole[name].dtype
    again = read.save(tmp_path / "b.safetensors")
    assert again.read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_its_identity_is_that_of_its_values(generator: torch.Generator) -> None:
    """Two signatures of the same codes on other levels are not one content."""
    start, clean, noisy = ({"w": torch.tensor(row)} for row in ([0.0, 0, 0, 0], [1.0, 0, 0, 0], [0.0, 1, 2, 3]))
    larger = {"w": 2 * noisy["w"]}
    one, other = (quantise(extract(start, clean, robust), 3) for robust in (noisy, larger))
    assert one.stored.raw("signature.w") == other.stored.raw("signature.w")
    assert one.id != other.id and float(other["w"][3]) == 6


def test_bytes_are_as_few_as_the_bits_say(generator: torch.Generator) -> None:
    start, clean, noisy = ({"w": torch.randn(256, 256, generator=generator)} for _ in range(3))
    whole = extract(start, clean, noisy)
    assert whole.compression == 1
    assert quantise(whole, 4).num_bytes == 256 * 256 // 2 + 4 * 8
    assert quantise(whole, 2).compression == pytest.approx(16, rel=0.01)
    assert repr(quantise(whole, 4, "log")) == "<Signature of 1 tensors in 32,800 bytes (4 bits, log), 8.0 times less than the model>"


def test_quantising_again_reads_the_values_that_codes_stand_for(generator: torch.Generator) -> None:
    fine = quantise(extract(*family(generator)), 16)
    coarse = quantise(fine, 3, "tanh")
    assert coarse.bits == 3
    for name in fine:
        torch.testing.assert_close(coarse[name], fine[name], rtol=0, atol=0.6 * float(fine[name].abs().max()))


def test_memory_is_not_taken_by_all_tensors_at_once(generator: torch.Generator) -> None:
    """Changes are computed when they are asked for."""
    models = family(generator)
    found = extract(*models)
    before = found["fc.bias"].clone()
    models[2]["fc.bias"] += 1
    assert not torch.equal(found["fc.bias"], before)


def test_a_table_says_what_each_tensor_holds(generator: torch.Generator) -> None:
    rows = extract(*family(generator)).table()
    assert sum(row["energy"] for row in rows) == pytest.approx(1)
    assert list(rows[0]) == ["tensor", "shape", "energy", "norm", "ratio", "along", "bytes"]
    assert rows[0]["bytes"] == 4 * np.prod(rows[0]["shape"])


def test_a_picture_of_it(generator: torch.Generator, tmp_path: Path) -> None:
    found = extract(*family(generator))
    figure = found.plot()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(found)
    figure.savefig(tmp_path / "energy.png")


def test_a_model_is_no_signature(generator: torch.Generator, tmp_path: Path) -> None:
    path = ws.save(family(generator)[0], tmp_path / "model.safetensors")
    with pytest.raises(
        AnalysisError, match=r"model\.safetensors: expected a signature, found a model; make one with 'weightspace signature extract'"
    ):
        open_signature(path)


def test_a_name_that_it_does_not_change(generator: torch.Generator) -> None:
    with pytest.raises(UnknownNameError, match=r"no tensor of the signature named 'conv9\.weight'"):
        extract(*family(generator))["conv9.weight"]


def broken(signature: Signature, path: Path, **changes: object) -> Path:
    """A file whose recipe does not say what it holds."""
    recipe = {**signature.recipe, **changes}
    return ws.save(signature.stored, path, {"weightspace.recipe": json.dumps(recipe), "weightspace.parents": "[]"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 40}, "has codes of a kind that is not known here"),
        ({"quantiser": "sqrt"}, "has codes of a kind that is not known here"),
        ({"bits": 5}, "tensor 'conv1.weight' is not what its recipe says"),
        ({"tensors": []}, "has levels for another number of tensors"),
        ({"tensors": "many"}, "damaged"),
        ({"bits": "many"}, "damaged"),
        (
            {"tensors": [{"name": "conv1.weight", "shape": [1 << 50], "energy": 1.0, "clean": None, "along": None}]},
            "has levels for another number",
        ),
    ],
)
def test_a_file_that_lies_is_refused(changes: dict[str, object], message: str, generator: torch.Generator, tmp_path: Path) -> None:
    path = broken(quantise(extract(*family(generator)), 4), tmp_path / "broken.safetensors", **changes)
    with pytest.raises((AnalysisError, FormatError), match=message):
        open_signature(path)


def test_a_recipe_longer_than_a_file_may_tell_is_refused(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    monkeypatch.setattr("weightspace.provenance.MAX_CHARACTERS", 200)
    with pytest.raises(AnalysisError, match=r"the description of 4 tensors is longer than .* characters; select fewer layers"):
        extract(*family(generator))


def test_a_checkpoint_of_it_is_known_for_what_it_is(generator: torch.Generator, tmp_path: Path) -> None:
    found = extract(*family(generator))
    assert ws.open(found.save(tmp_path / "a.safetensors")).kind == "signature"
    assert Signature.of(found.stored).parts == found.parts
    assert not set(found.stored.info) & set(family(generator)[0]), "its tensors have names of their own"
    assert isinstance(found.stored, Checkpoint)
