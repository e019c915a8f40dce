"""Where a merge is written, and what must hold of that place before work begins."""

from pathlib import Path

from weightspace.analysis.merging.making import SUFFIX, Prepared
from weightspace.analysis.merging.report import MANIFEST
from weightspace.analysis.merging.undo import UNDO
from weightspace.analysis.merging.write import expect_room, growing
from weightspace.errors import MergeError, one_line

FOREIGN = {".bin", ".ckpt", ".gguf", ".h5", ".keras", ".npy", ".npz", ".onnx", ".pkl", ".pt", ".pth", ".tar", ".th", ".zip"}
"""Suffixes of files that are not written; others are of folders, as in `Llama-3.1-8B`."""


def expect_target(out: Path, prepared: Prepared, force: bool) -> Path:
    """See that the result can be written there, and give the place back.

    Args:
        out: a folder, or a `.safetensors` file.
        prepared: what is to be written.
        force: replace a merge that is there.

    Raises:
        MergeError: it cannot be: of another suffix, there already, somebody else's folder, where an input lies, or too little room.
    """
    plan = prepared.plan
    if out.suffix.lower() in FOREIGN and not out.is_dir():
        raise MergeError(f"{out}: has the suffix '{out.suffix}'; name a {SUFFIX} file, or a folder")
    if out.suffix == SUFFIX and plan.recipe.adapter:
        raise MergeError(f"{out}: an adapter is a folder of two files; name a folder")
    if out.exists() and not force:
        raise MergeError(f"{out}: exists already; choose another name, or replace it with --force")
    if out.is_dir() and not (out / MANIFEST).is_file():
        raise MergeError(f"{out}: is a folder that was not written by a merge; choose another name, or remove it yourself")
    for beside in (f"{out.stem}.{MANIFEST}", f"{out.stem}.md", f"{out.stem}.{UNDO}") if out.suffix == SUFFIX else ():
        if out.with_name(beside).exists() and not force and not growing(out).exists():
            raise MergeError(
                f"{out.with_name(beside)}: exists already, and would be written beside the result; choose another name, or use --force"
            )
    place = out.resolve()
    for name, checkpoint in prepared.models.parents.items():
        if any(place in (file.resolve(), *file.resolve().parents) for file in checkpoint.files):
            raise MergeError(f"{out}: is where '{one_line(name, 80)}' lies, which is merged; choose another name")
    expect_room(out, plan.num_bytes)
    return out
