"""Wrong recipes and wrong checkpoints: each has its one line, nothing is left under the final name, and inputs stay as they were."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from tests.analysis.merging.bench import Bench, Recipe, content, written
from tests.analysis.merging.small_models import decoder, write
from weightspace.analysis.merging import merge
from weightspace.cli.main import app
from weightspace.errors import WeightSpaceError

Case = Callable[[Bench], Recipe]
CASES: dict[str, tuple[Case, str]] = {}


def case(said: str) -> Callable[[Case], Case]:
    def add(make: Case) -> Case:
        CASES[make.__name__] = (make, said)
        return make

    return add


# Recipes.


@case(r"no merge method named 'tise'; did you mean 'ties'\? \(known: ")
def unknown_method(bench: Bench) -> Recipe:
    return bench.linear(merge_method="tise")


@case(r"names no merge_method; add one, such as merge_method: linear")
def no_method(bench: Bench) -> Recipe:
    return {"models": [bench.model("a")]}


@case(r"no parameter of merge method 'linear' named 'wieght'; did you mean 'weight'\?")
def misspelt_parameter(bench: Bench) -> Recipe:
    return bench.linear(parameters={"wieght": 1})


@case(r"model '.*a.safetensors', tensor '.*': merge method 'linear' needs the parameter 'weight'; give it a value")
def missing_weight(bench: Bench) -> Recipe:
    return bench.linear(parameters={})


@case(r"tensor '.*': the weights \[1.0, -1.0\] sum to 0, which cannot be normalised; change them, or set normalize: false")
def weights_that_cancel(bench: Bench) -> Recipe:
    models = [{"model": bench.model(name), "parameters": {"weight": weight}} for name, weight in (("a", 1), ("b", -1))]
    return bench.linear(*models)


@case(r"tensor '.*': parameter 'weight' is 'heavy'; expected a number")
def weight_that_is_a_word(bench: Bench) -> Recipe:
    return bench.linear(parameters={"weight": "heavy"})


@case(r"tensor '.*': parameter 'density' is 1.5; expected a number from 0 to 1")
def density_above_one(bench: Bench) -> Recipe:
    return bench.tuned("ties", parameters={"weight": 1, "density": 1.5})


@case(r"parameters.weight is .*; expected a number, true, false, a word, or a list of them")
def weight_that_is_a_date(bench: Bench) -> Recipe:
    return f"merge_method: linear\nmodels: [{bench.model('a')}]\nparameters:\n  weight: 2020-01-01\n"


@case(r"parameters.weight is an empty list; give one value, or several as a gradient over the layers")
def empty_gradient(bench: Bench) -> Recipe:
    return bench.linear(parameters={"weight": []})


@case(r"parameters.weight\[0\] has a filter and no value; add value: NUMBER")
def filter_without_value(bench: Bench) -> Recipe:
    return bench.linear(parameters={"weight": [{"filter": "mlp"}]})


@case(r"has models and slices; expected exactly one of models, slices and modules")
def models_and_slices(bench: Bench) -> Recipe:
    return bench.linear(slices=[{"sources": [{"model": bench.model("a"), "layer_range": [0, 1]}]}])


@case(r"has none of them; expected exactly one of models, slices and modules")
def no_models(bench: Bench) -> Recipe:
    return {"merge_method": "linear", "models": []}


def _sliced(bench: Bench, *ranges: Any) -> dict[str, Any]:
    sources = [{"model": bench.model(name), "layer_range": one} for name, one in zip("ab", ranges, strict=False)]
    return {"merge_method": "linear", "slices": [{"sources": sources}], "parameters": {"weight": 1}}


@case(r"layer_range \[1, 3\] of model '.*' ends after its last layer; it has 2 layers, give at most \[0, 2\]")
def layers_beyond_the_end(bench: Bench) -> Recipe:
    return _sliced(bench, [1, 3])


@case(r"layer_range \[0, 1000000000000\] of model '.*' ends after its last layer; it has 2 layers")
def layers_without_end(bench: Bench) -> Recipe:
    return _sliced(bench, [0, 10**12], [0, 10**12])


@case(r"slices\[0\] takes 1, 2 layers of its sources; expected equally many of each")
def slices_of_unequal_length(bench: Bench) -> Recipe:
    return _sliced(bench, [0, 1], [0, 2])


@case(r"sources\[0\]: layer_range is \[2, 1\]; expected \[first, end\] with 0 <= first < end, the end not taken")
def layers_backwards(bench: Bench) -> Recipe:
    return _sliced(bench, [2, 1])


@case(r"slices\[0\] has no sources; name the models and their layer_range")
def slice_of_nothing(bench: Bench) -> Recipe:
    return {"merge_method": "linear", "slices": [{"sources": []}], "parameters": {"weight": 1}}


@case(r"layer_range needs one stack of layers, the models have no numbered layers; give each part its own slices under modules")
def slices_of_a_model_without_layers(bench: Bench) -> Recipe:
    bench.model("a", {"w": torch.ones(2)})
    return {
        "merge_method": "linear",
        "slices": [{"sources": [{"model": str(bench.place / "a.safetensors"), "layer_range": [0, 1]}]}],
        "parameters": {"weight": 1},
    }


@case(r"no tensor of '.*' has a name that begins with 'vision'; name a prefix that it has")
def unknown_module(bench: Bench) -> Recipe:
    return {"merge_method": "linear", "modules": {"vision": {"models": [bench.model("a")]}}, "parameters": {"weight": 1}}


@case(r"5 tensors of '.*' belong to none of the modules, the first is '.*'; add a module with the beginning of their names, or 'default'")
def module_that_leaves_something_out(bench: Bench) -> Recipe:
    modules = {"model.layers.0": {"models": [bench.model("a")]}, "lm_head": {"models": [bench.model("a")]}}
    return {"merge_method": "linear", "modules": modules, "parameters": {"weight": 1}}


@case(r"merge method 'ties' needs a base model, found none; name it as base_model")
def base_missing(bench: Bench) -> Recipe:
    return bench.linear(merge_method="ties")


@case(r"merge method 'slerp' takes exactly 1 model besides the base, found 2; name as many")
def too_many_for_slerp(bench: Bench) -> Recipe:
    return bench.tuned("slerp", parameters={"t": 0.5})


@case(r"merge method 'model_stock' takes at least 2 models besides the base, found 1; name as many")
def too_few_for_model_stock(bench: Bench) -> Recipe:
    return bench.tuned("model_stock", models=[bench.model("a")], parameters={})


@case(r"dtype is 'bf16'; expected float16, bfloat16, float32 or float64")
def bad_dtype(bench: Bench) -> Recipe:
    return bench.linear(dtype="bf16")


@case(r"has both tokenizer and tokenizer_source; keep one of them")
def two_tokenizers(bench: Bench) -> Recipe:
    return bench.linear(tokenizer_source="union", tokenizer={"source": "base"})


@case(r"has the unknown key 'modelss'; did you mean 'models'\?")
def unknown_key(bench: Bench) -> Recipe:
    return {"merge_method": "linear", "modelss": [bench.model("a")]}


@case(r"is neither YAML nor JSON \(.*\); mend it")
def no_yaml(bench: Bench) -> Recipe:
    return "merge_method: [linear\nmodels: }"


@case(r"holds 2 documents; expected one recipe")
def two_documents(bench: Bench) -> Recipe:
    return "merge_method: linear\n---\nmerge_method: ties\n"


@case(r"'merge_method' comes twice; remove one")
def key_twice(bench: Bench) -> Recipe:
    return "merge_method: linear\nmerge_method: ties\nmodels: [a]\n"


@case(r"holds a list; expected a mapping")
def list_for_a_recipe(bench: Bench) -> Recipe:
    return "- merge_method: linear\n"


@case(r"models\[0\] names no model; add model: PATH")
def model_without_a_name(bench: Bench) -> Recipe:
    return bench.linear({"parameters": {"weight": 1}})


@case(r"seed is 'lucky'; expected a whole number")
def seed_that_is_a_word(bench: Bench) -> Recipe:
    return bench.linear(seed="lucky")


@case(r"repair names no task; add task: MODULE:FUNCTION, which returns a Task")
def repair_without_task(bench: Bench) -> Recipe:
    return bench.linear(repair={"mode": "repair"})


@case(r"no matching method named 'wieght'; did you mean 'weight'\?")
def unknown_alignment(bench: Bench) -> Recipe:
    return bench.linear(align="wieght")


@case(r"no option of the alignment method 'weight' named 'restart'; did you mean 'restarts'?")
def unknown_option_of_an_alignment(bench: Bench) -> Recipe:
    return bench.linear(align={"method": "weight", "options": {"restart": 3}})


@case(r"no option of the alignment method 'weight' named 'task'")
def alignment_by_weights_with_data(bench: Bench) -> Recipe:
    return bench.linear(align={"method": "weight", "task": "tasks:digits"})


@case(r"no family that comes with the package fits, and .*; trace the module with ws.trace, or write a spec")
def alignment_without_known_axes(bench: Bench) -> Recipe:
    odd = {"strange": torch.ones(3, 5, 7, 2), "other": torch.ones(4, 4, 4)}
    return bench.linear(bench.model("a", odd), bench.model("b", odd), align="weight")


@case(r"merge method 'fisher' needs the parameter 'fisher' of model '.*a.safetensors'; give it a file of it, or MODULE:FUNCTION")
def evidence_missing(bench: Bench) -> Recipe:
    return bench.linear(merge_method="fisher")


@case(r"evidence 'fisher' of model '.*a.safetensors' is 3; expected a file, or MODULE:FUNCTION")
def evidence_that_is_a_number(bench: Bench) -> Recipe:
    return bench.linear(merge_method="fisher", parameters={"fisher": 3})


@case(r"the recipe asks for an adapter and names no base_model; an adapter is a difference from one")
def adapter_of_no_base(bench: Bench) -> Recipe:
    return bench.linear(adapter=4)


@case(r"adapter.rank is 0; expected at least 1")
def adapter_of_no_rank(bench: Bench) -> Recipe:
    return bench.linear(adapter={"rank": 0})


@case(r"the recipe says keep: all and asks for an adapter, which keeps no parents; leave one of the two out")
def keep_beside_an_adapter(bench: Bench) -> Recipe:
    return bench.tuned(adapter=1, keep="all")


@case(r"the recipe aligns to '.*a.safetensors' and asks for an adapter, which would fit no base but a moved one; align to the base")
def adapter_of_a_moved_base(bench: Bench) -> Recipe:
    return bench.tuned(adapter=1, align={"method": "weight", "to": bench.model("a")})


@case(r"the recipe says keep: base and names no base_model")
def keep_a_base_that_is_not_there(bench: Bench) -> Recipe:
    return bench.linear(keep="base")


# Models.


@case(r"nowhere.safetensors")
def no_such_model(bench: Bench) -> Recipe:
    return bench.linear(str(bench.place / "nowhere.safetensors"))


@case(r"tensor 'extra' is in '.*a.safetensors' but not in '.*b.safetensors'; merge models of one architecture")
def extra_tensor(bench: Bench) -> Recipe:
    return bench.linear(bench.model("a", extra=torch.ones(2)), bench.model("b"))


@case(r"tensor 'extra' is in '.*b.safetensors' but not in '.*a.safetensors'; merge models of one architecture")
def missing_tensor(bench: Bench) -> Recipe:
    return bench.linear(bench.model("a"), bench.model("b", extra=torch.ones(2)))


@case(r"tensor 'model.layers.0.extra' is in '.*b.safetensors' but not in '.*a.safetensors'")
def missing_tensor_in_a_slice(bench: Bench) -> Recipe:
    bench.model("a"), bench.model("b", **{"model.layers.1.extra": torch.ones(2)})
    sources = [{"model": str(bench.place / f"{name}.safetensors"), "layer_range": [1, 2]} for name in "ab"]
    return {"merge_method": "linear", "slices": [{"sources": sources}], "parameters": {"weight": 1}}


@case(r"tensor 'model.norm.weight' has shape \[4\] in '.*' but \[2, 2\] in '.*'; merge models of one architecture")
def reshaped_tensor(bench: Bench) -> Recipe:
    return bench.linear(bench.model("a"), bench.model("b", **{"model.norm.weight": torch.ones(2, 2)}))


@case(r"tensor '.*' has shape \[10, 4\] in '.*' but \[12, 4\] in '.*'; their vocabularies differ: write tokenizer_source: union, or base")
def vocabularies_differ(bench: Bench) -> Recipe:
    wide = {name: torch.ones(12, 4) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    return bench.linear(bench.model("a"), bench.model("b", **wide))


def _adapter(bench: Bench, width: int = 4) -> str:
    place = bench.place / "adapter"
    place.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, width), f"{name}.lora_B.weight": torch.ones(width, 2)}, place / "adapter_model.safetensors"
    )
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}))
    return str(place)


@case(r"'.*adapter' is an adapter; name the model it belongs to as base_model, or write model\+adapter")
def adapter_without_base(bench: Bench) -> Recipe:
    return bench.linear(_adapter(bench))


@case(
    r"the adapter's update of 'model.layers.0.self_attn.q_proj.weight' is \[6, 6\], the tensor in .* is \[4, 4\]; apply it to the model that"
)
def adapter_of_another_width(bench: Bench) -> Recipe:
    return bench.linear(f"{bench.model('a')}+{_adapter(bench, 6)}")


@case(r"a\+; expected a model, or model\+adapter|'a\+'; expected a model, or model\+adapter")
def adapter_without_a_name(bench: Bench) -> Recipe:
    return bench.linear("a+")


@case(r"b.safetensors: its JSON is damaged \(.*\); copy or download it again")
def corrupt_file(bench: Bench) -> Recipe:
    path = Path(bench.model("b"))
    raw = path.read_bytes()
    path.write_bytes(raw[:10] + b"\xff" * 20 + raw[30:])
    return bench.linear(bench.model("a"), str(path))


@case(r"model-00002-of-00002.safetensors.*(?:bytes|ends)")
def truncated_shard(bench: Bench) -> Recipe:
    place = write(decoder(2, 0), bench.place / "sharded", "sharded")
    shard = place / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    return bench.linear(str(place))


@case(r"model-00002-of-00002.safetensors")
def missing_shard(bench: Bench) -> Recipe:
    place = write(decoder(2, 0), bench.place / "sharded", "sharded")
    (place / "model-00002-of-00002.safetensors").unlink()
    return bench.linear(str(place))


@case(r"evil.pt")
def pickle_that_needs_code(bench: Bench) -> Recipe:
    torch.save({"w": torch.ones(2), "run": _Runs()}, bench.place / "evil.pt")
    return bench.linear(str(bench.place / "evil.pt"))


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


@case(r"(?:holds no weights of a model; name the checkpoint of one|empty)")
def empty_model(bench: Bench) -> Recipe:
    return bench.linear(bench.model("empty", {}))


@case(r"(?:holds no weights of a model|no state dict|optimizer)")
def optimizer_alone(bench: Bench) -> Recipe:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    torch.save(optimizer.state_dict(), bench.place / "optimizer.pt")
    return bench.linear(str(bench.place / "optimizer.pt"))


@case(r"tensor 'codes' holds I64, other numbers in '.*a.safetensors' than in '.*b.safetensors'; integers are not merged: .*")
def integers_that_differ(bench: Bench) -> Recipe:
    return bench.linear(bench.model("a", codes=torch.tensor([1, 2])), bench.model("b", codes=torch.tensor([1, 3])))


@case(r"tensor 'codes' has dtype I64 in '.*' but I32 in '.*'; integers are copied and must be the same in all models")
def integers_of_two_widths(bench: Bench) -> Recipe:
    return bench.linear(bench.model("a", codes=torch.tensor([1])), bench.model("b", codes=torch.tensor([1], dtype=torch.int32)))


@case(r"tensor 'codes' has dtype I8 in '.*b.safetensors', which is not merged with floats; save its values as F16 first")
def floats_and_codes(bench: Bench) -> Recipe:
    return bench.linear(bench.model("a", codes=torch.ones(1)), bench.model("b", codes=torch.ones(1, dtype=torch.int8)))


@case(r"tensor 'phase' holds complex numbers, which are not merged; store real and imaginary parts as two tensors")
def complex_tensors(bench: Bench) -> Recipe:
    phase = torch.ones(2, dtype=torch.complex64)
    return bench.linear(bench.model("a", phase=phase), bench.model("b", phase=phase))


# Outputs.


@case(r"out.safetensors: exists already; choose another name, or replace it with --force")
def output_exists(bench: Bench) -> Recipe:
    bench.out = "out.safetensors"
    bench.file("out.safetensors", "mine")
    return bench.linear()


@case(r"out.md: exists already, and would be written beside the result; choose another name, or use --force")
def companion_exists(bench: Bench) -> Recipe:
    bench.out = "out.safetensors"
    bench.file("out.md", "my notes")
    return bench.linear()


@case(r"out: its folder does not exist; make it first")
def output_in_a_missing_folder(bench: Bench) -> Recipe:
    bench.out = "missing/out"
    return bench.linear()


@case(r"out.bin: has the suffix '.bin'; name a .safetensors file, or a folder")
def output_of_another_suffix(bench: Bench) -> Recipe:
    bench.out = "out.bin"
    return bench.linear()


@case(r"out: is a folder that was not written by a merge; choose another name, or remove it yourself")
def output_that_is_a_folder_of_something_else(bench: Bench) -> Recipe:
    (bench.place / "out").mkdir()
    bench.file("out/thesis.tex", "years of work")
    bench.options = ("--force",)
    return bench.linear()


@case(r"a.safetensors: is where '.*' lies, which is merged; choose another name")
def output_over_an_input(bench: Bench) -> Recipe:
    bench.out, bench.options = "a.safetensors", ("--force",)
    return bench.linear()


@case(r"out.safetensors: an adapter is a folder of two files; name a folder")
def adapter_into_a_file(bench: Bench) -> Recipe:
    bench.out = "out.safetensors"
    return bench.tuned(adapter=1)


def test_there_are_at_least_thirty_kinds() -> None:
    assert len(CASES) >= 30


@pytest.mark.parametrize("name", list(CASES))
def test_each_wrong_input_has_its_one_line(name: str, bench: Bench) -> None:
    make, said = CASES[name]
    recipe = written(make(bench), bench.place)
    before = content(bench.place)
    with pytest.raises(WeightSpaceError) as raised:
        merge(recipe, bench.out, force="--force" in bench.options)
    line = str(raised.value)
    assert re.search(said, line), line
    assert line.isprintable() and len(line) <= 600 and not line.endswith(".")
    result = CliRunner().invoke(
        app, ["merge", str(recipe), "-o", bench.out, *bench.options], catch_exceptions=False, env={"COLUMNS": "2000"}
    )
    assert result.exit_code == 1
    last = result.stderr.strip().splitlines()[-1]
    assert re.search(said, last) and "Traceback" not in result.stderr
    assert content(bench.place) == before
    assert not (bench.place / "pwned").exists()


@pytest.mark.parametrize("name", ["missing_weight", "extra_tensor", "layers_beyond_the_end", "complex_tensors", "unknown_module"])
def test_a_dry_run_lists_what_is_wrong(name: str, bench: Bench) -> None:
    make, said = CASES[name]
    recipe = written(make(bench), bench.place)
    result = CliRunner().invoke(app, ["merge", str(recipe), "--dry-run"], catch_exceptions=False, env={"COLUMNS": "2000"})
    assert result.exit_code == 1
    assert re.search(said, result.stderr)
