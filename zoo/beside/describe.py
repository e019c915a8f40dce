"""What the files beside a checkpoint say of it, put together for the catalog."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from weightspace.zoo.beside import licences
from weightspace.zoo.beside.sidecars import RESULT_FILES, Folder, Sidecars, folder_sidecars, for_checkpoint
from weightspace.zoo.discover import Found, hub_revision
from weightspace.zoo.records import BESIDE, Description
from weightspace.zoo.runs.places import Place, Places, stem_of
from weightspace.zoo.runs.run import Run
from weightspace.zoo.runs.run_folders import read_run_folder

_SHARED = frozenset({*RESULT_FILES, "config.json", "adapter_config.json", "trainer_state.json", "readme.md", *licences.FILE_NAMES})


class Describer:
    """Describes the checkpoints of one ingest; each folder is listed and read once."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}
        self._stamps: dict[Path, bytes] = {}
        self._folders: dict[tuple[Path, Path], Folder] = {}
        self._places: dict[Path, Places] = {}
        self._runs: dict[Path, Run | None] = {}

    def stamp(self, found: Found) -> int:
        """Fingerprint of the sidecars of a checkpoint, from names, sizes and times alone."""
        directory = _directory(found)
        hasher = blake3(self._shared_stamp(directory))
        if directory != found.root and directory.is_relative_to(found.root):
            hasher.update(self._shared_stamp(directory.parent))
        own = f"{stem_of(found.path.name)}.json"
        if own in self._listing(directory):
            hasher.update(_look(directory / own))
        return int.from_bytes(hasher.digest(8), "little")

    def describe(self, found: Found, container: Mapping[str, Any]) -> Description:
        """Gather config, card, metrics, run and step of a checkpoint.

        Args:
            found: what discovery found.
            container: metadata from the checkpoint's own header.
        """
        place = self._place(found)
        beside = for_checkpoint(self._folder(_directory(found), found.root), found.path, place)
        card, adapter = beside.card, beside.adapter_config or {}
        base = next(iter(card.base_models), None) if card else None
        revision = hub_revision(found.path)
        return Description(
            metadata=_metadata(beside, container),
            licence=beside.licence,
            base_model=base or _text(adapter.get("base_model_name_or_path")),
            datasets=card.datasets if card else (),
            languages=card.languages if card else (),
            library=(card.library if card else None) or ("peft" if adapter else None),
            task=card.task if card else None,
            family=_family(beside.config),
            run=self._run(place) if place else None,
            step=place.step if place else None,
            metrics=tuple((metric, BESIDE) for metric in beside.metrics),
            tags={"revision": revision} if revision else {},
        )

    def _listing(self, directory: Path) -> frozenset[str]:
        if directory not in self._names:
            try:
                self._names[directory] = frozenset(entry.name for entry in directory.iterdir())
            except OSError:
                self._names[directory] = frozenset()
        return self._names[directory]

    def _shared_stamp(self, directory: Path) -> bytes:
        if directory not in self._stamps:
            names = sorted(name for name in self._listing(directory) if name.lower() in _SHARED)
            self._stamps[directory] = blake3(b"".join(_look(directory / name) for name in names)).digest()
        return self._stamps[directory]

    def _folder(self, directory: Path, root: Path) -> Folder:
        key = directory, root
        if key not in self._folders:
            is_below = directory != root and directory.is_relative_to(root)
            above = self._folder(directory.parent, root) if is_below else None
            self._folders[key] = folder_sidecars(directory, self._listing(directory), above)
        return self._folders[key]

    def _place(self, found: Found) -> Place | None:
        if found.root not in self._places:
            self._places[found.root] = Places(found.root, self._listing)
        return self._places[found.root].of(found.path)

    def _run(self, place: Place) -> Run | None:
        if place.run is None:
            return None
        if place.run not in self._runs:
            self._runs[place.run] = read_run_folder(place)
        return self._runs[place.run]


def _directory(found: Found) -> Path:
    """Where a checkpoint's sidecars lie: in it, when it is a folder, else beside it."""
    return found.path if found.path not in found.files else found.path.parent


def _look(path: Path) -> bytes:
    try:
        status = path.stat()
    except OSError:
        return b""
    return f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape")


def _metadata(beside: Sidecars, container: Mapping[str, Any]) -> dict[str, Any]:
    state = beside.trainer_state
    said = {
        "container": dict(container),
        "config": beside.config,
        "adapter_config": beside.adapter_config,
        "companions": list(beside.companions),
        "trainer_state": state and {"global_step": state.global_step, "epoch": state.epoch, "best_metric": state.best_metric},
        "hyperparameters": dict(beside.hyperparameters),
        "notes": list(beside.notes),
    }
    return {key: value for key, value in said.items() if value}


def _family(config: Mapping[str, Any] | None) -> str | None:
    """The architecture's own name in config.json."""
    named = (config or {}).get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return _text(first) or _text((config or {}).get("model_type"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
