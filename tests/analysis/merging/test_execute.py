"""The executor: what it makes of files is what merging in memory makes, bit for bit, however it is cut, stored, ordered and shared out."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weightspace as ws
from tests.analysis.merging.small_models import (
    StateDict,
    count_of,
    decoder,
    family,
    folder,
    model,
    same,
    settings_of,
    write,
)
from weightspace.analysis.merging import MergeMethod, execute, merge, methods
from weightspace.analysis.merging.chance import Chance
from weightspace.analysis.merging.method import Slab, Whole
from weightspace.checkpoint import Checkpoint

NAMES = list(methods)
DRAWN = [name for name in NAMES if name.startswith(("dare", "della"))]


def evidence(method: MergeMethod, tensors: StateDict, seed: int) -> StateDict:
    """What data might say of a model."""
    draw = torch.Generator().manual_seed(seed)
    if method.evidence == ("gram",):
        made = {name: torch.randn(9, tensor.shape[1], generator=draw) for name, tensor in tensors.items() if tensor.ndim == 2}
        return {name: rows.T @ rows / 9 for name, rows in made.items()}
    return {name: torch.rand(tensor.shape, generator=draw) for name, tensor in tensors.items() if tensor.is_floating_point()}


class Example:
    """A base and tuned models on the disk, with a recipe for one method."""

    def __init__(self, method: MergeMethod, place: Path, containers: Sequence[str] = ("safetensors",), dtypes: Sequence[torch.dtype] = ()):
        self.method, count = method, count_of(method)
        self.base, self.tuned = family(count)
        for tensors, dtype in zip([*self.tuned, self.base], dtypes, strict=False):
            tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items() if tensor.is_floating_point()})
        paths = [write(one, place / f"m{at}", containers[at % len(containers)]) for at, one in enumerate(self.tuned)]
        self.each, self.whole = settings_of(method, count)
        self.told = [{name: evidence(method, one, at) for name in method.evidence} for at, one in enumerate(self.tuned)]
        models = []
        for at, path in enumerate(paths):
            files = {name: str(write(found, place / f"e{at}")) for name, found in self.told[at].items()}
            models.append({"model": str(path), "parameters": {**self.each[at], **files}})
        self.recipe: dict[str, Any] = {"merge_method": method.name, "models": models, "parameters": self.whole, "seed": 5}
        if method.base == "required":
            self.recipe["base_model"] = str(write(self.base, place / "base", containers[-1]))
        self.ids = tuple(ws.open(path).id for path in paths)

    def by_hand(self, dtype: torch.dtype | None = None, out: torch.dtype | None = None) -> StateDict:
        """The merge in memory, a tensor at a time."""
        made = {}
        for name, first in self.tuned[0].items():
            if not first.is_floating_point():
                made[name] = first
                continue
            inputs = [one[name] for one in (*self.tuned, *([self.base] if "base_model" in self.recipe else []))]
            widest = torch.float64 if dtype == torch.float64 or any(one.dtype == torch.float64 for one in inputs) else torch.float32
            values = [(one if dtype is None else one.to(dtype)).to(widest) for one in inputs]
            base = values.pop() if "base_model" in self.recipe else None
            told = {key: tuple(_widened(one[key].get(name), widest) for one in self.told) for key in self.method.evidence}
            slab = Slab(tuple(values), base, Chance(5, name, 0, self.ids), told, name)
            each = {key: [one.get(key, self.method.parameters[key].default) for one in self.each] for key in self.each[0]}
            given = self.method.read({**each, **self.whole}, len(self.tuned))
            made[name] = self.method.apply(Whole(slab), given)(slab).to(out or dtype or _promoted(inputs))
        return made


def _widened(found: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if found is None else found.to(dtype)


def _promoted(inputs: Sequence[Tensor]) -> torch.dtype:
    made = inputs[0].dtype
    for one in inputs[1:]:
        made = torch.promote_types(made, one.dtype)
    return made


@pytest.fixture
def slabs(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Sets how many elements a slab has, and how many bytes are kept."""

    def cut(elements: int, kept: int) -> None:
        monkeypatch.setattr(execute, "SLAB", elements)
        monkeypatch.setattr(execute, "KEPT", kept)

    return cut


