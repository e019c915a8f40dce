"""The data that populations are trained on: real digits, MNIST-1D and sequences made by code, idx folders and arrays of one's own."""

import gzip
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3

from weightspace.errors import RecordError, one_line

if TYPE_CHECKING:
    import torch

TEST_IMAGES = 450
_MNIST1D = (4000, 1000)  # training and test signals, as published
_SEQUENCES = (2048, 1024)
_TOKENS, _VOCABULARY = 8, 16
_TEST_SHARE = 5  # of arrays that bring no test part, one example in so many is one


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and their classes, those to learn from and those to be judged by.

    Attributes:
        name: `digits`, `mnist1d`, `sorting`, or the path of a file or folder.
        train: `(examples, inputs)`, pixels from 0 to 1; whole numbers where inputs are tokens.
        train_classes: `(examples,)`; for sequences `(examples, tokens)`.
        test, test_classes: likewise.
        shape: of one input before it was flattened.
        classes: how many there are.
        source: for each of the training and then the test examples, its number in the data's own order.
    """

    name: str
    train: "torch.Tensor"
    train_classes: "torch.Tensor"
    test: "torch.Tensor"
    test_classes: "torch.Tensor"
    shape: tuple[int, ...]
    classes: int
    source: "torch.Tensor"

    @property
    def described(self) -> dict[str, Any]:
        """What a recipe says of the data; with the content of what is not made by code."""
        known: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "classes": self.classes}
        return known if self.name in _MADE else known | {"hash": self.hash}

    @property
    def hash(self) -> str:
        """Hex digest of the content."""
        parts = (self.train, self.train_classes, self.test, self.test_classes)
        return blake3(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest(16)

    @property
    def all_inputs(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """Every input with its class, in the data's own order."""
        import torch

        order = self.source.argsort()
        return torch.cat([self.train, self.test])[order], torch.cat([self.train_classes, self.test_classes])[order]


def load(name: str) -> Examples:
    """Load data by name, or from a path; what was read last is kept.

    Args:
        name: `digits` (scikit-learn's 1,797 real 8x8 scans), `mnist1d`, a folder with MNIST's idx files (the two of the test part suffice),
            or an .npz file with `x` and `y`, perhaps `x_test` and `y_test`.

    Raises:
        RecordError: there is no such data, or it cannot be read as such.
    """
    if name in _NAMED:
        return _NAMED[name]()
    place = Path(name).expanduser().absolute()
    if not place.exists():
        raise RecordError(
            f"no data '{one_line(str(place), 120)}'; expected one of {', '.join(_NAMED)}, an .npz file with x and y, or a folder of idx files"
        )
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    return _from_path(str(place), tuple((one.name, one.stat().st_mtime_ns, one.stat().st_size) for one in files))


def load_described(known: Mapping[str, Any]) -> Examples:
    """Load the data that a recipe speaks of.

    Raises:
        RecordError: it is not there any more, or is other data by now.
    """
    found = _MADE[known["name"]]() if known["name"] in _MADE else load(str(known["name"]))
    if "hash" in known and found.hash != known["hash"]:
        raise RecordError(f"{found.name}: is other data than the network was trained on; bring back what it held then")
    return found


@lru_cache(maxsize=1)
def load_digits() -> Examples:
    """Read the images that ship with scikit-learn, shuffled by a fixed seed and split."""
    import torch

    # Read from the file itself: importing scikit-learn would take longer than training a hundred networks.
    table = np.loadtxt(Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz"))), delimiter=",")
    pixels, classes = table[:, :-1], table[:, -1].astype(np.int64)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    return _examples("digits", torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes), (8, 8), order, TEST_IMAGES)


# The shapes of the ten digits as lines, drawn by the authors of MNIST-1D.
_STROKES = """
5 6 6.5 6.75 7 7 7 7 6.75 6.5 6 5
5 3 3 3.4 3.8 4.2 4.6 5 5.4 5.8 5 5
5 6 6.5 6.5 6 5.25 4.75 4 3.5 3.5 4 5
5 6 6.5 6.5 6 5 5 6 6.5 6.5 6 5
5 4.4 3.8 3.2 2.6 2.6 5 5 5 5 5 5
5 3 3 3 3 5 6 6.5 6.5 6 4.5 5
5 4 3.5 3.25 3 3 3 3 3.25 3.5 4 5
5 7 7 6.6 6.2 5.8 5.4 5 4.6 4.2 5 5
5 4 3.5 3.5 4 5 5 4 3.5 3.5 4 5
5 4 3.5 3.5 4 5 5 5 5 4.7 4.3 5
"""


