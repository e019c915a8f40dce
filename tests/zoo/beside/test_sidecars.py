import itertools
import json
import os
import random
import time
from pathlib import Path

import pytest

from weightspace.zoo.beside.licences import guess_licence
from weightspace.zoo.beside.sidecars import Sidecars, folder_sidecars, for_checkpoint, read_sidecars
from weightspace.zoo.metrics import MAX_POINTS, History, Metric, metrics_of, split_name
from weightspace.zoo.runs.places import Place, place_in_run, stem_of
from weightspace.zoo.runs.run_folders import read_run_folder

CARD = """---
license: apache-2.0
language: [en, no]
base_model:
  - org/base
  - org/other
datasets: imagenet-1k
library_name: transformers
pipeline_tag: image-classification
tags: [vision]
model-index:
  - name: m
    results:
      - dataset: {name: ImageNet, type: imagenet-1k, split: validation}
        metrics:
          - {type: accuracy, value: 81.5}
          - {type: loss, value: not measured}
---
# A model
"""


def weights(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return [folder / name for name in names]


def said(sidecars: Sidecars) -> set[tuple[str, str | None, int | None, float]]:
    return {(one.name, one.split, one.step, one.value) for one in sidecars.metrics}


def test_a_hugging_face_folder_tells_card_configuration_and_trainer_state(tmp_path: Path) -> None:
    (model,) = weights(tmp_path, "model.safetensors")
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_size": 8}')
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "base_model_name_or_path": "org/base"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    rows = [{"loss": 2.0, "step": 10, "epoch": 0.5, "grad_norm": 1.0}, {"eval_loss": 1.5, "eval_accuracy": 0.4, "step": 20}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 20, "epoch": 1.0, "best_metric": 1.5, "log_history": rows}))
    found = read_sidecars(model)
    assert found.config is not None and found.config["model_type"] == "vit"
    assert found.adapter_config is not None and found.adapter_config["r"] == 4
    assert found.companions == ("tokenizer.json",)
    card = found.card
    assert card is not None and card.base_models == ("org/base", "org/other") and card.datasets == ("imagenet-1k",)
    assert (card.languages, card.library, card.task, card.tags) == (("en", "no"), "transformers", "image-classification", ("vision",))
    assert found.licence == "Apache-2.0"
    state = found.trainer_state
    assert state is not None and (state.global_step, state.best_metric, state.rows) == (20, 1.5, 2)
    assert Metric("loss", 2.0, "train", 10) in state.history
    assert said(found) == {("loss", "eval", 20, 1.5), ("accuracy", "eval", 20, 0.4), ("accuracy", "validation", None, 81.5)}
    assert found.notes == ()


def test_result_files_become_metrics_once(tmp_path: Path) -> None:
    (model,) = weights(tmp_path, "net.pt")
    (tmp_path / "all_results.json").write_text('{"epoch": 3.0, "eval_loss": 0.5, "train_loss": 0.25}')
    (tmp_path / "eval_results.json").write_text('{"epoch": 3.0, "eval_loss": 0.5}')
    (tmp_path / "metrics.json").write_text('{"test": {"accuracy": 0.9, "nan": NaN, "flag": true, "list": [1]}}')
    assert said(read_sidecars(model)) == {("accuracy", "test", None, 0.9), ("loss", "eval", 3, 0.5), ("loss", "train", 3, 0.25)}


def test_metrics_that_name_none_of_several_checkpoints_are_left_out(tmp_path: Path) -> None:
    first, _ = weights(tmp_path, "a.pt", "b.pt")
    (tmp_path / "metrics.json").write_text('{"accuracy": 0.9}')
    found = read_sidecars(first)
    assert found.metrics == () and len(found.notes) == 1 and "several checkpoints" in found.notes[0]


def test_rows_of_a_table_go_to_the_file_or_step_they_name(tmp_path: Path) -> None:
    a, b, c = weights(tmp_path, "a.pt", "b.pt", "epoch_3.pt")
    (tmp_path / "metrics.csv").write_text("file,test_accuracy,note\na.pt,0.5,x\nsub/b,0.6,y\nb,0.7,z\n")
    (tmp_path / "metrics.json").write_text('{"a.pt": {"val_loss": 2}, "b": {"val_loss": 3}}')
    folder = folder_sidecars(tmp_path, ["a.pt", "b.pt", "epoch_3.pt", "metrics.csv", "metrics.json"])
    assert said(for_checkpoint(folder, a)) == {("accuracy", "test", None, 0.5), ("loss", "val", None, 2.0)}
    assert said(for_checkpoint(folder, b)) == {("accuracy", "test", None, 0.7), ("loss", "val", None, 3.0)}
    (tmp_path / "metrics.csv").write_text("epoch,step,loss\n3,30,0.1\n4,40,0.2\n")
    folder = folder_sidecars(tmp_path, ["a.pt", "b.pt", "epoch_3.pt", "metrics.csv"])
    place = Place(tmp_path, tmp_path, 3, "epoch", "")
    assert said(for_checkpoint(folder, c, place)) == {("loss", None, 30, 0.1)}
    assert said(for_checkpoint(folder, c, Place(tmp_path, tmp_path, 3, "step", ""))) == set()