@pytest.mark.parametrize("name", NAMES)
def test_files_merge_as_state_dicts_do_and_cutting_tensors_changes_rounding_at_most(
    name: str, tmp_path: Path, slabs: Callable[[int, int], None]
) -> None:
    example = Example(methods[name], tmp_path)
    whole = example.by_hand()
    assert same(merge(example.recipe, tmp_path / "merged.safetensors"), whole)
    for kept in (1 << 20, 0) if methods[name].summary else (0,):
        slabs(13, kept)
        for tensor, found in merge(example.recipe).state_dict().items():
            torch.testing.assert_close(found, whole[tensor], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "slerp", "ties", "della", "model_stock", "passthrough", "sce"])
def test_any_container_and_any_mixture_of_dtypes(name: str, tmp_path: Path) -> None:
    example = Example(
        methods[name],
        tmp_path,
        containers=("sharded", "torch", "numpy", "safetensors"),
        dtypes=[torch.bfloat16, torch.float16, torch.float32, torch.bfloat16][-count_of(methods[name]) - 1 :],
    )
    assert same(merge(example.recipe, tmp_path / "merged"), example.by_hand())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_of_the_inputs_and_out_dtype_of_the_result(stored: torch.dtype, tmp_path: Path) -> None:
    example = Example(methods["task_arithmetic"], tmp_path, dtypes=[stored] * 4)
    for dtype, out in itertools.product((None, "float16", "float64"), (None, "bfloat16", "float32")):
        made = merge({**example.recipe, "dtype": dtype, "out_dtype": out})
        assert same(made, example.by_hand(*(None if one is None else getattr(torch, one) for one in (dtype, out))))


def test_halves_of_two_kinds_make_float32(tmp_path: Path) -> None:
    example = Example(methods["linear"], tmp_path, dtypes=[torch.float16, torch.bfloat16, torch.float16])
    assert merge(example.recipe)["head.weight"].dtype == torch.float32


def test_eight_bit_floats_are_merged_in_float32(tmp_path: Path) -> None:
    tensors = {"w": torch.linspace(-2, 2, 16).reshape(4, 4).to(torch.float8_e4m3fn)}
    path = str(write(tensors, tmp_path / "a"))
    made = merge({"merge_method": "linear", "models": [path], "parameters": {"weight": 1}})
    assert same(made, tensors)


@pytest.mark.parametrize("name", ["ties", "dare_ties", "slerp", "iso_c"])
def test_the_same_bytes_for_any_jobs_shards_and_output(name: str, tmp_path: Path) -> None:
    example = Example(methods[name], tmp_path)
    reference = merge(example.recipe, tmp_path / "reference.safetensors")
    for at, (jobs, shard, out) in enumerate(((2, 400, ""), (4, 1, ""), (3, 5_000_000, ""), (4, 5_000_000, ".safetensors"))):
        made = merge(example.recipe, tmp_path / f"out{at}{out}", jobs=jobs, shard_bytes=shard)
        assert made.id == reference.id
        assert made.recipe == reference.recipe
    assert merge(example.recipe).id == reference.id


