"""The data of populations: what is made by code, what is read, and what is refused."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from weightspace.errors import RecordError
from weightspace.zoo.populations import populations
from weightspace.zoo.populations.data import Examples, load, load_described, mnist1d, sorting


def nearest_mean(data: Examples) -> float:
    """Accuracy of the nearest mean of a class."""
    means = torch.stack([data.train[data.train_classes == one].mean(0) for one in range(data.classes)])
    return float((torch.cdist(data.test, means).argmin(1) == data.test_classes).double().mean())


def test_mnist1d_is_like_the_published_one() -> None:
    package = pytest.importorskip("mnist1d.data")
    own, published = mnist1d(), package.make_dataset(package.get_dataset_args())
    assert own.train.shape == published["x"].shape and own.test.shape == published["x_test"].shape
    assert torch.bincount(torch.cat([own.train_classes, own.test_classes])).tolist() == [500] * 10
    theirs = torch.tensor(published["x"], dtype=torch.float32)
    statistics: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.std(0),
        lambda x: (x[:, 1:] - x[:, :-1]).abs().mean(0),
        lambda x: torch.quantile(x.abs().amax(1), torch.arange(0.1, 1, 0.2)),
    )
    for statistic in statistics:
        torch.testing.assert_close(statistic(own.train), statistic(theirs), rtol=0.12, atol=0.02)
    copied = Examples("", theirs, torch.tensor(published["y"]), torch.tensor(published["x_test"], dtype=torch.float32), torch.tensor(published["y_test"]), (40,), 10, torch.arange(5000))  # fmt: skip
    assert nearest_mean(own) == pytest.approx(nearest_mean(copied), abs=0.06)


def test_sorted_sequences_are_sorted() -> None:
    data = sorting()
    assert torch.equal(data.test.sort(1).values, data.test_classes) and data.classes == 16
    assert not {tuple(one) for one in data.train.tolist()} & {tuple(one) for one in data.test.tolist()}


def test_every_image_of_digits_comes_in_its_own_order() -> None:
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    inputs, found = load("digits").all_inputs
    assert np.array_equal(inputs.numpy() * 16, pixels) and found.tolist() == classes.tolist()


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=draw.random((40, 4, 3)), y=draw.integers(0, 3, 40))
    return tmp_path / "own.npz"


def test_arrays_of_ones_own_are_split_and_known_by_content(arrays: Path) -> None:
    data = load(str(arrays))
    assert data.shape == (4, 3) and len(data.train) == 32 and len(data.test) == 8 and data.classes == 3
    assert load_described(data.described).hash == data.hash


def test_a_test_part_is_taken_as_it_is(tmp_path: Path) -> None:
    x = np.arange(24.0).reshape(12, 2)
    np.savez(tmp_path / "own.npz", x=x[:9], y=np.arange(9) % 2, x_test=x[9:], y_test=np.arange(3) % 2)
    data = load(str(tmp_path / "own.npz"))
    assert data.test.tolist() == x[9:].tolist() and data.train.tolist() == x[:9].tolist()


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_of_idx_files(tmp_path: Path, packed: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 5, 4)).astype(np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 3
    for name, array in (("t10k-images-idx3-ubyte", pixels), ("t10k-labels-idx1-ubyte", labels)):
        content = b"\0\0\x08" + bytes([array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()
        (tmp_path / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    data = load(str(tmp_path))
    inputs, classes = data.all_inputs
    assert data.shape == (5, 4) and len(data.test) == 4
    assert np.allclose(inputs.numpy() * 255, pixels.reshape(20, -1)) and classes.tolist() == labels.tolist()


def test_data_that_is_no_such_thing_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez(tmp_path / "short.npz", x=np.ones((9, 2)), y=np.ones(8, int))
    np.savez(tmp_path / "floats.npz", x=np.ones((9, 2)), y=np.ones(9))
    np.savez(tmp_path / "nan.npz", x=np.full((9, 2), np.nan), y=np.ones(9, int))
    np.savez(tmp_path / "other.npz", z=np.ones(3))
    np.savez(tmp_path / "objects.npz", x=np.array([{}] * 9, object), y=np.ones(9, int))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x09abc")
    (tmp_path / "folder" / "t10k-labels-idx1-ubyte").write_bytes(b"text")
    for place in sorted(tmp_path.iterdir()):
        with pytest.raises(RecordError, match=r"cannot be read \(.*\); expected an \.npz file with x and y, or a folder"):
            load(str(place))
    with pytest.raises(RecordError, match=r"no data '.*nowhere'; expected one of digits, mnist1d, an \.npz file"):
        load(str(tmp_path / "nowhere"))


def test_data_that_has_changed_since_is_not_taken_for_what_it_was(arrays: Path) -> None:
    from weightspace.task import task_for
    from weightspace.zoo import Zoo

    [one] = populations["mlps"](data=str(arrays), count=1, steps=(3,), widths=(4,), depths=(1,))
    zoo = Zoo(arrays.parent / "zoo")
    zoo.add_many([one])
    assert task_for(zoo.open(one.name)).evaluate(dict(one.tensors))["accuracy"] >= 0
    np.savez(arrays.with_name("new.npz"), x=np.zeros((40, 4, 3)), y=np.arange(40) % 3)
    arrays.with_name("new.npz").replace(arrays)
    with pytest.raises(RecordError, match="is other data than the network was trained on; bring back what it held then"):
        task_for(zoo.open(one.name))