@lru_cache(maxsize=1)
def mnist1d() -> Examples:
    """Make signals as MNIST-1D does (Greydanus and Kobak, arXiv:2011.14439), with the same settings but random numbers of our own.

    Ten strokes of twelve points are padded with zeros, dilated, scaled, shifted, laid into smoothed noise, sheared, and read off at 40.
    """
    import torch

    strokes = np.array([[float(value) for value in line.split()] for line in _STROKES.split("\n") if line])
    strokes = (strokes - strokes.mean(1, keepdims=True)) / strokes.std(1, keepdims=True)
    strokes = (strokes - strokes[:, :1]) / 6 + 1e-8  # not zero, which means that there is no stroke
    random, count = np.random.default_rng(0), sum(_MNIST1D)
    classes = random.permutation(np.repeat(np.arange(10), count // 10))
    signals = np.stack([_signal(strokes[one], random) for one in classes])
    # Rounded, so that the last bits of a machine's sines make no difference.
    signals = np.round((signals - signals.mean()) / signals.std(), 4)
    return _examples("mnist1d", torch.tensor(signals, dtype=torch.float32), torch.tensor(classes), (40,), torch.arange(count), _MNIST1D[1])


def _signal(stroke: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One stroke, deformed and noisy, at 40 points."""
    padded = np.concatenate([stroke, np.zeros(random.integers(36, 61))])
    drawn = np.interp(np.linspace(0, 1, 72), np.linspace(0, 1, len(padded)), padded)
    shift = random.integers(48)
    drawn = np.roll(drawn * (1 + 0.4 * (random.random() - 0.5)), shift)
    around = np.where(drawn == 0, 0.25 * _smoothed(random.standard_normal(72), 2.0), 0)
    noisy = drawn + around + 0.02 * random.standard_normal(72)
    sheared = noisy - 0.75 * (random.random() - 0.5) * np.linspace(-0.5, 0.5, 72)
    made: np.ndarray = np.interp(np.linspace(0, 1, 40), np.linspace(0, 1, 72), sheared)
    return made


def _smoothed(values: np.ndarray, width: float) -> np.ndarray:
    """Values convolved with a normal density, mirrored at the ends."""
    reach = np.arange(-8, 9)
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    return np.convolve(np.pad(values, 8, mode="symmetric"), kernel / kernel.sum(), mode="valid")


@lru_cache(maxsize=1)
def sorting() -> Examples:
    """Make sequences of eight tokens out of sixteen; the class of each position is the token that stands there once they are sorted."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(_VOCABULARY, (sum(_SEQUENCES), _TOKENS), generator=generator)
    inputs, count = tokens, torch.arange(len(tokens))
    return _examples("sorting", inputs, tokens.sort(1).values, (_TOKENS,), count, _SEQUENCES[1])


_NAMED: Mapping[str, Callable[[], Examples]] = {"digits": load_digits, "mnist1d": mnist1d}
_MADE: Mapping[str, Callable[[], Examples]] = {**_NAMED, "sorting": sorting}


@lru_cache(maxsize=2)
def _from_path(path: str, stamps: tuple[tuple[str, int, int], ...]) -> Examples:
    """Read a file or folder; its stamps tell that it has changed since it was last read."""
    place = Path(path)
    try:
        return _from_idx(place) if place.is_dir() else _from_arrays(place)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise RecordError(
            f"{one_line(path, 120)}: cannot be read ({error}); expected an .npz file with x and y, or a folder of MNIST's idx files"
        ) from None


def _from_arrays(path: Path) -> Examples:
    import torch

    with np.load(path, allow_pickle=False) as arrays:
        known = {name: arrays[name] for name in ("x", "y", "x_test", "y_test") if name in arrays}
    inputs, classes = (np.concatenate([known[name], *([known[f"{name}_test"]] if "x_test" in known else [])]) for name in ("x", "y"))
    if inputs.ndim < 2 or classes.ndim != 1 or len(inputs) != len(classes) or len(inputs) < _TEST_SHARE:
        raise ValueError(f"x has shape {inputs.shape} and y {classes.shape}, expected (examples, ...) and (examples,)")
    if not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0 or not np.isfinite(inputs.astype(np.float64)).all():
        raise ValueError("y holds no class numbers from 0 on, or x is not finite")
    tests = len(known["x_test"]) if "x_test" in known else len(inputs) // _TEST_SHARE
    drawn = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    order = torch.arange(len(inputs)) if "x_test" in known else drawn
    shape = inputs.shape[1:]
    flat = torch.tensor(inputs.reshape(len(inputs), -1), dtype=torch.float32)
    return _examples(str(path), flat, torch.tensor(classes.astype(np.int64)), shape, order, tests)


def _from_idx(folder: Path) -> Examples:
    """Read idx files: the training part where it is there, the test part else, of which then a fifth is for testing."""
    import torch

    found = [_idx(folder, part) for part in ("train", "t10k")]
    parts = [part for part in found if part is not None]
    if not parts:
        raise ValueError("no idx files such as t10k-images-idx3-ubyte.gz with their labels")
    images, classes = (torch.cat([part[at] for part in parts]) for at in (0, 1))
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    tests, order = (len(parts[1][0]), torch.arange(len(images))) if len(parts) == 2 else (len(images) // _TEST_SHARE, drawn)
    shape = tuple(images.shape[1:])
    return _examples(str(folder), images.flatten(1) / 255, classes, shape, order, tests)


def _idx(folder: Path, part: str) -> "tuple[torch.Tensor, torch.Tensor] | None":
    read = []
    for kind in ("images-idx3", "labels-idx1"):
        plain = folder / f"{part}-{kind}-ubyte"
        packed = plain.with_name(f"{plain.name}.gz")
        if not plain.exists() and not packed.exists():
            return None
        read.append(_idx_array(plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())))
    if len(read[0]) != len(read[1]):
        raise ValueError(f"{len(read[0])} images of part '{part}' but {len(read[1])} labels")
    return read[0], read[1].long()


def _idx_array(content: bytes) -> "torch.Tensor":
    """An idx file of bytes: two zeros, the type 8, the number of dimensions, each as four big-endian bytes, then the values."""
    import torch

    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError("no idx file of bytes")
    shape = [int.from_bytes(content[4 + 4 * at : 8 + 4 * at], "big") for at in range(content[3])]
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
    if len(values) != math.prod(shape):
        raise ValueError(f"{len(values)} values, expected {shape}")
    return torch.tensor(values.reshape(shape))


def _examples(
    name: str, inputs: "torch.Tensor", classes: "torch.Tensor", shape: tuple[int, ...], order: "torch.Tensor", tests: int
) -> Examples:
    train, test = order[:-tests], order[-tests:]
    return Examples(name, inputs[train], classes[train], inputs[test], classes[test], tuple(shape), int(classes.max()) + 1, order)
