"""MNIST-INR as DWSNets has it: a folder per image whose name carries label and id, and split files with absolute paths."""

import re
from collections.abc import Iterator
from pathlib import Path

from weightspace.errors import FormatError
from weightspace.formats import open_checkpoint
from weightspace.zoo.readers.model_zoos import Found, Network, Training, folders_below, zoo_reader
from weightspace.zoo.readers.split_files import Listed, digest, listed, split_files
from weightspace.zoo.runs.run import Run, Value

_FOLDER = re.compile(r"(?P<image>.+_(?P<part>train|test)[a-z]*_(?P<label>[^_]+)_(?P<id>\d+))(?:_augmented_(?P<copy>\d+))?")
# What the checkpoints do not say: class INR of the repository has sin(30 x) throughout, and adds 0.5 to its output.
_SIREN: dict[str, Value] = {"activation": "sine", "w0": 30.0, "output_offset": 0.5}


def sniff(source: Path) -> bool:
    """Folders such as `mnist_png_training_7_123`, or a split file with paths and nothing that scores them."""
    if any(True for _ in _splits(source)):
        return True
    return source.is_dir() and any(_named(one) is not None for one in folders_below(source, 2))


@zoo_reader("dwsnets", sniff=sniff)
def read(source: Path) -> Found:
    """Yield a training for every network: by the split files, then those that are in none.

    Without a split file, `training` folders are train and `testing` ones are test: the validation images were drawn without a seed.
    """
    root = source if source.is_dir() else source.parent
    seen: dict[Path, str] = {}
    for file in _splits(source):
        tags = {"split_file": file.name, "split_hash": digest(file)}
        absent: list[str] = []
        leaks = 0
        for one in listed(file, root):
            if one.path is None:
                absent.append(one.said)
                yield _training(root, one, tags)
            elif one.path not in seen:
                seen[one.path] = one.split
                yield _training(root, one, tags)
            else:
                leaks += seen[one.path] != one.split
        if leaks:
            yield f"{file.name} puts {leaks} files into a second split; they stay in the first"
        if absent:
            yield f"{file.name} names {len(absent)} files that are not below {root}, first '{absent[0]}'"
    if not source.is_dir():
        return
    unlisted = 0
    for path in _networks(root):
        if path in seen:
            continue
        unlisted += 1
        part = _part(path)
        yield _training(root, Listed(str(path), path, "" if seen else {"train": "train", "test": "test"}.get(part, "")), {})
    if seen and unlisted:
        yield f"{unlisted} networks below {root} are in no split file; they were catalogued without a split"


def _splits(source: Path) -> list[Path]:
    scored = {*split_files(source, column="score")}
    return [one for one in split_files(source) if one not in scored]


def _networks(root: Path) -> Iterator[Path]:
    """The files of image folders, sorted."""
    for folder in folders_below(root, 2):
        if _named(folder) is not None:
            yield from sorted(one for one in folder.rglob("*.pth") if one.is_file())


def _named(path: Path) -> re.Match[str] | None:
    return _FOLDER.fullmatch(path.name)


def _image(path: Path) -> re.Match[str] | None:
    """The image folder that a network lies in."""
    return next((found for parent in (path, *path.parents) if (found := _named(parent))), None)


def _part(path: Path) -> str:
    found = _image(path)
    return found["part"] if found else ""


def _training(root: Path, one: Listed, tags: dict[str, str]) -> Training:
    """One network, with the label of the split file, of its folder's name, or of the file itself."""
    place = Path(one.path or one.said)
    found = _image(place)
    inside = str(place.relative_to(root)) if place.is_relative_to(root) else one.said
    label = one.values.get("label", found["label"] if found else _label_inside(one.path))
    settings = dict(_SIREN) if found and found["image"].startswith("mnist_png") else {}
    if found and found["copy"]:
        settings["augmentation"] = int(found["copy"])
    run = Run(
        key=f"dwsnets:{root}/{inside}",
        name=found.group() if found else place.stem,
        source="dwsnets",
        hyperparameters=settings,
        tags={**tags, **({} if label is None else {"label": str(label)})},
        # Copies of one image share it, so that they stay in one split.
        source_item=found["image"] if found else inside,
        split=one.split or None,
    )
    networks = () if one.path is None else (Network(one.path),)
    return Training(run, networks, {} if label is None else {"label": str(label)})


def _label_inside(path: Path | None) -> object:
    """The label that F-MNIST's files keep beside their weights; None where there is none, or the file cannot be read."""
    if path is None:
        return None
    try:
        return open_checkpoint(path).metadata.get("label")
    except FormatError:
        return None  # the catalog's quarantine will say why
