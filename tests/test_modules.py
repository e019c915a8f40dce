"""Checkpoints become modules again: by recipe, by config.json, by a user's function; and state dicts are fitted to modules."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.checkpoint import Checkpoint
from weightspace.errors import MissingDependencyError, ShapeMismatchError, TaskError, UnknownNameError
from weightspace.modules import load_function, module_builders, module_for, shared_copy, tensors_of
from weightspace.zoo import Zoo
from weightspace.zoo.demo.demo import POPULATIONS
from weightspace.zoo.populations import populations
from weightspace.zoo.populations.digits import load_digits


@pytest.fixture
def path_to_import_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder whose modules can be imported, and are forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{text}")


class Tied(nn.Module):
    """An embedding that is the last layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


class TestPopulation:
    @pytest.mark.parametrize("name", POPULATIONS)
    def test_a_model_of_the_catalog_runs_again_with_the_accuracy_that_was_recorded(self, name: str, tmp_path: Path) -> None:
        [*_, added] = populations[name](widths=(8,), learning_rates=(0.1,), steps=(0, 60))
        zoo = Zoo(tmp_path)
        zoo.add_many([added])
        module, digits = module_for(zoo.open(added.name)), load_digits()
        assert not module.training
        accuracy = (module(digits.test).argmax(1) == digits.test_classes).double().mean().item()
        assert added.metrics is not None and accuracy == pytest.approx(added.metrics["test"]["accuracy"])

    def test_every_population_has_a_builder(self) -> None:
        assert set(populations) <= set(module_builders)

    def test_without_loading_the_weights_are_the_same_every_time_and_no_randomness_is_used(self) -> None:
        [added] = populations["digits-mlp"](widths=(8,), depths=(1,), learning_rates=(0.1,), steps=(0,))
        assert not isinstance(added.tensors, Checkpoint)
        checkpoint = Checkpoint(**{**vars(Checkpoint.of(added.tensors)), "recipe": added.recipe})
        before = torch.get_rng_state()
        one, two = (module_for(checkpoint, load=False).state_dict() for _ in range(2))
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert not torch.equal(one["fc1.weight"], added.tensors["fc1.weight"])


