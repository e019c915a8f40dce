"""The files beside a checkpoint, compared with what the catalog read in them: configurations, cards, logs."""

import json
from dataclasses import replace
from pathlib import Path

from weightspace.zoo.beside.describe import Describer
from weightspace.zoo.discover import discover

_ABOVE = 5  # folders above a file at which the ingest that found it may have begun


def odd_beside(folder: Path, path: Path, stamp: int, metadata: str | None) -> str | None:
    """What is wrong with the files beside a checkpoint; None where they are those that were read.

    What counts as beside a file hangs on where the ingest began, which nobody noted; so each folder above that gives the stamp may be it.

    Args:
        folder: of the zoo.
        path: the checkpoint.
        stamp: fingerprint of names, sizes and times of the files beside it.
        metadata: what the catalog keeps of the file, as JSON, to read it all again; else names, sizes and times are looked at alone.
    """
    found = next((one for one in discover([path]) if one.path == path), None)
    if found is None:
        return None
    own = path if path.is_dir() else path.parent
    roots = dict.fromkeys([folder, own, *list(own.parents)[:_ABOVE]])
    # One describer for all of them: it reads each folder once.
    describer = Describer()
    fitting = [rooted for root in roots if path.is_relative_to(root) and describer.stamp(rooted := replace(found, root=root)) == stamp]
    if not fitting:
        return "the files beside it are not those that were read: a size or a time is another"
    if metadata is None:
        return None
    known = json.loads(metadata)
    known.pop("container", None)
    for rooted in fitting:
        said = dict(describer.describe(rooted, {}).metadata)
        if json.loads(json.dumps(said, default=str)) == known:
            return None
    return "the files beside it say other things than were read"
