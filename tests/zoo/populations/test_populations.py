"""Every population: trained again alone to the bit, judged as recorded, built again, its symmetry proved, split without leaks."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weightspace as ws
from weightspace.errors import RecordError, TaskError
from weightspace.metanets import Layout
from weightspace.modules import module_for
from weightspace.task import task_for
from weightspace.zoo import Zoo
from weightspace.zoo.populations import loras, populations
from weightspace.zoo.populations.family import APART
from weightspace.zoo.zoo import Added

SMALL: dict[str, dict[str, Any]] = {
    "mlps": {"data": "digits", "steps": (0, 20), "depths": (1, 2), "widths": (4,), "activations": ("gelu",)},
    "cnns": {"steps": (8,), "widths": (4,), "depths": (1,), "norms": ("batch",), "activations": ("relu",)},
    "sirens": {"steps": (0, 25), "width": 8, "psnr_floor": 3.0, "per_image": 2},
    "transformers": {"steps": (5,), "widths": (8,), "heads": (2,), "depths": (1,)},
    "loras": {"data": "digits", "steps": (10,), "base_steps": 20, "base_width": 16, "ranks": (2, 4)},
}
COUNT = 4


def trained(name: str, **settings: Any) -> list[Added]:
    """The networks of a small population, without what they were made from."""
    made = populations[name](**{**SMALL[name], "count": COUNT, **settings})
    return [one for one in made if one.recipe is not None and one.recipe["name"] == name]


@cache
def some(name: str) -> tuple[Added, ...]:
    return tuple(trained(name))


@cache
def base() -> Added:
    return next(iter(populations["loras"](**SMALL["loras"], count=1)))


def state(model: Added) -> dict[str, torch.Tensor]:
    return dict(model.tensors)


def same(one: Sequence[Added], two: Sequence[Added]) -> bool:
    assert len(one) == len(two) > 0
    return all(
        a.name == b.name and all(torch.equal(tensor, state(b)[key]) for key, tensor in state(a).items())
        for a, b in zip(one, two, strict=True)
    )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """A zoo with a few networks of every population."""
    made = Zoo(tmp_path_factory.mktemp("populations"))
    made.add_many([base(), *(one for name in SMALL for one in some(name))])
    return made


@pytest.mark.parametrize("name", SMALL)
class TestEveryPopulation:
    def test_a_recipe_trains_its_network_again_alone_to_the_bit(self, name: str) -> None:
        for among in some(name)[-2:]:
            recipe = json.loads(json.dumps(among.recipe))
            alone = {one.name: one for one in populations[recipe["name"]](**recipe["settings"], seeds=[recipe["seed"]])}
            assert same([among], [alone[among.name]])

    def test_neither_threads_nor_more_networks_change_a_network(self, name: str) -> None:
        before = torch.get_num_threads()
        more = {one.name: one for one in trained(name, count=COUNT + 3, jobs=2)}
        assert torch.get_num_threads() == before
        assert same(some(name), [more[one.name] for one in some(name)])

    def test_another_seed_gives_other_networks(self, name: str) -> None:
        other = trained(name, seed=1)
        assert not {one.name for one in other} & {one.name for one in some(name)}
        assert {one.run.seed for one in other if one.run} == {APART + at for at in range(COUNT)}
        drawn = [
            torch.cat([tensor.flatten() for key, tensor in state(one).items() if "lora_B" not in key]) for one in (*other, *some(name))
        ]
        assert len({tuple(tensor.tolist()) for tensor in drawn}) == len(drawn)

    def test_the_callers_randomness_is_not_used(self, name: str) -> None:
        before = torch.get_rng_state()
        trained(name, count=1)
        assert torch.equal(before, torch.get_rng_state())

    def test_the_catalogued_network_scores_as_was_recorded(self, name: str, zoo: Zoo) -> None:
        for one in some(name):
            checkpoint = zoo.open(one.name)
            assert one.metrics is not None
            found, recorded = task_for(checkpoint).evaluate(checkpoint.state_dict()), one.metrics.get("test", one.metrics)
            assert found == {key: pytest.approx(value, rel=1e-4, abs=1e-5) for key, value in recorded.items()}

    def test_its_module_has_the_names_of_the_checkpoint(self, name: str, zoo: Zoo) -> None:
        for one in some(name):
            loaded = module_for(zoo.open(one.name)).state_dict()
            assert list(loaded) == list(state(one)) and all(torch.equal(tensor, loaded[key]) for key, tensor in state(one).items())

    def test_the_zoo_knows_its_symmetry_proved(self, name: str, zoo: Zoo) -> None:
        for one in some(name)[-1:]:
            spec = zoo.spec(one.name)
            assert spec.proved and any(group.kind == "permutable" for group in spec.groups.values())
            spec.check(zoo.open(one.name))
            assert Layout.of(spec).slots

    def test_each_network_is_a_run_with_what_a_metanet_needs(self, name: str, zoo: Zoo) -> None:
        keys = {one.run.key for one in some(name) if one.run}
        rows = [row for row in zoo.sql("select * from runs").to_pylist() if row["key"] in keys]
        assert len(rows) == COUNT and len({row["seed"] for row in rows}) == COUNT
        for row in rows:
            assert row["split"] in ("train", "val", "test") if row["status"] == "finished" else row["split"] is None
            assert "learning_rate" in json.loads(row["hyperparameters"])

    def test_what_is_there_is_left_out(self, name: str) -> None:
        keys = [one.run.key for one in some(name) if one.run]
        left = trained(name, skip=set(keys) - {keys[0]})
        assert {one.run.key for one in left if one.run} == {keys[0]}

    def test_steps_that_are_none_are_refused(self, name: str) -> None:
        with pytest.raises(RecordError, match=r"steps is \(\), expected a list of whole numbers"):
            trained(name, steps=())


def test_relu_and_tanh_networks_of_equal_shapes_have_symmetries_of_their_own(tmp_path: Path) -> None:
    here, found = Zoo(tmp_path), {}
    for kind in ("relu", "tanh", "gelu"):
        [one] = populations["mlps"](data="digits", steps=(2,), widths=(4,), depths=(1,), activations=(kind,), count=1)
        here.add_many([one])
        found[kind] = one.name
    for _ in range(2):  # what the first question left in the catalog does not answer for the others
        assert {kind: here.spec(name).groups["fc1"].symmetry for kind, name in found.items()} == {
            "relu": "scale", "tanh": "sign", "gelu": "none",
        }  # fmt: skip


class TestSirens:
    def test_stored_weights_render_the_image_again(self, zoo: Zoo) -> None:
        from sklearn.datasets import load_digits

        images = load_digits().images / 16
        for one in some("sirens"):
            if one.step != 25:
                continue
            assert one.recipe is not None and one.run is not None
            known, at = one.recipe["rendering"], int(one.run.hyperparameters["image"])
            weights = {key: tensor.double().numpy() for key, tensor in zoo.open(one.name).state_dict().items()}
            low, high = known["coordinates"]
            rows, columns = np.meshgrid(np.linspace(low, high, 8), np.linspace(low, high, 8), indexing="ij")
            values = np.stack([rows, columns], -1)
            for layer in ("fc1", "fc2"):
                values = np.sin(known["w0"] * (values @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]))
            rendered = (values @ weights["fc3.weight"].T + weights["fc3.bias"])[..., 0] + known["offset"]
            psnr = -10 * np.log10(np.square(rendered - images[at]).mean())
            assert one.metrics is not None and psnr == pytest.approx(one.metrics["psnr"], abs=0.01) and psnr > 5

    def test_all_networks_of_an_image_are_in_one_split_whatever_the_seed(self) -> None:
        every = [one.run for seed in (0, 7) for one in trained("sirens", seed=seed, count=40, steps=(1,), psnr_floor=-99.0) if one.run]
        by_image: dict[str | None, set[str | None]] = {}
        for run in every:
            by_image.setdefault(run.source_item, set()).add(run.split)
        assert len(by_image) == 20 and all(len(splits) == 1 for splits in by_image.values())
        assert {split for splits in by_image.values() for split in splits} == {"train", "val", "test"}
        assert {run.source_item for run in every if run.hyperparameters["image"] == 3} == {"digits/3"}

    def test_a_fit_under_the_floor_has_failed_and_is_in_no_split(self) -> None:
        for one in trained("sirens", psnr_floor=200.0):
            assert one.run is not None and one.run.status == "failed" and one.run.split is None
        assert {one.run.status for one in some("sirens") if one.run} == {"finished"}

    def test_a_shared_initialisation_is_labelled(self) -> None:
        first = [one for one in trained("sirens", shared_init=True) if one.step == 0]
        assert {one.run.hyperparameters["init"] for one in first if one.run} == {"shared"}
        assert all(torch.equal(tensor, state(first[0])[key]) for one in first for key, tensor in state(one).items())
        assert {one.run.hyperparameters["init"] for one in some("sirens") if one.run} == {"random"}

    def test_more_networks_than_images_are_refused(self) -> None:
        with pytest.raises(RecordError, match=r"count is 1798, expected 1797 at most: 1 of each of 1797 images"):
            list(populations["sirens"](count=1798))


class TestLoras:
    def test_an_adapter_applied_to_its_parent_is_the_module_that_was_trained(self, zoo: Zoo) -> None:
        from weightspace.adapters import apply_adapter, read_adapter

        parent = zoo.open(base().name)
        for one in some("loras"):
            checkpoint = zoo.open(one.name)
            known = (checkpoint.recipe or {})["hyperparameters"]
            merged = apply_adapter(parent, read_adapter(checkpoint, alpha=known["alpha"]))
            inputs = next(iter(task_for(checkpoint).batches))[0]
            through = module_for(checkpoint)(inputs)
            apart = torch.func.functional_call(module_for(parent), dict(merged), (inputs,))
            torch.testing.assert_close(through, apart)

    def test_the_base_is_the_parent(self, zoo: Zoo) -> None:
        edges = zoo.sql(
            "select distinct p.name as parent, edges.kind as kind, c.kind as child from edges join models p on p.model_id = parent_id "
            "join models c on c.model_id = child_id where evidence = 'recipe'"
        ).to_pylist()
        assert edges == [{"parent": base().name, "kind": "adapter", "child": "adapter"}]

    def test_tasks_are_what_they_say(self) -> None:
        from weightspace.zoo.populations.data import load_digits

        digits = load_digits()
        module, made = torch.nn.Identity(), trained("loras", count=8, steps=(0,))
        for one in made:
            assert one.recipe is not None
            known = one.recipe["hyperparameters"]
            values = [int(value) for value in known["values"].split()]
            [(inputs, classes)] = loras.build_task(module, one.recipe).batches
            if known["task"] == "classes":
                assert sorted(set(classes.tolist())) == values and len(values) >= 2
            elif known["task"] == "labels":
                assert sorted(values) == list(range(10)) and classes.tolist() == [values[label] for label in digits.test_classes.tolist()]
            else:
                assert torch.equal(inputs, digits.test.roll(values[0], 1)) and torch.equal(classes, digits.test_classes)
        assert {one.recipe["hyperparameters"]["task"] for one in made if one.recipe} == set(loras.TASKS)

    def test_a_base_that_comes_out_otherwise_is_told(self) -> None:
        recipe = json.loads(json.dumps(some("loras")[0].recipe))
        recipe["base"]["id"] = "00"
        with pytest.raises(TaskError, match="comes out otherwise when it is trained here; take the base from the zoo"):
            loras.build(recipe)


class TestSpread:
    def test_fixing_one_option_changes_no_other_draw(self) -> None:
        free, fixed = (trained("mlps", steps=(0,), activations=options) for options in (("relu", "tanh"), ("tanh",)))
        by_seed = {one.run.seed: one.run.hyperparameters for one in fixed if one.run}
        for one in free:
            assert one.run is not None and one.run.seed is not None
            other = by_seed[one.run.seed]
            assert {k: v for k, v in one.run.hyperparameters.items() if k != "activation"} == {
                k: v for k, v in other.items() if k != "activation"
            }

    def test_networks_of_equal_shapes_but_another_activation_begin_with_other_weights(self) -> None:
        one, other = (trained("mlps", steps=(0,), widths=(4,), depths=(1,), activations=(kind,), count=1) for kind in ("relu", "tanh"))
        assert not torch.equal(state(one[0])["fc1.weight"], state(other[0])["fc1.weight"])

    def test_hyperparameters_are_spread(self) -> None:
        runs = [one.run.hyperparameters for one in trained("mlps", steps=(0,), count=120, widths=(4,), depths=(0,)) if one.run]
        rates = np.log10([float(run["learning_rate"]) for run in runs])
        assert rates.min() >= -3.5 and rates.max() <= -1 and rates.std() == pytest.approx(2.5 / 12**0.5, rel=0.15)
        assert {run["data_fraction"] for run in runs} == {0.1, 0.25, 0.5, 1.0}

    def test_a_network_sees_only_its_share_of_the_data(self) -> None:
        [one] = trained("mlps", count=1, steps=(400,), widths=(32,), depths=(1,), data_fractions=(0.02,), learning_rates=(0.01, 0.01))
        assert one.metrics is not None
        assert one.metrics["train"]["accuracy"] == 1.0 > one.metrics["test"]["accuracy"] + 0.1

    @pytest.mark.parametrize(
        ("name", "settings", "said"),
        [
            ("mlps", {"widths": (0,)}, r"population 'mlps': widths is \(0,\), expected a list of whole numbers from 1 on"),
            ("mlps", {"activations": ("sine",)}, "expected a list of some of relu, tanh, gelu"),
            ("mlps", {"learning_rates": (0.1, 0.01)}, "expected two positive numbers, the lower one first"),
            ("mlps", {"data_fractions": (2.0,)}, "expected shares above 0, 1 at most"),
            ("mlps", {"optimizer": "adagrad"}, "optimizer is 'adagrad', expected one of adam, sgd"),
            ("mlps", {"batch_size": 0}, "batch_size is 0"),
            ("mlps", {"seed": -1}, "seed and count"),
            ("transformers", {"widths": (6,), "heads": (4,)}, "multiples of the numbers of heads"),
            ("loras", {"tasks": ("sorting",)}, "expected a list of some of labels, classes, shift"),
            ("loras", {"alpha": 0.0}, "alpha and batch_size"),
            ("sirens", {"w0": 0.0}, "w0 is 0.0, expected a positive number"),
            ("sirens", {"per_image": 0}, "per_image is 0"),
            ("sirens", {"seeds": (1797,), "per_image": 1}, "a seed is 1797, expected one of image 0 to 1796"),
        ],
    )
    def test_settings_that_cannot_be_used(self, name: str, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(RecordError, match=said):
            trained(name, **settings)


def test_every_checkpoint_opens_from_its_own_export(zoo: Zoo, tmp_path: Path) -> None:
    one = some("cnns")[0]
    assert ws.open(zoo.export(one.name, tmp_path / "one.safetensors")).id == zoo.open(one.name).id
