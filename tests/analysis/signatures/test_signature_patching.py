"""Patching, composing, removing, and carrying a signature to other neurons."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import weightspace as ws
from tests.analysis.signatures.networks import family, module
from weightspace.analysis.connectivity import repair_many
from weightspace.analysis.signatures import apply, compose, extract, keep, made_nonfinite, moved, patch_of, quantise, remove, transfer
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import AnalysisError, ShapeMismatchError, UnknownNameError
from weightspace.storage import Memory
from weightspace.symmetry import act, random
from weightspace.task import Task

State = dict[str, Tensor]


def two(generator: torch.Generator) -> "tuple[State, list[State], State]":
    """A start, the standard model with two robust ones, and another clean model."""
    start, clean, noisy = family(generator)
    _, blurred, other = family(generator)
    blurred = {name: tensor + start[name] if tensor.is_floating_point() else tensor for name, tensor in blurred.items()}
    return start, [clean, noisy, blurred], other


def saved(patched: Checkpoint, path: Path) -> Checkpoint:
    return ws.open(ws.save(patched, path, {key: str(value) for key, value in patched.metadata.items()}))


# Applying.


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, -2.0])
def test_strength_counts_once(strength: float, generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    signature = extract(start, clean, noisy)
    patched = apply(clean, signature, strength=strength)
    for name in signature:
        torch.testing.assert_close(patched[name], clean[name] + strength * signature[name])
    for name in set(clean) - set(signature):
        assert torch.equal(patched[name], clean[name])
    assert list(patched) == list(clean)


def test_weights_count_once_and_are_equal_shares_by_default(generator: torch.Generator) -> None:
    start, (clean, noisy, blurred), _ = two(generator)
    one, other = extract(start, clean, noisy), extract(start, clean, blurred, layers="conv*")
    for weights, (u, v) in ((None, (0.5, 0.5)), ([2.0, -0.5], (2.0, -0.5))):
        patched = apply(clean, [one, other], strength=0.5, weights=weights)
        torch.testing.assert_close(
            patched["conv1.weight"], clean["conv1.weight"] + 0.5 * (u * one["conv1.weight"] + v * other["conv1.weight"])
        )
        torch.testing.assert_close(patched["fc.weight"], clean["fc.weight"] + 0.5 * u * one["fc.weight"])


def test_what_is_composed_first_patches_alike(generator: torch.Generator) -> None:
    start, (clean, noisy, blurred), _ = two(generator)
    both = [extract(start, clean, noisy), quantise(extract(start, clean, blurred), 8, "log")]
    composed = compose(both, [0.7, 0.4])
    assert composed.parents == tuple(one.id for one in both)
    assert composed.energy == pytest.approx(sum(float(change.square().sum()) for change in composed.values()))
    assert apply(clean, composed) == apply(clean, both, weights=[0.7, 0.4])
    assert compose(both[:1]) is both[0]


def test_a_sum_commutes_and_is_that_of_its_parts(generator: torch.Generator) -> None:
    start, (clean, noisy, blurred), _ = two(generator)
    one, other = extract(start, clean, noisy), extract(start, clean, blurred)
    together, swapped = compose([one, other], [1.0, 1.0]), compose([other, one], [1.0, 1.0])
    for name in one:
        torch.testing.assert_close(together[name], one[name] + other[name])
        assert torch.equal(together[name], swapped[name])
    for name in one.norms:
        torch.testing.assert_close(together.stored["norm." + name], (noisy[name] + blurred[name]) / 2)


def test_batch_norms_are_kept_or_replaced_by_the_mean_of_the_robust_models(generator: torch.Generator) -> None:
    start, (clean, noisy, blurred), _ = two(generator)
    both = [extract(start, clean, noisy), extract(start, clean, blurred)]
    kept, replaced = (apply(clean, both, strength=0.5, weights=[3.0, 0.0], buffers=buffers) for buffers in ("keep", "replace"))
    for name in both[0].norms:
        assert torch.equal(kept[name], clean[name])
        torch.testing.assert_close(replaced[name], (noisy[name] + blurred[name]) / 2)
    assert torch.equal(replaced["norm1.num_batches_tracked"], clean["norm1.num_batches_tracked"])
    assert torch.equal(kept["conv1.weight"], replaced["conv1.weight"])


def test_norms_that_did_not_come_along_cannot_replace(generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    with pytest.raises(AnalysisError, match="a signature brought along no batch norms that could replace the model's"):
        apply(clean, extract(start, clean, noisy, batch_norms=False), buffers="replace")


def test_running_statistics_are_measured_anew_on_a_patched_model(generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    patched = apply(clean, extract(start, clean, noisy)).state_dict()
    task = Task.classification(module(), torch.randn(64, 1, 9, 9, generator=generator), torch.zeros(64, dtype=torch.int64))
    found = repair_many(task, patched, [patched], mode="reset").state_dict
    assert not torch.equal(found["norm1.running_mean"], patched["norm1.running_mean"])
    assert torch.equal(found["conv1.weight"], patched["conv1.weight"])


def test_half_precision_is_rounded_once(generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    signature = extract(start, clean, noisy)
    halved = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in clean.items()}
    patched = apply(halved, signature, strength=0.7)
    expected = (halved["fc.weight"].double() + 0.7 * signature["fc.weight"].double()).bfloat16()
    assert patched["fc.weight"].dtype == torch.bfloat16 and torch.equal(patched["fc.weight"], expected)


def test_tied_tensors_stay_tied() -> None:
    start, clean, noisy = ({"head.weight": torch.full((2, 2), value)} for value in (0.0, 1.0, 3.0))
    signature = extract(start, start, noisy)
    tied = torch.ones(2, 2)
    patched = apply({"embed.weight": tied, "head.weight": tied}, signature)
    assert patched.info["head.weight"].alias_of == "embed.weight"
    assert all((patched[name] == 4).all() for name in patched)
    assert (apply(clean, signature)["head.weight"] == 4).all()


def test_the_recipe_says_what_was_done(generator: torch.Generator, tmp_path: Path) -> None:
    start, clean, noisy = family(generator)
    signature = extract(start, clean, noisy)
    patched = saved(apply(clean, signature, strength=0.1), tmp_path / "patched.safetensors")
    assert patch_of(patched) == {"kind": "patch", "strength": 0.1, "weights": [1.0], "buffers": "keep", "signatures": [signature.id]}
    assert patched.parents == (Checkpoint.of(clean).id, signature.id) and patched.kind == "full"


def test_what_does_not_fit_is_said(generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    signature = extract(start, clean, noisy)
    with pytest.raises(
        UnknownNameError,
        match=r"no tensor named 'fc\.bias' in the model, which .*: the model is not of the signature's architecture; it has ",
    ):
        apply({name: tensor for name, tensor in clean.items() if name != "fc.bias"}, signature)
    with pytest.raises(UnknownNameError, match=r"it has 'd\.bias'; patch a model like the one that the signature was extracted with"):
        apply({"d.bias": torch.ones(3)}, signature)
    with pytest.raises(ShapeMismatchError, match=r"tensor 'fc\.bias' has shape \[9\], in the signature \[4\]; patch a model of the same"):
        apply({**clean, "fc.bias": torch.ones(9)}, signature)
    with pytest.raises(AnalysisError, match=r"tensor 'fc\.bias' has dtype I64, which cannot be added to"):
        apply({**clean, "fc.bias": torch.ones(4, dtype=torch.int64)}, signature)
    with pytest.raises(AnalysisError, match="expected at least one signature, found none"):
        apply(clean, [])
    with pytest.raises(AnalysisError, match=r"expected a finite weight for each of 1 signatures, found \[1\.0, 2\.0\]"):
        apply(clean, signature, weights=[1.0, 2.0])
    with pytest.raises(AnalysisError, match="expected buffers to be 'keep' or 'replace', found 'mean'; choose one"):
        apply(clean, signature, buffers="mean")
    with pytest.raises(AnalysisError, match="expected a finite strength, found nan"):
        apply(clean, signature, strength=math.nan)


@pytest.mark.parametrize(("dtype", "size"), [("F4", 2), ("F6_E2M3", 3), ("F6_E3M2", 3)])
def test_packed_floats_are_not_added_to_and_may_stand_beside_what_is(dtype: str, size: int, generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    signature = extract(start, clean, noisy)
    given = Checkpoint.of(clean)

    def packed(name: str) -> Checkpoint:
        info = {**given.info, name: TensorInfo(name, dtype, (4,))}
        return replace(given, info=info, storages={**given.storages, name: Memory(memoryview(bytes(size)))})

    with pytest.raises(
        AnalysisError, match=rf"tensor 'fc\.bias' has dtype {dtype}, which cannot be added to; save its values as F16 first"
    ):
        apply(packed("fc.bias"), signature)
    model = packed("quantised")
    patched = apply(model, signature)
    assert patched.raw("quantised") == bytes(size) and made_nonfinite(model, patched) == {}


def test_signatures_of_two_architectures_do_not_compose() -> None:
    one, other = (extract({"w": torch.zeros(n)}, {"w": torch.ones(n)}, {"w": torch.arange(n).float()}) for n in (3, 4))
    with pytest.raises(
        ShapeMismatchError, match=r"tensor 'w' has shapes \[3\] and \[4\] in the signatures; compose those of one architecture"
    ):
        compose([one, other])


# Removing.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("buffers", ["keep", "replace"])
@pytest.mark.parametrize("bits", [0, 3])
def test_a_removed_patch_leaves_no_bit_behind(
    dtype: torch.dtype, buffers: str, bits: int, generator: torch.Generator, tmp_path: Path
) -> None:
    start, (clean, noisy, blurred), other = two(generator)
    given = [extract(start, clean, one) for one in (noisy, blurred)]
    given = [quantise(one, bits, "log") for one in given] if bits else given
    model = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in other.items()}
    model["conv1.weight"].view(-1)[:2] = torch.tensor([0.0, -0.0], dtype=dtype)
    original = ws.open(ws.save(model, tmp_path / "model.safetensors"))
    patched = apply(original, given, strength=1.7, weights=[0.3, 1.1], buffers=buffers)
    kept = keep(original, patched, given, tmp_path / "patched.difference")
    for one in (patched, saved(patched, tmp_path / "patched.safetensors")):
        restored = remove(one, given, kept)
        assert restored.id == original.id and list(restored) == list(patched)
        again = ws.save(restored, tmp_path / "again.safetensors")
        assert again.read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_what_is_kept_is_small(generator: torch.Generator, tmp_path: Path) -> None:
    start, clean, noisy = ({"fc.weight": torch.randn(256, 256, generator=generator)} for _ in range(3))
    signature = extract(start, clean, noisy)
    patched = apply(clean, signature, strength=0.9)
    assert apply(patched, signature, strength=-0.9) != Checkpoint.of(clean), "rounding loses something"
    kept = keep(clean, patched, signature, tmp_path / "kept.difference")
    assert kept.stat().st_size < 0.15 * patched.num_bytes
    assert remove(patched, signature, kept) == Checkpoint.of(clean)


def test_a_removal_needs_the_same_signatures_and_the_same_model(generator: torch.Generator, tmp_path: Path) -> None:
    start, (clean, noisy, blurred), _ = two(generator)
    one, other = extract(start, clean, noisy), extract(start, clean, blurred)
    patched = apply(clean, one)
    kept = keep(clean, patched, one, tmp_path / "kept.difference")
    with pytest.raises(
        AnalysisError, match=f"the model was patched with the signatures {one.id[:12]}, found {other.id[:12]}; give those, in order"
    ):
        remove(patched, other, kept)
    with pytest.raises(
        AnalysisError, match="expected a patched model, found one that was made otherwise; name what 'weightspace signature apply' wrote"
    ):
        remove(Checkpoint.of(clean), one, kept)
    with pytest.raises(AnalysisError, match="was kept of another patch, or the patched model was changed since"):
        remove(apply(clean, one, strength=0.5), one, kept)


# Transfer.


@pytest.fixture(scope="module")
def spec() -> ws.SymmetrySpec:
    return ws.trace(module().eval(), torch.zeros(2, 1, 9, 9))


def test_a_signature_follows_the_neurons(spec: ws.SymmetrySpec, generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    element = spec.random(generator)
    signature = extract(start, clean, noisy)
    carried = moved(quantise(signature, 16), element)
    assert carried.parents == (quantise(signature, 16).id,) and not carried.bits
    turned = act(element, clean)
    for buffers in ("keep", "replace"):
        patched = apply(turned, moved(signature, element), strength=0.6, buffers=buffers)
        expected = act(element, apply(clean, signature, strength=0.6, buffers=buffers).state_dict())
        for name, tensor in expected.items():
            torch.testing.assert_close(patched[name], tensor)


def test_transfer_finds_the_order_of_the_neurons(spec: ws.SymmetrySpec, generator: torch.Generator) -> None:
    start, clean, noisy = family(generator)
    element = random(spec, generator, discrete=True)
    target = act(element, clean)
    signature = extract(start, clean, noisy)
    found = transfer(signature, clean, target, spec, generator=generator)
    for name in signature:
        torch.testing.assert_close(found[name], moved(signature, element)[name])
    assert transfer(signature, clean, target, spec, align=None) is signature
    assert not torch.allclose(signature["conv2.weight"], found["conv2.weight"])