class TestTransformers:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> tuple[Path, nn.Module]:
        transformers = pytest.importorskip("transformers")
        config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=6, bos_token_id=0, eos_token_id=0)
        model = transformers.GPT2LMHeadModel(config).eval()
        (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": ["GPT2LMHeadModel"]}))
        ws.save({name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}, tmp_path / "model.safetensors")
        return tmp_path, model

    def test_config_json_beside_the_weights_builds_the_class_it_names(self, saved: tuple[Path, nn.Module]) -> None:
        folder, model = saved
        module, tokens = module_for(ws.open(folder)), torch.arange(6)[None]
        assert type(module) is type(model) and not module.training
        assert torch.equal(module(tokens).logits, model(tokens).logits)

    def test_names_of_the_base_model_alone_fit_too(self, saved: tuple[Path, nn.Module]) -> None:
        # The published GPT-2 has no `transformer.` before its names.
        folder, model = saved
        bare = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
        ws.save(bare, folder / "model.safetensors")
        tokens = torch.arange(6)[None]
        assert torch.equal(module_for(ws.open(folder))(tokens).logits, model(tokens).logits)

    def changed(self, folder: Path, **settings: Any) -> Checkpoint:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
        return ws.open(folder)

    def test_nothing_that_a_config_names_is_fetched_or_run(self, saved: tuple[Path, nn.Module]) -> None:
        remote = {"AutoModel": "modeling_hostile.Hostile", "AutoModelForCausalLM": "modeling_hostile.Hostile"}
        (saved[0] / "modeling_hostile.py").write_text("raise SystemExit('executed')")
        checkpoint = self.changed(saved[0], auto_map=remote, attn_implementation="someone/kernel", architectures=["AutoModelForCausalLM"])
        assert type(module_for(checkpoint)) is type(saved[1])

    @pytest.mark.parametrize("name", ["HostileModel", "pipeline", "Trainer"])
    def test_a_class_that_is_no_model_of_transformers_is_refused(self, saved: tuple[Path, nn.Module], name: str) -> None:
        with pytest.raises(TaskError, match=f"wants {name} of type 'gpt2', which transformers .* does not have; code that comes with"):
            module_for(self.changed(saved[0], architectures=[name]))

    def test_a_config_that_does_not_build_says_why(self, saved: tuple[Path, nn.Module]) -> None:
        with pytest.raises(TaskError, match=r"GPT2LMHeadModel cannot be built from .*config.json .*; mend it"):
            module_for(self.changed(saved[0], n_head=3))

    def test_a_config_of_something_else_is_no_configuration_of_transformers(self, tmp_path: Path) -> None:
        ws.save({"w": torch.ones(1)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text('{"_class_name": "UNet"}')
        with pytest.raises(TaskError, match=r"is no configuration of transformers: expected 'model_type' and 'architectures'"):
            module_for(ws.open(tmp_path / "model.safetensors"))

    @pytest.mark.parametrize(("text", "message"), [("{", "cannot be read as JSON"), ("[1]", "holds a list, expected an object")])
    def test_a_damaged_config_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        ws.save({"w": torch.ones(1)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(TaskError, match=message):
            module_for(ws.open(tmp_path / "model.safetensors"))

    def test_missing_transformers_is_said(self, saved: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(MissingDependencyError, match=r"building the module that .* describes needs the package 'transformers'"):
            module_for(ws.open(saved[0]))


class TestUsersFunction:
    checkpoint = Checkpoint.of({"weight": torch.full((1, 2), 7.0), "bias": torch.zeros(1)}, metadata={"columns": 2})

    def test_module_and_function_of_the_current_folder(self, path_to_import_from: Path) -> None:
        write(path_to_import_from, "nets_plain", "def make():\n    return nn.Linear(2, 1)")
        module = module_for(self.checkpoint, "nets_plain:make")
        assert module(torch.ones(1, 2)).item() == 14 and not module.training

    def test_a_function_with_a_parameter_gets_the_configuration(self, path_to_import_from: Path) -> None:
        write(path_to_import_from, "nets_config", "def make(config, bias=True):\n    return nn.Linear(config['columns'], 1, bias)")
        assert module_for(self.checkpoint, "nets_config:make")(torch.ones(1, 2)).item() == 14

    def test_the_configuration_is_the_file_beside_the_weights_where_there_is_one(self, tmp_path: Path) -> None:
        ws.save(self.checkpoint.state_dict(), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text('{"columns": 2}')

        def make(config: Mapping[str, Any]) -> nn.Module:
            return nn.Linear(config["columns"], 1)

        assert module_for(ws.open(tmp_path / "model.safetensors"), make)(torch.ones(1, 2)).item() == 14

    def test_a_function_that_raises_is_told_in_one_line(self, path_to_import_from: Path) -> None:
        write(path_to_import_from, "nets_raising", "def make():\n    raise RuntimeError('no\\nluck')")
        with pytest.raises(TaskError, match=r"^'nets_raising:make' raised RuntimeError: no.{0,3}luck; mend it, or name another"):
            module_for(self.checkpoint, "nets_raising:make")

    def test_a_function_that_returns_no_module(self, path_to_import_from: Path) -> None:
        write(path_to_import_from, "nets_wrong", "def make():\n    return {}")
        with pytest.raises(TaskError, match=r"'nets_wrong:make' returned a dict, expected a torch.nn.Module; return the module itself"):
            module_for(self.checkpoint, "nets_wrong:make")

    def test_no_way_is_known(self) -> None:
        with pytest.raises(
            TaskError, match=r"no way is known to build a module for this checkpoint: .*; name a function that builds it, as"
        ):
            module_for(self.checkpoint)

    @pytest.mark.parametrize("reference", ["nets", "nets:", ":make", ""])
    def test_a_reference_of_another_form(self, reference: str) -> None:
        with pytest.raises(TaskError, match=f"expected 'module:function', found '{reference}'"):
            load_function(reference)

    @pytest.mark.parametrize("name", ["nets_absent", "nets_absent.inner"])
    def test_no_such_module(self, path_to_import_from: Path, name: str) -> None:
        with pytest.raises(TaskError, match=f"no module '{name}' in {path_to_import_from} or among what is installed; run from the folder"):
            load_function(f"{name}:make")

    def test_a_module_that_fails_says_why_even_if_what_it_lacks_is_a_module(self, path_to_import_from: Path) -> None:
        write(path_to_import_from, "nets_failing", "import nowhere_to_be_found")
        with pytest.raises(
            TaskError, match=r"importing 'nets_failing' failed \(ModuleNotFoundError: No module named 'nowhere_to_be_found'\)"
        ):
            load_function("nets_failing:make")

    def test_a_module_that_ends_the_program_says_so(self, path_to_import_from: Path) -> None:
        write(path_to_import_from, "nets_ending", "raise SystemExit(3)")
        with pytest.raises(TaskError, match=r"importing 'nets_ending' failed \(SystemExit: 3\); mend it"):
            load_function("nets_ending:make")

    def test_no_such_function(self, path_to_import_from: Path) -> None:
        write(path_to_import_from, "nets_named", "def make():\n    return nn.Linear(2, 1)")
        with pytest.raises(UnknownNameError, match=r"no function in module 'nets_named' named 'mkae'; did you mean 'make'?"):
            load_function("nets_named:mkae")

    def test_a_name_that_is_no_function(self, path_to_import_from: Path) -> None:
        write(path_to_import_from, "nets_number", "make = 3")
        with pytest.raises(TaskError, match=r"'nets_number:make' is of type int, expected a function"):
            load_function("nets_number:make")


class TestFit:
    def test_wrapper_prefixes_on_either_side_make_no_difference(self) -> None:
        module = nn.Linear(2, 1)
        wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in module.state_dict().items()}
        assert tensors_of(module, wrapped) == {"weight": "module._orig_mod.weight", "bias": "module._orig_mod.bias"}
        assert tensors_of(nn.DataParallel(module), module.state_dict()) == {"module.weight": "weight", "module.bias": "bias"}

    def test_tied_tensors_fit_under_any_or_all_of_their_names(self) -> None:
        values = torch.randn(5, 3)
        for names in (["embedding.weight"], ["head.weight"], ["embedding.weight", "head.weight"]):
            found = tensors_of(Tied(), {name: values.clone() for name in names})
            assert found == {"embedding.weight": names[0]}

    def test_tied_tensors_that_differ_are_refused(self) -> None:
        with pytest.raises(
            TaskError, match=r"tensors 'embedding.weight' and 'head.weight' are one in the module but differ in the state dict"
        ):
            tensors_of(Tied(), {"embedding.weight": torch.zeros(5, 3), "head.weight": torch.ones(5, 3)})

    def test_integers_that_the_module_lacks_are_left_out(self) -> None:
        module = nn.Linear(2, 2, bias=False)
        assert tensors_of(module, {"weight": torch.ones(2, 2), "position_ids": torch.arange(3)}) == {"weight": "weight"}

    def test_the_first_missing_and_unexpected_names_are_given(self) -> None:
        given = {f"old.{at}": torch.ones(1) for at in range(5)}
        message = r"does not fit module Linear: 'weight', 'bias' missing, 'old.0', 'old.1', 'old.2' and 2 more unexpected; give a module"
        with pytest.raises(TaskError, match=message):
            tensors_of(nn.Linear(2, 1), given)

    def test_another_shape(self) -> None:
        message = r"tensor 'weight' has shape \(1, 3\) in the state dict but \(1, 2\) in module Linear"
        with pytest.raises(ShapeMismatchError, match=message):
            tensors_of(nn.Linear(2, 1, bias=False), {"weight": torch.ones(1, 3)})

    def test_a_shared_copy_has_flags_of_its_own_and_the_same_tensors(self) -> None:
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
        copied = shared_copy(module).eval()
        assert module.training and module[1].training and not copied.training
        assert all(
            one is two
            for one, two in zip(module.state_dict(keep_vars=True).values(), copied.state_dict(keep_vars=True).values(), strict=True)
        )

    def test_a_module_that_cannot_be_copied(self) -> None:
        module = nn.Linear(1, 1)
        module.held = (number for number in range(1))  # type: ignore[assignment]
        with pytest.raises(TaskError, match=r"module Linear cannot be copied .*generator.*; expected one that copy.deepcopy takes"):
            shared_copy(module)
