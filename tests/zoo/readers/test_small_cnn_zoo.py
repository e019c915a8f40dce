"""The Small CNN Zoo: a matrix, and tables of its columns and rows."""

import csv
import gzip
import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from weightspace.checkpoint import Checkpoint
from weightspace.errors import RecordError
from weightspace.inference import infer_spec
from weightspace.zoo import Zoo
from weightspace.zoo.readers.model_zoos import Training
from weightspace.zoo.readers.small_cnn_zoo import read

STEPS = (0, 1, 2, 3, 20, 40, 60, 80, 86)
LAYOUT = {
    "sequential/conv2d/bias:0": (4,),
    "sequential/conv2d/kernel:0": (3, 3, 1, 4),
    "sequential/conv2d_1/bias:0": (5,),
    "sequential/conv2d_1/kernel:0": (3, 3, 4, 5),
    "sequential/dense/bias:0": (3,),
    "sequential/dense/kernel:0": (5, 3),
}
WIDTH = sum(int(np.prod(shape)) for shape in LAYOUT.values())


def dataset(folder: Path, runs: int = 4) -> npt.NDArray[np.float32]:
    """Write a dataset as it is published: rows of a run are not beside each other."""
    folder.mkdir(parents=True)
    rows = [(run, step) for step in STEPS for run in range(runs)]
    weights = np.random.default_rng(0).normal(size=(len(rows), WIDTH)).astype(np.float32)
    np.save(folder / "weights.npy", weights)
    start, layout = 0, []
    for name, shape in LAYOUT.items():
        layout.append({"varname": name, "start_idx": start, "end_idx": start + int(np.prod(shape)), "shape": str(shape)})
        start += int(np.prod(shape))
    (folder / "layout.csv").write_text(table(layout))
    metrics = [
        {
            "config.activation": "tanh" if run % 2 else "relu",
            "config.learning_rate": 0.001 * (run + 1),
            "config.random_seed": 42,
            "modeldir": f"/somewhere/else/run_{run}",
            "step": step,
            "test_accuracy": round(0.1 + step / 100 - run / 1000, 6),
            "test_loss": 2.3,
            "train_accuracy": 0.2,
            "train_loss": 2.2,
        }
        for run, step in rows
    ]
    (folder / "metrics.csv.gz").write_bytes(gzip.compress(table(metrics).encode()))
    return weights


def table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def test_rows_become_networks_grouped_by_run(tmp_path: Path) -> None:
    weights = dataset(tmp_path / "svhn", runs=2)
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(tmp_path / "svhn")
    assert (report.runs, report.points, len(report.matches)) == (2, 2 * 9 * 4, 18)
    assert report.networks is not None and report.networks.new_models == 18
    rows = zoo.models("run = 'svhn/run_1'", order_by="step").to_pylist()
    assert [row["step"] for row in rows] == list(STEPS) and [row["name"] for row in rows] == [f"svhn/{1 + 2 * at:06d}" for at in range(9)]
    assert rows[-1]["test_accuracy"] == pytest.approx(0.959) and rows[0]["test_accuracy"] == pytest.approx(0.099)
    [run] = zoo.sql(
        "select seed, hyperparameters->>'activation' as a, tags->>'dataset' as d from runs where name = 'svhn/run_1'"
    ).to_pylist()
    assert run == {"seed": 42, "a": "tanh", "d": "svhn"}
    opened = zoo.open("svhn/000001")
    assert set(opened) == {"conv2d.weight", "conv2d.bias", "conv2d_1.weight", "conv2d_1.bias", "dense.weight", "dense.bias"}
    at = 4 + 36 + 5
    expected = weights[1, at : at + 180].reshape(3, 3, 4, 5).transpose(3, 2, 0, 1)
    assert torch.equal(opened["conv2d_1.weight"], torch.from_numpy(expected.copy()))
    assert torch.equal(opened["dense.weight"], torch.from_numpy(weights[1, -15:].reshape(5, 3).T.copy()))


