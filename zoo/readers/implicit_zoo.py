"""Implicit-Zoo: networks named by image and seed, their PSNR in JSON by image; labels and splits join on the image's index."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from weightspace.errors import RecordError
from weightspace.zoo.beside.documents import csv_rows, load_json
from weightspace.zoo.metrics import Metric, number, whole
from weightspace.zoo.readers.model_zoos import Found, Network, Training, folders_below, zoo_reader
from weightspace.zoo.runs.run import Run

MAX_TABLE = 1 << 28
_FILE = re.compile(r"(?P<image>\d{6,9})_(?P<seed>\d{7,9})\.ckpt")
_PSNR = re.compile(r"\d+_-?\d+\.json")
_LABELS = "labels.csv"
_INDEX = ("image_idx", "image", "index", "idx")
_PARTS = ("train", "val", "test")
_LEVELS = 4


def sniff(source: Path) -> bool:
    """A file such as `000017_0000042.ckpt`, at most four folders down."""
    return source.is_dir() and next(_networks(source), None) is not None


@zoo_reader("implicit-zoo", sniff=sniff)
def read(source: Path) -> Found:
    """Yield a training for every network; all of one image share a `source_item`.

    PSNR comes from the `<start>_<end>.json` above a network. The files hold no labels: they come from a folder named by the label
    (`ckpts/07/`), or from a `labels.csv` with columns image_idx, label and split, which is also where splits come from, unless a folder is
    called train, val or test.
    """
    joined = _Joined(source)
    yield from joined.notes
    seeds: dict[tuple[Path, int], int] = {}
    for path, image, seed in _networks(source):
        key = joined.home(path), image
        seeds[key] = max(seeds.get(key, -1), seed)
    if not seeds:
        raise RecordError(f"{source}: no '<image>_<seed>.ckpt' there; name the folder that holds the networks")
    for path, image, seed in _networks(source):
        # One PSNR an image is kept there: that of the seed fitted last.
        is_last = seeds[joined.home(path), image] == seed
        yield _training(source, path, image, seed, joined, joined.psnr(path, image) if is_last else None)
    absent = joined.without_network({image for _, image in seeds})
    if absent:
        yield f"{source}: {absent} images have a PSNR or a label, but no network here"


def _networks(source: Path) -> Iterator[tuple[Path, int, int]]:
    """Files with their image and seed, folder by folder."""
    for folder in folders_below(source, _LEVELS):
        for path in sorted(folder.iterdir()):
            found = _FILE.fullmatch(path.name)
            if found and path.is_file():
                yield path, int(found["image"]), int(found["seed"])


@dataclass
class _Joined:
    """What other files say of images."""

    source: Path
    labels: dict[int, tuple[str | None, str | None]] = field(default_factory=dict)
    quality: dict[Path, dict[int, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for folder in folders_below(self.source, _LEVELS):
            for path in sorted(folder.glob("*.json")):
                if _PSNR.fullmatch(path.name):
                    self._try(self._read_psnr, path)
        if (self.source / _LABELS).is_file():
            self._try(self._read_labels, self.source / _LABELS)

    def _try(self, read: Callable[[Path], None], path: Path) -> None:
        try:
            read(path)
        except RecordError as error:
            self.notes.append(str(error))

    def _read_psnr(self, path: Path) -> None:
        said = load_json(path, MAX_TABLE)
        if not isinstance(said, dict):
            raise RecordError(f"{path}: expected a JSON object of PSNR by image, found {type(said).__name__}; its values were left out")
        known = self.quality.setdefault(path.parent, {})
        twice = 0
        for key, value in said.items():
            image, psnr = whole(key), number(value)
            if image is None or psnr is None:
                continue
            # Ranges that were fitted apart both count from 0.
            twice += known.setdefault(image, psnr) != psnr
        if twice:
            self.notes.append(f"{path}: {twice} images have another PSNR in an earlier file beside it; the earlier one was kept")

    def _read_labels(self, path: Path) -> None:
        for row in csv_rows(path, MAX_TABLE):
            image = next((whole(row[key]) for key in _INDEX if key in row), None)
            if image is None:
                raise RecordError(f"{path}: expected a column '{_INDEX[0]}' of whole numbers; its rows from there on were left out")
            self.labels[image] = _text(row, "label"), _text(row, "split")

    def home(self, path: Path) -> Path:
        """The nearest folder above that has PSNR; the source where none has."""
        return next((one for one in path.parents if one in self.quality), self.source)

    def psnr(self, path: Path, image: int) -> float | None:
        return self.quality.get(self.home(path), {}).get(image)

    def without_network(self, images: set[int]) -> int:
        return len({*self.labels, *(image for known in self.quality.values() for image in known)} - images)


def _text(row: Mapping[str, str], key: str) -> str | None:
    return row.get(key, "").strip() or None


def _training(source: Path, path: Path, image: int, seed: int, joined: _Joined, psnr: float | None) -> Training:
    inside = path.relative_to(source)
    label, split = joined.labels.get(image, (None, None))
    if label is None and inside.parent.name.isdigit():
        label = str(int(inside.parent.name))
    part = next((part for part in inside.parts[:-1] if part in _PARTS), None)
    data = source.name if part is None else f"{source.name}/{part}"  # train and test images both count from 0
    run = Run(
        key=f"implicit-zoo:{path}",
        name=str(inside.with_suffix("")),
        source="implicit-zoo",
        seed=seed,
        tags={} if label is None else {"label": label},
        metrics=() if psnr is None else (Metric("psnr", psnr),),
        source_item=f"{data}:{image}",
        split=split or part,
    )
    return Training(run, (Network(path),), {} if label is None else {"label": label})
