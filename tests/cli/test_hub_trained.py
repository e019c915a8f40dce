"""Trained metanets, generators and signatures go to a hub and come back: what they were they are, and what they do is the same."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import weightspace as ws
from tests.cli.conftest import Run, mlp
from tests.remote.hubs import Hub, running
from weightspace.zoo.runs.run import Run as Training
from weightspace.zoo.zoo import Added, Zoo

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Path) -> Iterator[Hub]:
    with running(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def nets(sandbox: Path) -> Zoo:
    """Twenty runs of one checkpoint, whose property is the size of the first layer."""
    zoo = Zoo(sandbox / "nets")
    (sandbox / "nets").mkdir()
    models = []
    for seed in range(20):
        state = mlp(1000 * seed)
        state["fc1.weight"] = state["fc1.weight"] * np.float32(0.5 + seed / 20)
        size = float(np.abs(state["fc1.weight"]).mean())
        tensors = {name: torch.from_numpy(values) for name, values in state.items()}
        run = Training(f"population:net{seed}", f"net{seed}", "population", seed)
        models.append(Added(tensors, f"net{seed}", run=run, metrics={"test": {"size": size}}))
    zoo.add_many(models)
    return zoo


def card(hub: Hub, repo: str, folder: Path) -> str:
    return Path(hub.api.hf_hub_download(repo, "README.md", local_dir=folder / "card")).read_text()


def rows(run: Run, *arguments: str) -> list[dict[str, Any]]:
    return sorted(json.loads(run(*arguments, "--format", "json").stdout), key=lambda row: str(row.get("model")))


def test_a_metanet_tells_the_same_when_it_comes_back(run: Run, hub: Hub, nets: Zoo, tmp_path: Path) -> None:
    trained = ("train-metanet", "statistics", "--target", "test_size", "--where", "run is not null", "--epochs", "3", "--zoo", "nets")
    run(*trained, "-o", "p.safetensors")
    before = rows(run, "predict", "--metanet", "p.safetensors", "--where", "run is not null", "--zoo", "nets")
    vectors = rows(run, "embed", "--metanet", "p.safetensors", "--zoo", "nets")
    kept = nets.embeddings().to_pylist()
    run("hub", "push", "p", "--to", "lab/sizes", "--private", "--zoo", "nets")
    run("hub", "push", "--to", "lab/nets", "--private", "--zoo", "nets")

    for name, pulled in (("p", ("lab/nets",)), ("lab/sizes", ("lab/sizes", "lab/nets")), ("lab/sizes", ("lab/nets", "lab/sizes"))):
        there = str(tmp_path / "-".join((*pulled, "there")).replace("/", "-"))
        for repo in pulled:
            run("hub", "pull", repo, "--zoo", there)
        known = Zoo(there).sql("select name from models where name like '%sizes' or name = 'p'")["name"].to_pylist()
        metanet = name if name in known else known[0]
        assert rows(run, "predict", "--metanet", metanet, "--where", "run is not null", "--zoo", there) == before
        assert rows(run, "embed", "--metanet", metanet, "--zoo", there) == vectors
        assert sorted(map(str, Zoo(there).embeddings().to_pylist())) == sorted(map(str, kept))
        opened = Zoo(there).open(metanet)
        assert opened.id == ws.open("p.safetensors").id and (opened.recipe or {})["target"] == "test_size"
        assert len(opened.parents) == 14 == len(Zoo(there).page(metanet).parents)
    # Its address stands for it as well.
    afar = rows(run, "predict", "--metanet", "hf:lab/sizes", "--where", "run is not null", "--zoo", "nets")
    assert afar == before

    said = card(hub, "lab/sizes", tmp_path)
    assert "A metanet" in said and "family is statistics" in said and "run is not null: 14 train, 3 val, 3 test" in said
    assert "| r2 | test |" in said and "weightspace predict MODEL --metanet hf:lab/sizes" in said and "held out of the same query" in said
    assert "| epochs | 3 |" in said


def test_a_generator_draws_the_same_when_it_comes_back(run: Run, hub: Hub, nets: Zoo, tmp_path: Path) -> None:
    first = rows(run, "generate", "gaussian", "--where", "run is not null", "--name", "g", "--count", "2", "--zoo", "nets")
    run("hub", "push", "g", "--to", "lab/g", "--public", "--zoo", "nets")
    run("hub", "push", "--where", "name = 'g' or run is not null", "--to", "lab/all", "--private", "--zoo", "nets")
    for name, repo in (("lab/g", "lab/g"), ("g", "lab/all")):
        there = str(tmp_path / repo.replace("/", "-"))
        run("hub", "pull", repo, "--zoo", there)
        assert [one["id"] for one in rows(run, "generate", name, "--count", "2", "--zoo", there)] == [one["id"] for one in first]
        opened, kept = Zoo(there).open(name), nets.open("g")
        assert opened.recipe == kept.recipe and set(opened.parents) == set(kept.parents) and len(opened.parents) == 20
        tags = Zoo(there).page(name).tags
        assert tags["generator"] == "gaussian"
    said = card(hub, "lab/g", tmp_path)
    assert "A generator of weights" in said and "kind is gaussian" in said and "Fitted on 20 networks" in said
    # What it comes from may come later.
    run("hub", "pull", "lab/all", "--zoo", str(tmp_path / "lab-g"))
    assert len(Zoo(tmp_path / "lab-g").page("lab/g").parents) == 20


def test_a_signature_is_applied_the_same_when_it_comes_back(run: Run, hub: Hub, tmp_path: Path) -> None:
    start = mlp(3, width=64)
    save_file(start, "start.safetensors")
    for seed, name in enumerate(("clean", "noisy")):
        draw = np.random.default_rng(seed)
        save_file(
            {key: value + draw.normal(size=value.shape).astype(np.float32) / 10 for key, value in start.items()}, f"{name}.safetensors"
        )
    names = [f"{name}.safetensors" for name in ("start", "clean", "noisy")]
    run("signature", "extract", *names, "-o", "noise.safetensors", "--bits", "4")
    [before] = rows(run, "signature", "apply", "clean.safetensors", "noise.safetensors", "-o", "patched.safetensors")
    run("hub", "push", "noise", "--to", "lab/noise", "--private")
    run("hub", "push", "noise", "start", "clean", "noisy", "--to", "lab/four", "--private")
    for name, repo in (("lab/noise", "lab/noise"), ("noise", "lab/four")):
        there = str(tmp_path / repo.replace("/", "-"))
        run("hub", "pull", repo, "--zoo", there)
        [after] = rows(run, "signature", "apply", "clean.safetensors", name, "-o", f"patched-{repo[4:]}.safetensors", "--zoo", there)
        assert after["id"] == before["id"]
        page = Zoo(there).page(name)
        assert page.model["kind"] == "signature" and (page.recipe or {})["bits"] == 4
        assert len(Zoo(there).open(name).parents) == 3 and Zoo(there).open(name).kind == "signature"
    assert "made from" in run("show", "noise", "--zoo", str(tmp_path / "lab-four")).stdout
    said = card(hub, "lab/noise", tmp_path)
    assert "robust weight signature" in said and "codes of 4 bits" in said and "weight-signature" in said
    assert "## Limits" in said and "signature apply MODEL hf:lab/noise" in said
    assert rows(run, "signature", "show", "hf:lab/noise") == rows(run, "signature", "show", "noise.safetensors")


def test_an_adapter_comes_back_with_its_scale(run: Run, hub: Hub, tmp_path: Path) -> None:
    folder = Path("tuned-adapter")
    folder.mkdir()
    factors = {"lora_A": np.ones((2, 4), np.float32), "lora_B": np.ones((8, 2), np.float32)}
    save_file({f"base_model.model.fc1.{name}.weight": value for name, value in factors.items()}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 16, "target_modules": ["fc1"], "base_model_name_or_path": "lab/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    run("ingest", "tuned-adapter")
    [name] = Zoo().sql("select name from models where kind = 'adapter'")["name"].to_pylist()
    run("hub", "push", name, "--to", "lab/tuned", "--private")
    run("hub", "push", "base", "--to", "lab/base", "--private")
    there = Zoo(tmp_path / "there")
    run("hub", "pull", "lab/tuned", "--zoo", str(there.folder))
    run("hub", "pull", "lab/base", "--zoo", str(there.folder))
    opened = there.open("lab/tuned")
    assert opened.kind == "adapter" and opened.metadata["adapter_config"]["lora_alpha"] == 16 and opened.metadata["adapter"]["r"] == 2
    assert there.page("lab/tuned").parents == (("lab/base", "adapter"),)