def test_a_row_computes_what_tensorflow_would(tmp_path: Path) -> None:
    """The network of a row, run by torch, against convolutions written out in the matrix's own order of axes."""
    weights = dataset(tmp_path / "mnist", runs=1)[0].astype(np.float64)
    Zoo(tmp_path / "zoo").import_runs(tmp_path / "mnist")
    state = {name: tensor.double() for name, tensor in Zoo(tmp_path / "zoo").open("mnist/000000").state_dict().items()}
    image = np.random.default_rng(1).normal(size=(8, 8, 1))
    x = torch.from_numpy(image.transpose(2, 0, 1))[None]
    for name in ("conv2d", "conv2d_1"):
        x = torch.nn.functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2).relu()
    found = torch.nn.functional.linear(x.mean((2, 3)), state["dense.weight"], state["dense.bias"])[0].numpy()
    parts, start = {}, 0
    for name, shape in LAYOUT.items():
        parts[name.split("/", 1)[1]] = weights[start : start + int(np.prod(shape))].reshape(shape)
        start += int(np.prod(shape))
    y = image
    for name in ("conv2d", "conv2d_1"):
        kernel, bias, size = parts[f"{name}/kernel:0"], parts[f"{name}/bias:0"], (y.shape[0] - 3) // 2 + 1
        patches = [
            [np.einsum("hwi,hwio->o", y[2 * r : 2 * r + 3, 2 * c : 2 * c + 3], kernel) + bias for c in range(size)] for r in range(size)
        ]
        y = np.maximum(np.array(patches), 0)
    np.testing.assert_allclose(found, y.mean((0, 1)) @ parts["dense/kernel:0"] + parts["dense/bias:0"], rtol=1e-10)


def test_axes_of_a_row_are_recognised(tmp_path: Path) -> None:
    dataset(tmp_path / "mnist", runs=1)
    zoo = Zoo(tmp_path / "zoo")
    zoo.import_runs(tmp_path / "mnist")
    spec = infer_spec(zoo.open("mnist/000000"))
    assert sorted(group.size for group in spec.groups.values() if group.size in (4, 5)) == [4, 5]


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_the_usual_split_is_by_final_rows_in_the_shuffled_order(tmp_path: Path, place: str) -> None:
    dataset(tmp_path / "cifar10", runs=20)
    order = list(range(180))
    random.Random(5).shuffle(order)
    path = tmp_path / ("cifar10/nfn_split.csv" if place == "inside" else "cifar10_split.csv")
    path.write_text("".join(f"{row}\n" for row in order))
    trainings = [one for one in read(tmp_path / "cifar10") if isinstance(one, Training)]
    found = {one.run.name: one.run.split for one in trainings}
    final = [f"cifar10/run_{row - 160}" for row in order if row >= 160]
    others = list(range(10))
    random.Random(0).shuffle(others)
    assert [found[name] for name in final[10:]] == ["test"] * 10
    assert [found[final[at]] for at in others] == ["train"] * 8 + ["val"] * 2
    assert {(one.run.tags["split_file"], one.run.tags["split_seed"]) for one in trainings} == {(path.name, "0")}


def test_importing_again_writes_nothing_new(tmp_path: Path) -> None:
    dataset(tmp_path / "fmnist", runs=1)
    zoo = Zoo(tmp_path / "zoo")
    zoo.import_runs(tmp_path / "fmnist")
    before = zoo.files(), zoo.sql("select * exclude (recorded) from metrics order by all")
    report = zoo.import_runs(tmp_path / "fmnist")
    assert report.networks is not None and (report.networks.catalogued, report.networks.unchanged) == (0, 9)
    assert (zoo.files(), zoo.sql("select * exclude (recorded) from metrics order by all")) == before


def test_a_row_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    weights = dataset(tmp_path / "svhn", runs=1)
    [training] = [one for one in read(tmp_path / "svhn") if isinstance(one, Training)]
    path = tmp_path / "svhn/weights.npy"
    before = path.stat()
    raw = bytearray(path.read_bytes())
    raw[-weights[0].nbytes :] = (weights[8] + 1).tobytes()
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    last = training.networks[-1].weights
    assert isinstance(last, Checkpoint) and last["conv2d.bias"].tolist() == (weights[8, :4] + 1).tolist()