def test_a_long_table_has_a_metric_a_row(tmp_path: Path) -> None:
    a, _ = weights(tmp_path, "a.pt", "b.pt")
    (tmp_path / "metrics.csv").write_text("checkpoint,metric,value\na.pt,test_acc,0.5\na.pt,val_loss,2\nb.pt,test_acc,0.6\n")
    assert said(read_sidecars(a)) == {("acc", "test", None, 0.5), ("loss", "val", None, 2.0)}


def test_a_table_above_names_files_below(tmp_path: Path) -> None:
    weights(tmp_path / "seed0", "model.pt")
    (one,) = weights(tmp_path / "seed1", "model.pt")
    (tmp_path / "metrics.csv").write_text("path,accuracy\nseed0/model.pt,0.1\nseed1/model.pt,0.2\nmodel.pt,9\nseed1,0.3\n")
    above = folder_sidecars(tmp_path, ["metrics.csv", "seed0", "seed1"])
    found = for_checkpoint(folder_sidecars(one.parent, ["model.pt"], above), one)
    assert found.metrics[0].value == 0.2
    (tmp_path / "metrics.csv").write_text("name,accuracy\nseed1,0.3\n")
    above = folder_sidecars(tmp_path, ["metrics.csv"])
    assert said(for_checkpoint(folder_sidecars(one.parent, ["model.pt"], above), one)) == {("accuracy", None, None, 0.3)}


def test_a_file_of_its_own_tells_metrics_from_settings(tmp_path: Path) -> None:
    one, other = weights(tmp_path, "net_1.safetensors", "net_2.safetensors")
    (tmp_path / "net_1.json").write_text(
        '{"hidden": 32, "lr": 0.1, "act": "tanh", "test_acc": 0.9, "metrics": {"val": {"psnr": 30}}, "step": 7}'
    )
    found = read_sidecars(one)
    assert said(found) == {("acc", "test", 7, 0.9), ("psnr", "val", 7, 30.0)}
    assert dict(found.hyperparameters) == {"hidden": 32, "lr": 0.1, "act": "tanh", "step": 7}
    assert read_sidecars(other).metrics == ()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"{", "expected JSON"),
        ("config.json", b"[1]", "expected a JSON object"),
        ("config.json", b"[" * 100_000, "expected JSON"),
        ("config.json", b"\xff\xfe", "UTF-8"),
        ("metrics.json", b'{"a": ' + b"9" * 5000 + b"}", "expected JSON"),
        ("README.md", b"---\na: &x [1]\nb: [*x, *x]\n---\n", "alias"),
        ("README.md", b"---\n" + b"[" * 200_000 + b"\n---\n", "nested deeper"),
        ("README.md", b"---\na: !!python/object/apply:os.system ['true']\n---\n", "expected YAML"),
        ("README.md", b"---\na: 2024-13-45\n---\n", "expected YAML"),
        ("README.md", b"---\n- a list\n---\n", "expected a mapping"),
        ("metrics.csv", b"a,b\n\xff,1\n", "UTF-8"),
        ("metrics.csv", b'a,b\n"' + b"x" * 2_000_000, "a line of more than"),
        ("trainer_state.json", b"3", "expected a JSON object"),
    ],
)
def test_a_damaged_sidecar_becomes_one_note(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (model,) = weights(tmp_path, "model.pt")
    (tmp_path / name).write_bytes(content)
    (tmp_path / "eval_results.json").write_text('{"eval_loss": 1}')
    found = read_sidecars(model)
    assert len(found.notes) == 1 and said in found.notes[0] and "\n" not in found.notes[0]
    assert name not in found.files and Metric("loss", 1.0, "eval") in found.metrics


def test_a_huge_sidecar_and_a_pipe_are_not_read(tmp_path: Path) -> None:
    (model,) = weights(tmp_path, "model.pt")
    with (tmp_path / "metrics.json").open("wb") as stream:
        stream.truncate(1 << 30)
    os.mkfifo(tmp_path / "config.json")
    notes = read_sidecars(model).notes
    assert len(notes) == 2 and "not a regular file" in notes[0] and "at most" in notes[1]


@pytest.mark.parametrize("seed", range(60))
def test_damage_never_escapes(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    rows = '"log_history": [{"loss": 1, "step": 3}, {"eval_loss": 2, "step": 3}]'
    contents = {
        "README.md": CARD,
        "metrics.json": '{"a.pt": {"acc": 1, "x": {"y": 2}}, "b": [1, 2], "step": 3}',
        "metrics.csv": "file,step,acc\na.pt,3,0.5\nb.pt,4,0.1\n",
        "trainer_state.json": f'{{"global_step": 3, {rows}}}',
        "config.json": '{"a": 1}',
        "a.json": '{"acc": 0.5, "lr": 1, "metrics": {"b": 1}}',
        "hparams.yaml": "lr: 0.1\nseed: 3\nx: [1, 2]\nd: 2024-01-01\n",
    }
    for name, text in contents.items():
        raw = bytearray(text.encode())
        for _ in range(chance.choice([1, 3])):
            at = chance.randrange(len(raw))
            raw[at : at + chance.randrange(3)] = bytes(
                chance.choice(b"{}[],:\"'-&*!|>#%@`\n 09nE\xff\x00") for _ in range(chance.randrange(3))
            )
        (tmp_path / name).write_bytes(raw)
    for path in weights(tmp_path, "a.pt", "step_1.pt", "step_3.pt"):
        place = place_in_run(path, tmp_path)
        found = read_sidecars(path, place)
        told = read_run_folder(place) if place else None
        assert all("\n" not in note for note in (*found.notes, *(told.notes if told else ())))


def test_twenty_thousand_checkpoints_cost_microseconds_each(tmp_path: Path) -> None:
    names = [f"net_{i}.pt" for i in range(20_000)]
    folder = folder_sidecars(tmp_path, names)
    paths = [tmp_path / name for name in names]
    start = time.perf_counter()
    for path in paths:
        for_checkpoint(folder, path)
    assert time.perf_counter() - start < 10.0  # checked types and a loaded machine included; a quadratic walk takes minutes


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("eval_loss", ("loss", "eval")),
        ("val/acc", ("acc", "val")),
        ("train.loss", ("loss", "train")),
        ("dev-f1", ("f1", "val")),
        ("testament", ("testament", None)),
        ("loss", ("loss", None)),
        ("test", ("test", None)),
        ("test_", ("test_", None)),
    ],
)
def test_splits_stand_in_front_of_names(key: str, expected: tuple[str, str | None]) -> None:
    assert split_name(key) == expected


