import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.analysis.lineage.histories import drifted, found, network, pairs
from weightspace.analysis.lineage import Declared, Entry, lineage
from weightspace.analysis.merging import merge
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, UnknownNameError


def test_a_star_of_fine_tunes_is_found_and_a_stranger_is_left_alone() -> None:
    base = network(0)
    result = found(base=base, a=drifted(base, 1, 0.2), b=drifted(base, 2, 0.3), c=drifted(base, 3, 0.25), other=network(9))
    assert pairs(result) == {("base", name, "finetune") for name in "abc"}
    assert [sorted(family) for family in result.families] == [["a", "b", "base", "c"], ["other"]]


def test_a_chain_is_no_star() -> None:
    base = network(0)
    middle = drifted(base, 1, 0.3)
    result = found(base=base, middle=middle, end=drifted(middle, 2, 0.3))
    assert pairs(result) == {("base", "middle", "finetune"), ("middle", "end", "finetune")}
    assert [edge.child for edge in result.descendants("base")] == ["middle", "end"]
    assert [edge.parent for edge in result.ancestors("end")] == ["middle", "base"]


def test_networks_trained_apart_from_one_start_are_refused() -> None:
    start = network(0)
    result = found(a=drifted(start, 1, 0.7), b=drifted(start, 2, 0.7))
    assert not result.edges
    assert result.pairs[0].probability < 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_descends_from_what_was_cast(dtype: torch.dtype) -> None:
    base = network(0)
    assert pairs(found(half={name: t.to(dtype) for name, t in base.items()}, base=base)) == {("base", "half", "cast")}


def test_rounding_by_row_and_pruning_tell_their_direction() -> None:
    base = network(0)
    rounded = {name: _rounded(t) if t.ndim > 1 else t for name, t in base.items()}
    pruned = {name: t * (t.abs() > t.abs().quantile(0.6)) if t.ndim > 1 else t for name, t in base.items()}
    draw = torch.Generator().manual_seed(1)
    thinned = {name: t * (torch.rand(t.shape, generator=draw) > 0.8) if t.ndim > 1 else t for name, t in base.items()}
    result = found(rounded=rounded, pruned=pruned, thinned=thinned, base=base)
    assert pairs(result) == {("base", "rounded", "quantised"), ("base", "pruned", "pruned"), ("base", "thinned", "pruned")}
    assert all(edge.is_directed and edge.direction > 0.99 for edge in result.edges)


def test_rounding_by_rows_as_short_as_a_kernel_of_one_channel_is_found() -> None:
    draw = torch.Generator().manual_seed(0)
    base = {"conv.weight": torch.randn(16, 1, 3, 3, generator=draw)}
    rounded = {"conv.weight": _rounded(base["conv.weight"].flatten(1)).reshape(16, 1, 3, 3)}
    assert pairs(found(rounded=rounded, base=base)) == {("base", "rounded", "quantised")}


def test_a_change_of_the_size_of_rounding_errors_is_no_quantisation() -> None:
    base = network(0)
    [edge] = found(base=base, nudged={name: t * (1 + 1e-7) for name, t in base.items()}).edges
    assert edge.kind == "finetune"


def _rounded(t: torch.Tensor) -> torch.Tensor:
    step = t.abs().amax(1, keepdim=True) / 7
    return (t / step).round() * step


def test_a_renamed_copy_has_no_direction() -> None:
    base = network(0)
    [edge] = found(base=base, copy={f"model.{name}": t.clone() for name, t in base.items()}).edges
    assert (edge.kind, edge.is_directed, edge.direction) == ("renamed", False, 0.5)


@pytest.mark.parametrize(("activation", "kind"), [("gelu", "permuted"), ("tanh", "permuted"), ("relu", "rescaled")])
def test_a_copy_along_a_symmetry_is_found_without_direction(activation: str, kind: str) -> None:
    base = network(0)
    spec = ws.infer_spec(base, activation)
    moved = ws.act(spec.random(torch.Generator().manual_seed(3)), base)
    [edge] = found(base=base, moved=moved, other=network(5)).edges
    assert {edge.parent, edge.child} == {"base", "moved"}
    assert (edge.kind, edge.is_directed) == (kind, False)


