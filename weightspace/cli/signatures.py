"""What the commands of signatures share: finding signatures, the files beside patched models, and taking results into the catalog."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightspace.cli import cells
from weightspace.cli.output import print_figure, say
from weightspace.cli.progress import progress
from weightspace.errors import AnalysisError, WeightSpaceError

if TYPE_CHECKING:
    from weightspace.analysis.signatures import Signature
    from weightspace.checkpoint import Checkpoint
    from weightspace.zoo.zoo import Zoo


def signature_at(zoo: "Zoo", name: str) -> "Signature":
    """Open a signature wherever it is.

    Raises:
        AnalysisError: it is a model.
    """
    from weightspace.analysis.signatures import Signature

    return Signature.of(zoo.checkpoint(name))


def remembered(zoo: "Zoo", ids: Sequence[str]) -> "list[Signature]":
    """The signatures that a patch names, as the catalog has them.

    Raises:
        AnalysisError: it has not all of them.
    """
    try:
        return [signature_at(zoo, id) for id in ids]
    except WeightSpaceError:
        missing = ", ".join(id[:12] for id in ids)
        raise AnalysisError(
            f"the catalog does not have the signatures {missing}; name their files, in the order in which they were applied"
        ) from None


def kept_beside(path: Path) -> Path:
    """Where what a patch lost lies, by the file of the patched model."""
    from weightspace.analysis.signatures.removing import SUFFIX

    return path.with_suffix(SUFFIX)


def row_of(path: Path, signature: "Signature") -> dict[str, Any]:
    """What is printed of a signature that was written: its bytes on the disk beside those of the whole model's tensors."""
    size = path.stat().st_size
    times = int(signature.recipe.get("model_bytes") or 0) / size
    return {"file": str(path), "id": signature.id, "tensors": len(signature), "bits": signature.bits, "bytes": size, "times_smaller": times}


def draw(signature: "Signature", plot: Path | None) -> None:
    """Draw a signature, where a file is named."""
    if plot is not None:
        print_figure(signature.plot(), plot)


def catalogue(zoo: "Zoo", inputs: "Sequence[Checkpoint]", output: Path) -> None:
    """Take what went in and the result into the catalog, if there is one."""
    if not zoo.catalog.exists():
        say("no zoo here, so nothing was catalogued; 'weightspace init' makes one, 'weightspace ingest' takes the result in")
        return
    with progress("cataloguing") as bar:
        zoo.ingest([*(one.path for one in inputs if one.path is not None), output], progress=bar.update)
    say(f"catalogued in {cells.safe(str(zoo.folder))}")
