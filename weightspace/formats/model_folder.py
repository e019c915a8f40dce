"""Model folders: a Hugging Face model or PEFT adapter with its config, or any folder with exactly one weights file in it."""

import re
from dataclasses import replace
from pathlib import Path

from weightspace.checkpoint import Checkpoint
from weightspace.companions import describe
from weightspace.errors import FormatError, one_line
from weightspace.formats import checkpoint_format, formats, open_checkpoint
from weightspace.formats import sniff as sniff_format

MAX_FILES = 10_000
# A model is often kept in several containers in one folder; the first of these that is there speaks for it.
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin")
# A training leaves these beside the model.
_TRAINER = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state|random_states|trainer_state|global_step).*")


def sniff(path: Path, head: bytes) -> bool:
    """A folder with weights files in it that is of no other format."""
    if head or not path.is_dir():
        return False
    # This format knows a folder by what lies in it, so every more special folder format goes first.
    if any(other.sniff(path, b"") for name, other in formats.items() if name != "model_folder"):
        return False
    return bool(weights_of(path))


def weights_of(folder: Path) -> list[Path]:
    """The weights files of a folder: the preferred one where it has a usual name, otherwise all that a format fits."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
    found = []
    for path in sorted(folder.iterdir())[:MAX_FILES]:
        if path.name.startswith(".") or _TRAINER.fullmatch(path.name) or not path.is_file():
            continue
        try:
            if sniff_format(path) is not None:
                found.append(path)
        except FormatError:
            continue
    return found


@checkpoint_format("model_folder", sniff=sniff)
def open_folder(path: Path) -> Checkpoint:
    """Open the folder's one weights file, with its config and tokenizer as metadata; `format` is that of the file.

    Raises:
        FormatError: several weights files and none under a usual name.
    """
    weights = weights_of(path)
    if len(weights) != 1:
        names = ", ".join(f"'{one_line(one.name, 40)}'" for one in weights[:5]) + (", …" if len(weights) > 5 else "")
        raise FormatError(
            f"{path}: expected one checkpoint in this folder, found {len(weights)} ({names})",
            reason="unsupported",
            advice="name one of the files",
        )
    checkpoint = open_checkpoint(weights[0])
    metadata = {**checkpoint.metadata, **describe(path)}
    kind = "adapter" if "adapter_config" in metadata else checkpoint.kind
    return replace(checkpoint, path=path, metadata=metadata, kind=kind)