def test_a_low_rank_update_is_named_so() -> None:
    base = network(0)
    draw = torch.Generator().manual_seed(1)
    update = torch.randn(48, 2, generator=draw) @ torch.randn(2, 24, generator=draw)
    [edge] = found(base=base, tuned=base | {"fc1.weight": base["fc1.weight"] + 0.3 * update}).edges
    assert edge.kind == "lora"
    assert next(reason for reason in edge.reasons if reason.evidence == "low rank").numbers["rank"] == 2


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7)])
def test_a_merge_has_its_parents_and_their_weights(weights: tuple[float, float]) -> None:
    base = network(0)
    a, b = drifted(base, 1, 0.3), drifted(base, 2, 0.3)
    result = found(base=base, a=a, b=b, soup={name: weights[0] * a[name] + weights[1] * b[name] for name in a})
    merged = {edge.parent: edge.weight for edge in result.edges if edge.child == "soup"}
    assert merged == pytest.approx({"a": weights[0], "b": weights[1]}, abs=1e-4)
    assert {edge.kind for edge in result.edges if edge.child == "soup"} == {"merge"}
    assert result.tree["soup"] in (["a", "b"], ["b", "a"])


def test_a_merge_in_half_precision_has_its_parents() -> None:
    base = network(0)
    a, b = drifted(base, 1, 0.3), drifted(base, 2, 0.3)
    mean = {name: (0.3 * a[name] + 0.7 * b[name]).bfloat16() for name in a}
    merged = {edge.parent: edge.weight for edge in found(base=base, a=a, b=b, mean=mean).edges if edge.child == "mean"}
    assert merged == pytest.approx({"a": 0.3, "b": 0.7}, abs=0.02)


def test_a_merge_that_elects_changes_has_those_models_for_parents_that_they_came_from() -> None:
    base = network(0)
    tuned = {name: drifted(base, seed, 0.3) for seed, name in enumerate("ab", 1)}
    models = {name: Checkpoint.of(state) for name, state in (tuned | {"base": base}).items()}
    recipe = {"merge_method": "ties", "base_model": "base", "models": [{"model": name, "parameters": {"weight": 0.5}} for name in tuned]}
    merged = merge(recipe | {"parameters": {"density": 0.5}}, opener=models.__getitem__).state_dict()
    edges = [edge for edge in found(base=base, **tuned, merged=merged).edges if edge.child == "merged"]
    assert {(edge.parent, edge.kind) for edge in edges} == {(name, "merge") for name in ("base", "a", "b")}
    assert "its elements are those of 3 models" in edges[0].evidence


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("share", [0.1, 0.15, 0.4])
def test_a_parent_is_no_mosaic_of_children_that_kept_most_of_it(share: float, scale: float) -> None:
    base = {name: scale * t for name, t in network(0).items()}
    draw = torch.Generator().manual_seed(4)

    def touched() -> dict[str, torch.Tensor]:
        return {
            name: t + 0.3 * t.std() * torch.randn(t.shape, generator=draw) * (torch.rand(t.shape, generator=draw) < share)
            for name, t in base.items()
        }

    assert pairs(found(base=base, a=touched(), b=touched())) == {("base", "a", "finetune"), ("base", "b", "finetune")}


def test_a_parent_is_no_merge_of_children_that_trained_other_layers() -> None:
    base = network(0)
    head, body = ({name: t for name, t in drifted(base, seed, 0.1).items() if ("fc3" in name) == (seed == 1)} for seed in (1, 2))
    assert pairs(found(base=base, head=base | head, body=base | body)) == {("base", "head", "finetune"), ("base", "body", "finetune")}


def test_siblings_in_half_precision_that_hardly_moved_are_no_merges_of_one_another() -> None:
    base = network(0)
    tuned = {name: drifted(base, seed, 1e-3) for seed, name in enumerate("abcd", 1)}
    result = found(**{name: {key: t.bfloat16() for key, t in one.items()} for name, one in (tuned | {"base": base}).items()})
    assert pairs(result) == {("base", name, "finetune") for name in "abcd"}


def test_matrices_with_infinities_in_several_models_are_passed_over() -> None:
    models = {"base": network(0)} | {name: drifted(network(0), seed, 0.1) for seed, name in enumerate("abc", 1)}
    for name in "ab":
        models[name]["fc1.weight"][0, 0] = torch.inf
    result = found(**models)
    assert result.families == [["base", "a", "b", "c"]] and {edge.kind for edge in result.edges} == {"finetune"}


def test_a_network_that_died_is_no_relative_of_a_stranger() -> None:
    dead = {name: 1e-3 * t for name, t in network(3).items()}
    result = found(dead=dead, other=network(0))
    assert not result.edges and all(pair.probability < 0.5 for pair in result.pairs)


def test_sums_of_differences_have_the_tuned_models_for_parents() -> None:
    base = network(0)
    a, b = drifted(base, 1, 0.3), drifted(base, 2, 0.3)
    result = found(base=base, a=a, b=b, sum={name: base[name] + 0.7 * (a[name] - base[name]) + 0.7 * (b[name] - base[name]) for name in a})
    assert {(edge.parent, edge.kind) for edge in result.edges if edge.child == "sum"} == {("a", "merge"), ("b", "merge")}


