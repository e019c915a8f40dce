"""Checkpoints that installed Python packages ship, found without importing the packages."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from weightspace.zoo.discover import is_named_like_weights

WITH_WEIGHTS = ("lpips", "DISTS-pytorch", "silero-vad", "facenet-pytorch")
"""Packages with small real checkpoints inside, in several formats: what the demo looks for."""


def version(package: str) -> str | None:
    """The version of an installed distribution; None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def roots(package: str) -> Sequence[Path]:
    """Where a distribution keeps weights: the folders of its modules first, then files that it put elsewhere.

    What the installer recorded is read, and nothing is imported.
    """
    try:
        recorded = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    weights = [file for file in recorded if is_named_like_weights(Path(file.name))]
    places = [(file, Path(str(file.locate())).resolve()) for file in weights]
    # A recorded path is relative to site-packages: its first part is the module's folder, or '..' outside of it.
    folders = [place.parents[len(file.parts) - 2] for file, place in places if len(file.parts) > 1 and file.parts[0] != ".."]
    elsewhere = [place for file, place in places if len(file.parts) == 1 or file.parts[0] == ".."]
    return [place for place in dict.fromkeys([*folders, *elsewhere]) if place.exists()]
