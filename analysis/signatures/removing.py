"""Removal of a patch: the model comes back byte for byte, its batch norms and what rounding had lost included."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weightspace.analysis.signatures.applying import KIND, apply
from weightspace.analysis.signatures.signature import Signature
from weightspace.checkpoint import Checkpoint, checkpoint_of
from weightspace.differences import apply_difference, write_difference
from weightspace.errors import AnalysisError, FormatError, one_line
from weightspace.symmetry import StateDict

SUFFIX = ".difference"
"""Of the file beside a patched model that says what it lost; such files are no checkpoints to a zoo."""


def keep(model: Checkpoint | StateDict, patched: Checkpoint, signatures: Signature | Sequence[Signature], path: str | Path) -> Path:
    """Write what a patch loses: the bits that subtracting it does not give back.

    Subtracting the signatures gives the model back but for the last bits, and for batch norms that were replaced. The file holds the
    exact difference of the two, which is mostly zeros and small: it needs the signatures to be there when the patch is removed.

    Args:
        model: as it was.
        patched: what `apply` made of it, saved and opened again or not.
        signatures: those that were applied, in order.
        path: the file to write.

    Raises:
        AnalysisError: `patched` is no patched model, or of other signatures.
        FormatError: the file cannot be written.
    """
    return write_difference(checkpoint_of(model), _undone(patched, signatures), path)


def remove(patched: Checkpoint, signatures: Signature | Sequence[Signature], kept: str | Path) -> Checkpoint:
    """Get back the model that was patched, bit for bit; its tensors are restored when they are read.

    Args:
        patched: what `apply` made, unchanged; saved and opened again or not.
        signatures: those that were applied, in order.
        kept: what `keep` wrote.

    Raises:
        AnalysisError: `patched` is no patched model, of other signatures, or was changed since.
        FormatError: a damaged file.
    """
    undone = _undone(patched, signatures)
    try:
        return apply_difference(undone, kept)
    except FormatError as error:
        if error.reason != "missing":
            raise
        what = f"{one_line(str(kept), 120)}: was kept of another patch, or the patched model was changed since"
        raise AnalysisError(f"{what}; give the patched model as it was written, and its own file") from None


def patch_of(patched: Checkpoint) -> dict[str, Any]:
    """How a model was patched: strength, weights, buffers, and the ids of the signatures.

    Raises:
        AnalysisError: it was not.
    """
    recipe = dict(patched.recipe or {})
    if recipe.get("kind") != KIND or not all(key in recipe for key in ("strength", "weights", "signatures")):
        where = one_line(str(patched.path or "the model"), 120)
        raise AnalysisError(
            f"{where}: expected a patched model, found one that was made otherwise; name what 'weightspace signature apply' wrote"
        )
    return recipe


def _undone(patched: Checkpoint, signatures: Signature | Sequence[Signature]) -> Checkpoint:
    """The patched model with its signatures subtracted again."""
    recipe = patch_of(patched)
    given = [signatures] if isinstance(signatures, Signature) else list(signatures)
    if [one.id for one in given] != recipe["signatures"]:
        found, expected = (", ".join(id[:12] for id in ids) for ids in ([one.id for one in given], recipe["signatures"]))
        raise AnalysisError(f"the model was patched with the signatures {expected}, found {found}; give those, in order")
    return apply(patched, given, strength=-recipe["strength"], weights=recipe["weights"])
