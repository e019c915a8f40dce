"""SIREN sets as nfn has them: `{prefix}_{label}s/net{index}.pth`, augmented copies beside, split by ranges of the index."""

import re
from pathlib import Path

from weightspace.errors import RecordError
from weightspace.zoo.readers.model_zoos import Found, Network, Training, folders_below, zoo_reader
from weightspace.zoo.runs.run import Run, Value

VAL_FROM, TEST_FROM = 45_000, 50_000
"""First index of the validation images, and of the test images, in the configurations of all three sets (MNIST, F-MNIST, CIFAR-10)."""

_FOLDER = re.compile(r"(?P<prefix>.+?)(?:_aug(?P<copy>\d+))?_(?P<label>\d)s")
_FILE = re.compile(r"net(?P<index>\d{1,9})\.pth")
_SIREN: dict[str, Value] = {"activation": "sine", "w0": 30.0, "output_offset": 0.0}


def sniff(source: Path) -> bool:
    """A folder such as `randinit_smaller_7s` with a `net12.pth` in it."""
    return source.is_dir() and any(_FILE.fullmatch(one.name) for folder in _folders(source) for one in folder.iterdir())


@zoo_reader("nfn", sniff=sniff)
def read(source: Path) -> Found:
    """Yield a training for every network; an image's augmented copies are in its split."""
    known: dict[str, str] = {}
    disagreeing = 0
    found = False
    for folder in _folders(source):
        said = _FOLDER.fullmatch(folder.name)
        assert said is not None
        for path in sorted(folder.iterdir()):
            file = _FILE.fullmatch(path.name)
            if file is None or not path.is_file():
                continue
            found = True
            image = f"{source.name}:{int(file['index'])}"
            disagreeing += known.setdefault(image, said["label"]) != said["label"]
            yield _training(source, path, image, int(file["index"]), said)
    if disagreeing:
        yield f"{source}: {disagreeing} networks lie under another label than an earlier one of the same index; indices or labels are wrong"
    if not found:
        raise RecordError(f"{source}: no '<prefix>_<label>s/net<index>.pth' there; name the folder that holds the folders of labels")


def _folders(source: Path) -> list[Path]:
    return [one for one in folders_below(source, 1) if one != source and _FOLDER.fullmatch(one.name)]


def _training(source: Path, path: Path, image: str, index: int, folder: re.Match[str]) -> Training:
    settings: dict[str, Value] = {**_SIREN, "set": folder["prefix"]}
    if folder["copy"]:
        settings["augmentation"] = int(folder["copy"])
    run = Run(
        key=f"nfn:{path}",
        name=f"{folder.group()}/{path.stem}",
        source="nfn",
        hyperparameters=settings,
        tags={"label": folder["label"], "split_rule": f"by index, val from {VAL_FROM}, test from {TEST_FROM}"},
        source_item=image,
        split="train" if index < VAL_FROM else "val" if index < TEST_FROM else "test",
    )
    return Training(run, (Network(path),), {"label": folder["label"]})
