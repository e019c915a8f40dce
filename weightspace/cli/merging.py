"""What commands that merge do with the result: say what looks wrong with it, and take it into the catalog with its parents."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weightspace.cli import cells
from weightspace.cli.output import say
from weightspace.cli.progress import progress

if TYPE_CHECKING:
    from weightspace.analysis.merging import Prepared
    from weightspace.checkpoint import Checkpoint
    from weightspace.zoo import Zoo


@dataclass(frozen=True)
class Health:
    """What the manifest says of a result.

    Attributes:
        warnings: signs of a broken merge, one line each.
        nonfinite: elements that are NaN or infinite.
    """

    warnings: tuple[str, ...]
    nonfinite: int


def told_health(output: Path) -> Health:
    """Read what was measured of a result, and say what looks wrong."""
    from weightspace.analysis.merging.report import manifest_path

    said = json.loads(manifest_path(output).read_text("utf-8"))
    found = Health(tuple(said["warnings"]), sum(one["nonfinite"] for one in said["tensors"].values()))
    for warning in found.warnings:
        say(f"warning: {cells.safe(warning)}", style="yellow")
    return found


def catalogue(zoo: "Zoo", prepared: "Prepared", merged: "Checkpoint", output: Path, metrics: Mapping[str, float]) -> None:
    """Take the parents and the result into the catalog, if there is one; what was measured of the result is recorded."""
    if not zoo.catalog.exists():
        say("no zoo here, so nothing was catalogued; 'weightspace init' makes one, 'weightspace ingest' takes the result in")
        return
    paths = [one.path for one in prepared.models.parents.values() if one.path is not None]
    with progress("cataloguing") as bar:
        zoo.ingest([*paths, output], progress=bar.update)
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    if finite:
        zoo.record(merged.id, metrics=finite)
    say(f"catalogued in {cells.safe(str(zoo.folder))}")