BROKEN: dict[str, tuple[str, bytes | None, str]] = {
    "no layout": ("layout.csv", None, "layout.csv: is missing, and nothing else says which columns are which tensor"),
    "no metrics": ("metrics.csv.gz", None, "metrics.csv.gz: is missing, and nothing else says which rows are which run"),
    "columns beyond the row": ("layout.csv", b"varname,start_idx,end_idx,shape\na/kernel:0,0,999999,\"(999999,)\"\n", "does not fit columns 0 to 999999"),
    "shape beside the columns": ("layout.csv", b"varname,start_idx,end_idx,shape\na/kernel:0,0,4,\"(3,)\"\n", "does not fit columns 0 to 4"),
    "columns left out": ("layout.csv", b"varname,start_idx,end_idx,shape\na/kernel:0,0,4,\"(4,)\"\n", "expected each column once"),
    "a layout of other words": ("layout.csv", b"name,from\na,0\n", "expected varname, start_idx, end_idx and shape"),
    "a shape that would be run": ("layout.csv", b"varname,start_idx,end_idx,shape\na/kernel:0,0,4,__import__('os')\n", "expected varname, start_idx"),
    "fewer rows": ("metrics.csv.gz", gzip.compress(b"modeldir,step\na,0\n"), "has 18 rows and metrics.csv.gz 1"),
    "a row of other length": ("metrics.csv.gz", gzip.compress(b"modeldir,step\na,0\nb\n"), "expected a packed CSV table"),
    "no gzip": ("metrics.csv.gz", b"modeldir,step\n", "expected a packed CSV table"),
    "no runs": ("metrics.csv.gz", gzip.compress(b"step\n" + b"0\n" * 18), "has no column 'modeldir'"),
    "a matrix cut short": ("weights.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (18, 247), }".ljust(127) + b"\n", "its file has 0"),
    "a matrix of objects": ("weights.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (18, 247), }".ljust(127) + b"\n", "Python objects"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_what_does_not_fit_is_one_line_and_the_other_datasets_come_in(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    for folder in ("broken", "sound"):
        dataset(tmp_path / "zoos" / folder, runs=2)
    path = tmp_path / "zoos/broken" / name
    path.unlink() if content is None else path.write_bytes(content)
    notes = [one for one in read(tmp_path / "zoos") if isinstance(one, str)]
    [note] = [one for one in notes if "no file of shuffled row numbers" not in one]
    assert message in note and "\n" not in note
    with pytest.raises(RecordError, match=r"nothing of broken was read after that|no weights\.npy"):
        Zoo(tmp_path / "alone").import_runs(tmp_path / "zoos/broken", reader="small-cnn-zoo")
    assert len([one for one in read(tmp_path / "zoos") if isinstance(one, Training)]) == 2


def test_rows_that_belong_to_no_run_and_a_wrong_split_are_told(tmp_path: Path) -> None:
    dataset(tmp_path / "svhn", runs=2)
    path = tmp_path / "svhn/metrics.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    lines[3] = lines[3].replace("/somewhere/else/run_0", "")
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    (tmp_path / "svhn_split.csv").write_text("0\n99\n")
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(tmp_path / "svhn")
    split, nameless = report.notes
    assert "do not fit 18 rows" in split and "1 rows have no modeldir or no step, first row 2" in nameless
    assert len(report.matches) == 17


def test_rows_with_nan_are_catalogued_and_flagged_and_equal_rows_share_a_file(tmp_path: Path) -> None:
    weights = dataset(tmp_path / "svhn", runs=2)
    weights[0, 0], weights[3] = np.nan, weights[2]
    np.save(tmp_path / "svhn/weights.npy", weights)
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(tmp_path / "svhn")
    assert report.networks is not None and report.networks.non_finite == ["svhn/000000"]
    assert any("1 networks have the very weights of another run's network" in note for note in report.notes)
    assert zoo.sql("select count(*) as n from metrics where model_id is null").to_pylist() == [{"n": 72}]