def test_what_is_declared_holds_and_strangers_weights_speak_against_it() -> None:
    base, other = network(0), network(1)
    told = (Declared("org/base", "finetune"),)
    result = lineage([Entry("base", Checkpoint.of(base)), Entry("tuned", Checkpoint.of(drifted(base, 1, 0.2)), told)])
    assert result.edges[0].probability > 0.9
    assert "card names base" in result.edges[0].evidence
    assert not lineage([Entry("base", Checkpoint.of(base)), Entry("other", Checkpoint.of(other), told)]).edges


def test_steps_of_a_run_follow_each_other() -> None:
    base = network(0)
    states = [base, drifted(base, 1, 0.2), drifted(base, 2, 0.2)]
    entries = [Entry(f"step{at}", Checkpoint.of(state), run="r", step=at) for at, state in enumerate(states)]
    result = lineage(entries)
    assert pairs(result) == {("step0", "step1", "continued"), ("step1", "step2", "continued")}


def test_hashes_alone_find_copies_and_shared_tensors() -> None:
    base = network(0)
    entries = [Entry("base", Checkpoint.of(base)), Entry("head", Checkpoint.of(base | {"fc3.weight": network(4)["fc3.weight"]}))]
    [edge] = lineage(entries, weights=False).edges
    assert (edge.kind, edge.is_directed) == ("finetune", True)
    assert "equal tensors" in edge.evidence


def test_sketches_come_from_the_cache_the_second_time() -> None:
    base = network(0)
    entries = [Entry("base", Checkpoint.of(base)), Entry("a", Checkpoint.of(drifted(base, 1, 0.2)))]
    cache: dict[str, Mapping[str, torch.Tensor]] = {}
    first = lineage(entries, cache=cache)
    assert len(cache) == 2
    assert lineage(entries, cache=cache) == first


def test_a_tensor_with_nan_is_left_out_of_the_comparison() -> None:
    base = network(0)
    tuned = drifted(base, 1, 0.2)
    tuned["fc3.weight"] = torch.full_like(tuned["fc3.weight"], math.nan)
    [edge] = found(base=base, tuned=tuned).edges
    assert (edge.parent, edge.child) == ("base", "tuned")


def test_empty_and_tiny_models_have_no_relatives() -> None:
    zero = {"w": torch.zeros(4, 4)}
    result = found(zero=zero, one={"w": torch.ones(1)}, none={}, number={"steps": torch.tensor(3)})
    assert not result.edges and len(result.families) == 4


def test_names_have_to_be_distinct_and_known() -> None:
    entry = Entry("a", Checkpoint.of(network(0)))
    with pytest.raises(AnalysisError, match=r"two models are named 'a'; lineage needs names that are unique"):
        lineage([entry, entry])
    with pytest.raises(UnknownNameError, match=r"no model named 'b'"):
        lineage([entry]).descendants("b")


def test_it_is_drawn() -> None:
    base = network(0)
    figure = found(base=base, a=drifted(base, 1, 0.2)).plot()
    assert {text.get_text() for text in figure.axes[0].texts} == {"base", "a"}


def test_the_fine_tune_of_outlier_exposure_is_found_and_the_run_of_one_seed_refused(real_checkpoints: Path) -> None:
    folder = real_checkpoints / "outlier-exposure"
    names = {"base": "baseline_epoch_9", "tuned": "oe_tune_epoch_4", "scratch": "oe_scratch_epoch_9"}
    result = lineage([Entry(name, ws.open(folder / f"{file}.pt")) for name, file in names.items()])
    assert pairs(result) == {("base", "tuned", "finetune")}


def test_textgenrnn_has_its_base(real_checkpoints: Path) -> None:
    names = ("base", "hacker_news", "reddit_apple_android")
    result = lineage([Entry(name, ws.open(real_checkpoints / "textgenrnn" / f"{name}.hdf5")) for name in names])
    assert pairs(result) == {("base", "hacker_news", "finetune"), ("base", "reddit_apple_android", "finetune")}


def test_the_orbit_is_one_family_and_trainings_apart_are_none(real_checkpoints: Path) -> None:
    files = [*sorted((real_checkpoints / "inr_orbit").glob("*.pth"))[:24], *(real_checkpoints / "drfrankenstein").glob("resnet20*.pt")]
    result = lineage([Entry(file.stem, ws.open(file)) for file in [*files, real_checkpoints / "distiller" / "resnet20_dense.pth.tar"]])
    assert [len(family) for family in result.families] == [24, 1, 1, 1]
    assert not any(edge.is_directed for edge in result.edges)