@pytest.mark.parametrize("name", ["linear", "ties", "dare_ties", "della", "fisher"])
def test_the_order_of_tensors_in_the_files_does_not_matter(name: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    example, other = Example(methods[name], tmp_path), Example(methods[name], tmp_path / "other")
    for at, tensors in enumerate(other.tuned):
        torch.save(dict(sorted(tensors.items(), reverse=at % 2 == 0)), tmp_path / "other" / f"m{at}.pt")
        other.recipe["models"][at]["model"] = str(tmp_path / "other" / f"m{at}.pt")
    first, second = merge(example.recipe, tmp_path / "one"), merge(other.recipe, tmp_path / "two")
    assert first.id == second.id
    assert list(first) == list(second)


@pytest.mark.parametrize("name", [name for name in NAMES if "order" in methods[name].promises])
def test_the_order_of_models_does_not_matter_where_promised(name: str, tmp_path: Path) -> None:
    example = Example(methods[name], tmp_path)
    turned = {**example.recipe, "models": example.recipe["models"][::-1]}
    straight = merge(example.recipe)
    for tensor, found in merge(turned).items():
        torch.testing.assert_close(found, straight[tensor], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DRAWN)
def test_seeds_are_all_that_is_left_to_chance(name: str, tmp_path: Path) -> None:
    example = Example(methods[name], tmp_path)
    once, again, other = (merge({**example.recipe, "seed": seed}).id for seed in (5, 5, 6))
    assert once == again != other


def tiny(value: float, tmp_path: Path, name: str, **tensors: Tensor) -> str:
    return str(write({"w": torch.full((2, 3), value), **tensors}, tmp_path / name))


def linear(*models: Any, **more: Any) -> dict[str, Any]:
    return {"merge_method": "linear", "models": list(models), "parameters": {"weight": 1}, **more}


def test_integers_and_booleans_are_copied(tmp_path: Path) -> None:
    ids, mask = torch.arange(5), torch.tensor([True, False])
    made = merge(linear(*(tiny(v, tmp_path, n, ids=ids, mask=mask) for v, n in ((1.0, "a"), (3.0, "b")))), tmp_path / "out")
    assert made["ids"].equal(ids) and made["mask"].equal(mask) and made["w"].equal(torch.full((2, 3), 2.0))


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    paths = []
    for at in range(2):
        shared = torch.full((3, 2), float(at))
        torch.save({"embed.weight": shared, "head.weight": shared}, tmp_path / f"{at}.pt")
        paths.append(str(tmp_path / f"{at}.pt"))
    for out in ("out", "out.safetensors"):
        made = merge(linear(*paths), tmp_path / out)
        assert made.info["head.weight"].alias_of == "embed.weight" or made.info["embed.weight"].alias_of == "head.weight"
        assert made["head.weight"].equal(torch.full((3, 2), 0.5)) and made.num_bytes == 24


def test_tensors_tied_in_one_model_alone_come_out_untied(tmp_path: Path) -> None:
    shared = torch.zeros(3, 2)
    torch.save({"embed.weight": shared, "head.weight": shared}, tmp_path / "a.pt")
    torch.save({"embed.weight": torch.ones(3, 2), "head.weight": torch.full((3, 2), 3.0)}, tmp_path / "b.pt")
    made = merge(linear(str(tmp_path / "a.pt"), str(tmp_path / "b.pt")), tmp_path / "out")
    assert made["embed.weight"].equal(torch.full((3, 2), 0.5)) and made["head.weight"].equal(torch.full((3, 2), 1.5))
    assert made.info["head.weight"].alias_of is None


def test_a_head_that_a_tied_model_leaves_out_is_its_embedding(tmp_path: Path) -> None:
    tied = folder(decoder(1, 0, tied=True), tmp_path / "tied", {"tie_word_embeddings": True, "num_hidden_layers": 1})
    free = folder(decoder(1, 1), tmp_path / "free", {"tie_word_embeddings": False, "num_hidden_layers": 1})
    made = merge(linear(str(tied), str(free)), tmp_path / "out")
    expected = (decoder(1, 0)["model.embed_tokens.weight"] + decoder(1, 1)["lm_head.weight"]) / 2
    torch.testing.assert_close(made["lm_head.weight"], expected)
    assert made.metadata["config"]["tie_word_embeddings"] is False
    both = merge(linear(str(tied), str(tied)), tmp_path / "both")
    assert "lm_head.weight" not in both and both.metadata["config"]["tie_word_embeddings"] is True


def test_a_tie_that_the_config_takes_for_granted_is_said_when_it_is_gone(tmp_path: Path) -> None:
    config = {"model_type": "gemma2", "num_hidden_layers": 1}
    tied = folder(decoder(1, 0, tied=True), tmp_path / "tied", config)
    free = folder(decoder(1, 1), tmp_path / "free", {**config, "tie_word_embeddings": False})
    assert merge(linear(str(tied), str(free)), tmp_path / "out").metadata["config"]["tie_word_embeddings"] is False


def slices_of(*slices: Sequence[tuple[Path, int, int]], method: str = "passthrough", **more: Any) -> dict[str, Any]:
    made = [{"sources": [{"model": str(path), "layer_range": [low, high]} for path, low, high in one]} for one in slices]
    return {"merge_method": method, "slices": made, **more}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two language models of four layers."""
    config = {"num_hidden_layers": 4, "torch_dtype": "float32", "tie_word_embeddings": False}
    return folder(decoder(4, 0), tmp_path / "a", config), folder(decoder(4, 1), tmp_path / "b", config)


def test_layers_of_two_models_are_stacked(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = decoder(4, 0), decoder(4, 1)
    made = merge(slices_of([(pair[0], 0, 3)], [(pair[1], 1, 4)]), tmp_path / "out")
    assert made.metadata["config"]["num_hidden_layers"] == 6
    for at in range(6):
        for rest in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm"):
            origin = a[f"model.layers.{at}.{rest}.weight"] if at < 3 else b[f"model.layers.{at - 2}.{rest}.weight"]
            assert made[f"model.layers.{at}.{rest}.weight"].equal(origin)
    assert made["model.embed_tokens.weight"].equal(a["model.embed_tokens.weight"])
    assert made["model.norm.weight"].equal(b["model.norm.weight"]) and made["lm_head.weight"].equal(b["lm_head.weight"])
    assert len(made) == 3 + 6 * 3


def test_a_stack_takes_its_head_from_the_model_that_has_one(pair: tuple[Path, Path], tmp_path: Path) -> None:
    tied = folder(decoder(4, 2, tied=True), tmp_path / "tied", {"num_hidden_layers": 4, "tie_word_embeddings": True})
    made = merge(slices_of([(tied, 0, 2)], [(pair[1], 2, 4)]), tmp_path / "out")
    assert made["lm_head.weight"].equal(decoder(4, 1)["lm_head.weight"])
    assert made["model.embed_tokens.weight"].equal(decoder(4, 2)["model.embed_tokens.weight"])
    assert made.metadata["config"]["tie_word_embeddings"] is False
    turned = merge(slices_of([(pair[1], 0, 2)], [(tied, 2, 4)]), tmp_path / "turned")
    assert turned["lm_head.weight"].equal(decoder(4, 2)["model.embed_tokens.weight"])


def test_a_model_is_stacked_on_itself(pair: tuple[Path, Path]) -> None:
    made = merge(slices_of([(pair[0], 0, 2)], [(pair[0], 0, 2)], [(pair[0], 3, 4)]))
    assert len(made) == 3 + 5 * 3
    assert made["model.layers.2.mlp.up_proj.weight"].equal(decoder(4, 0)["model.layers.0.mlp.up_proj.weight"])


def test_layers_that_share_their_weights_are_stacked_untied(tmp_path: Path) -> None:
    first, last = torch.full((2, 2), 1.0), torch.full((2, 2), 2.0)
    torch.save({"h.0.w": first, "h.1.w": first, "h.2.w": last}, tmp_path / "a.pt")
    path = tmp_path / "a.pt"
    made = merge(slices_of([(path, 2, 3)], [(path, 0, 2)]), tmp_path / "out")
    assert [made[f"h.{at}.w"][0, 0].item() for at in range(3)] == [2.0, 1.0, 1.0]


def test_slices_merge_what_stands_at_different_depths(pair: tuple[Path, Path]) -> None:
    recipe = slices_of([(pair[0], 0, 2), (pair[1], 2, 4)], method="linear", parameters={"weight": [0.0, 1.0]})
    recipe["slices"][0]["sources"][0]["parameters"] = {"weight": 1}
    made, a, b = merge(recipe), decoder(4, 0), decoder(4, 1)
    assert made["model.layers.0.mlp.up_proj.weight"].equal(a["model.layers.0.mlp.up_proj.weight"])
    mean = (a["model.layers.1.mlp.up_proj.weight"] + b["model.layers.3.mlp.up_proj.weight"]) / 2
    torch.testing.assert_close(made["model.layers.1.mlp.up_proj.weight"], mean)


def test_slices_read_a_base_that_is_not_among_their_sources(pair: tuple[Path, Path]) -> None:
    recipe = slices_of([(pair[1], 1, 3)], method="task_arithmetic", base_model=str(pair[0]), parameters={"weight": 1})
    made = merge(recipe)
    torch.testing.assert_close(made["model.layers.0.mlp.up_proj.weight"], decoder(4, 1)["model.layers.1.mlp.up_proj.weight"])


def test_slices_do_not_take_in_a_base_that_the_method_has_no_use_for(pair: tuple[Path, Path]) -> None:
    recipe = slices_of([(pair[1], 1, 3)], method="linear", base_model=str(pair[0]), parameters={"weight": 1})
    assert merge(recipe)["model.layers.0.mlp.up_proj.weight"].equal(decoder(4, 1)["model.layers.1.mlp.up_proj.weight"])


def test_a_slice_has_a_base_of_its_own(pair: tuple[Path, Path]) -> None:
    recipe = slices_of([(pair[0], 0, 1), (pair[1], 0, 1)], method="slerp", base_model=str(pair[0]), parameters={"t": 0.0})
    recipe["slices"][0]["base_model"] = str(pair[1])
    torch.testing.assert_close(merge(recipe)["model.layers.0.mlp.up_proj.weight"], decoder(4, 1)["model.layers.0.mlp.up_proj.weight"])


def test_modules_merge_parts_of_a_model_each_in_its_way(tmp_path: Path) -> None:
    def parts(seed: int) -> StateDict:
        made = model(seed)
        return {
            **{f"encoder.{name}": made[name] for name in made},
            **{f"decoder.{name}": -made[name] for name in made},
            "shared": made["norm.weight"],
        }

    a, b = (str(write(parts(at), tmp_path / f"{at}")) for at in range(2))
    recipe: dict[str, Any] = {
        "merge_method": "linear",
        "modules": {
            "encoder.": {"models": [{"model": a, "parameters": {"weight": 1}}]},
            "decoder.": {"slices": [{"sources": [{"model": b, "layer_range": [1, 2]}]}], "parameters": {"weight": 1}},
            "default": {"models": [a, b], "parameters": {"weight": 1}},
        },
    }
    made, one, other = merge(recipe, tmp_path / "out"), parts(0), parts(1)
    assert made["encoder.layers.1.w"].equal(one["encoder.layers.1.w"])
    assert made["decoder.layers.0.w"].equal(other["decoder.layers.1.w"]) and "decoder.layers.1.w" not in made
    torch.testing.assert_close(made["shared"], (one["shared"] + other["shared"]) / 2)


def test_numbers_begin_names_and_experts_are_no_layers(tmp_path: Path) -> None:
    tensors = [{f"{at}.weight": torch.full((2, 2), v) for at in range(3)} for v in (0.0, 1.0)]
    paths = [str(write(one, tmp_path / f"s{at}")) for at, one in enumerate(tensors)]
    recipe = {"merge_method": "task_arithmetic", "models": paths, "base_model": paths[0], "parameters": {"weight": [0, 1]}}
    made = merge(recipe)
    assert [made[f"{at}.weight"][0, 0].item() for at in range(3)] == [0.0, 0.5, 1.0]
    experts = [{f"layers.{layer}.experts.{at}.w": torch.full((2, 2), v) for layer in range(2) for at in range(3)} for v in (0.0, 1.0)]
    paths = [str(write(one, tmp_path / f"e{at}")) for at, one in enumerate(experts)]
    made = merge({**recipe, "models": paths, "base_model": paths[0]})
    assert {name: made[name][0, 0].item() for name in made} == {name: float(name[7]) for name in experts[0]}


def test_every_stack_has_a_depth_of_its_own(tmp_path: Path) -> None:
    names = [*(f"encoder.{at}.w" for at in range(2)), *(f"decoder.{at}.w" for at in range(5)), "only.0.w"]
    paths = [str(write({name: torch.full((2, 2), v) for name in names}, tmp_path / f"{v}")) for v in (0.0, 1.0)]
    made = merge({"merge_method": "linear", "models": [{"model": paths[0], "parameters": {"weight": [1, 0]}},
                                                      {"model": paths[1], "parameters": {"weight": [0, 1]}}]})  # fmt: skip
    assert [made[name][0, 0].item() for name in names] == [0, 1, 0, 0.25, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize("name", ["w.²", "w.٣.x", "layers.007.w", f"layers.{'9' * 30}.w", "", "..", "a.b..c", "0", "ü.\U0001f600.w"])
def test_odd_names_pass(name: str, tmp_path: Path) -> None:
    path = str(write({name: torch.ones(2, 2), "other": torch.ones(2)}, tmp_path / "a"))
    assert merge(linear(path, path), tmp_path / "out")[name].equal(torch.ones(2, 2))


def test_a_model_that_is_listed_twice_counts_twice(tmp_path: Path) -> None:
    a, b = tiny(0.0, tmp_path, "a"), tiny(3.0, tmp_path, "b")
    made = merge(linear(a, a, b), tmp_path / "out.safetensors")
    assert made["w"].equal(torch.ones(2, 3))


def test_a_base_among_the_models_is_the_base(tmp_path: Path) -> None:
    base, tuned = tiny(1.0, tmp_path, "base"), tiny(2.0, tmp_path, "tuned")
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "parameters": {"weight": 2}}
    listed = [{"model": base, "parameters": {"weight": 7}}, tuned]
    assert merge({**recipe, "models": listed}).id == merge({**recipe, "models": [tuned]}).id
    assert merge({**recipe, "models": [tuned]})["w"].equal(torch.full((2, 3), 3.0))


def test_a_base_is_one_more_model_for_methods_without(tmp_path: Path) -> None:
    base, tuned = tiny(1.0, tmp_path, "base"), tiny(2.0, tmp_path, "tuned")
    recipe = {"merge_method": "linear", "base_model": base, "parameters": {"weight": 1}}
    assert merge({**recipe, "models": [{"model": tuned, "parameters": {"weight": 3}}]})["w"].equal(torch.full((2, 3), 1.75))
    assert merge({**recipe, "models": [base, tuned]})["w"].equal(torch.full((2, 3), 1.5))


def test_passthrough_scales(tmp_path: Path) -> None:
    a = tiny(2.0, tmp_path, "a", **{"down_proj.weight": torch.ones(2, 2)})
    scale = [{"filter": "down_proj", "value": 0}, {"value": 0.5}]
    made = merge({"merge_method": "passthrough", "models": [{"model": a, "parameters": {"scale": scale}}]})
    assert made["down_proj.weight"].equal(torch.zeros(2, 2)) and made["w"].equal(torch.ones(2, 3))


def test_running_statistics_are_averaged_and_their_counters_copied(tmp_path: Path) -> None:
    nets, paths = [], []
    for at in range(2):
        net = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        with torch.random.fork_rng():
            torch.manual_seed(at)
            for _ in range(at + 1):
                net(torch.randn(2, 1, 4, 4))
        torch.save(net.state_dict(), tmp_path / f"{at}.pth")
        nets.append(net.state_dict())
        paths.append(str(tmp_path / f"{at}.pth"))
    made = merge(linear(*paths), tmp_path / "out.safetensors")
    torch.testing.assert_close(made["1.running_var"], (nets[0]["1.running_var"] + nets[1]["1.running_var"]) / 2)
    assert made["1.num_batches_tracked"].equal(torch.tensor(1))
    torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(12, 2)).load_state_dict(
        made.state_dict()
    )


def test_models_of_keras_merge(real_checkpoints: Path, tmp_path: Path) -> None:
    place = real_checkpoints / "textgenrnn"
    base, tuned = ws.open(place / "base.hdf5"), ws.open(place / "hacker_news.hdf5")
    alike = [name for name in base.info if name in tuned.info and base.info[name].shape == tuned.info[name].shape]
    if set(alike) != set(base.info) or set(alike) != set(tuned.info):
        pytest.skip("the two have other vocabularies")
    recipe = {"merge_method": "task_arithmetic", "base_model": str(place / "base.hdf5"), "models": [str(place / "hacker_news.hdf5")]}
    made = merge({**recipe, "parameters": {"weight": 0.5}}, tmp_path / "out")
    for name in made:
        torch.testing.assert_close(made[name], (base[name] + tuned[name]) / 2)


def test_what_is_made_lazily_reads_what_it_is_asked_for(tmp_path: Path) -> None:
    a, b = tiny(1.0, tmp_path, "a"), tiny(3.0, tmp_path, "b")
    made = merge(linear(a, b))
    assert isinstance(made, Checkpoint) and made["w"].equal(torch.full((2, 3), 2.0))
    assert made.parents == (ws.open(a).id, ws.open(b).id) and made.recipe is not None and made.recipe["kind"] == "merge"


@pytest.mark.parametrize("name", ["dare_ties", "iso_c", "sce", "ties"])
def test_what_is_made_lazily_is_what_is_written_with_any_number_of_threads(name: str, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(300, 500, generator=draw)
    paths = [write({"w": base + torch.randn(300, 500, generator=draw)}, tmp_path / f"m{at}") for at in range(3)]
    given = {"weight": 1, "density": 0.5, "rescale": True, "select_topk": 0.3}
    parameters = {key: value for key, value in given.items() if key in methods[name].parameters}
    recipe = {
        "merge_method": name,
        "models": [*map(str, paths)],
        "base_model": str(write({"w": base}, tmp_path / "base")),
        "parameters": parameters,
    }
    written = merge(recipe, tmp_path / "merged")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            assert merge(recipe).id == written.id
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_inputs_are_left_alone(tmp_path: Path) -> None:
    example = Example(methods["ties"], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    merge(example.recipe, tmp_path / "out")
    assert before == {path: path.read_bytes() for path in before}


def test_threads_are_given_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    merge(linear(tiny(1.0, tmp_path, "a")), tmp_path / "out", jobs=3)
    assert torch.get_num_threads() == before