def test_numbers_are_finite_and_true_numbers() -> None:
    assert metrics_of({"a": True, "b": "1", "c": float("inf"), "d": 10**400, "e": None, "f": 2}) == (Metric("f", 2.0),)


def test_a_long_history_is_thinned_evenly_and_keeps_its_ends() -> None:
    history = History()
    for step in range(25_001):
        history.add("val_loss", float(step), step)
    history.add("val_loss", float("nan"), 25_001)
    points = history.metrics()
    steps = [point.step for point in points]
    assert len(points) <= MAX_POINTS + 1 and steps[0] == 0 and steps[-1] == 25_000
    assert {b - a for a, b in itertools.pairwise(steps) if a is not None and b is not None} == {4}
    assert len(history.notes()) == 2


def test_stems() -> None:
    names = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "a.b.ckpt", "folder", "x.weights.h5"]
    assert [stem_of(name) for name in names] == ["model", "model", "a.b", "folder", "x"]


def test_licences_are_told_only_beyond_doubt() -> None:
    mit = (
        "Permission is hereby granted, free of charge, to any person obtaining a copy of this software\n"
        "The above copyright notice and this permission notice shall be included in all copies"
    )
    bsd = "Redistribution and use in source and binary forms, with or without modification, are permitted"
    apache = "  Apache License\n  Version 2.0, January 2004"
    assert guess_licence(f"MIT License\n\n{mit}") == "MIT"
    assert guess_licence(f"{mit}\nExcept as contained in this notice, the name") is None
    assert guess_licence(apache) == "Apache-2.0"
    assert guess_licence(f"{apache}\n{mit}") is None
    assert guess_licence(bsd) == "BSD-2-Clause"
    assert guess_licence(f"{bsd} Neither the name of the copyright holder") == "BSD-3-Clause"
    assert guess_licence(f"{bsd} All advertising materials mentioning") is None
    assert guess_licence("GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007") == "GPL-3.0"
    assert guess_licence("GNU LESSER GENERAL PUBLIC LICENSE\n Version 2.1, February 1999") == "LGPL-2.1"
    assert guess_licence("Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International") == "CC-BY-NC-SA-4.0"
    assert guess_licence("All rights reserved.") is None


def test_real_licence_files_are_recognised(real_checkpoints: Path) -> None:
    found = {path.parent.name: guess_licence(path.read_text()) for path in real_checkpoints.glob("*/LICENSE")}
    assert found["textgenrnn"] == "MIT" and found["acasxu"] == "Apache-2.0" and found["akamaster"] == "BSD-2-Clause"
    assert None not in found.values()
