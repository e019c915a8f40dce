"""Files of weights in the store that lie under another name than that of their content: which they are, and each to its own place."""

from collections.abc import Iterator, Mapping, Set
from pathlib import Path, PurePosixPath

from weightspace.errors import DAMAGE, FormatError
from weightspace.formats.compact import read_compact_header
from weightspace.zoo.keeping.findings import Finding
from weightspace.zoo.keeping.places import is_stored
from weightspace.zoo.keeping.promises import Inspection
from weightspace.zoo.store import root_of
from weightspace.zoo.store.aside import set_aside
from weightspace.zoo.store.members import held_as
from weightspace.zoo.store.putting import holds, open_held
from weightspace.zoo.store.roots import COMPACT, PLAIN, LocalRoot, Root, find, key_of

_DIGITS = 64  # of an id


def model_in(root: LocalRoot, path: Path) -> str | None:
    """Id (hex) of the model that a file of a store holds: a compact file says it, a plain one is read to its end; None where that fails."""
    held = held_as(root, str(path.relative_to(root.folder)))
    try:
        if held is None:
            return None
        return str(read_compact_header(held.file)[0]["id"]) if held.key.endswith(COMPACT) else open_held(root, held).id
    except (FormatError, *DAMAGE):
        return None


def is_stray(key: str) -> bool:
    """Whether a key is that of a file of weights where no file of a store lies; nothing that writes to a store makes such."""
    path = PurePosixPath(key)
    is_own = len(path.stem) == _DIGITS and key == key_of(path.stem, path.suffix)
    return path.suffix in (PLAIN, COMPACT) and not path.name.startswith(".") and not is_own


def stray_findings(home: Path, known: Set[str], belongs: dict[str, str]) -> Iterator[Finding]:
    """Tell files of weights in the wrong place of the store.

    Args:
        home: the house.
        known: paths of files of the store, as the catalog has them.
        belongs: by path of a file, the model (id, hex) that it holds; what is found out is put in.
    """
    root = root_of(home)
    if not isinstance(root, LocalRoot):
        return
    for key in sorted(one.key for one in root.entries() if is_stray(one.key)):
        path, where = root.folder / key, root.address(key)
        if where in known:
            continue
        model = model_in(root, path)
        there = None if model is None else find(root, model)
        if model is None:
            advice = "it cannot be read: look at it, and move it elsewhere"
        elif there is not None:
            advice = f"its weights have their place, {root.address(there.key)}: look at it, and move it elsewhere"
        else:
            advice = f"it can be moved to {root.address(key_of(model, path.suffix))}, the name of its content"
            belongs[where] = model
        yield Finding("unknown", "a file of weights in a wrong place of the store", where, advice, where in belongs)


def misnamed(root: Root, found: Inspection) -> dict[str, str]:
    """By path of a file of the store that is not what its row says, the model (id, hex) that it holds, where that is not its name."""
    if not isinstance(root, LocalRoot):
        return {}
    rows = {one.where: found.rows[one.where] for one in found.findings if one.kind in ("damaged", "changed") and one.where in found.rows}
    made: dict[str, str] = {}
    for row in rows.values():
        path = root.home.parent / row.path
        if not is_stored(row) or not path.is_file() or not path.is_relative_to(root.folder):
            continue
        content = found.content.get(row.path)
        model = content.hex() if content and path.suffix == PLAIN else model_in(root, path)
        if model is not None and model != path.stem:
            made[row.path] = model
    return made


def relocate(home: Path, belongs: Mapping[str, str]) -> dict[str, str]:
    """Give files of the store the names of their content; those whose place is taken by a whole file are doubles, and stay aside.

    All are moved aside first, so that files under each other's names find their places free, and a run that is killed loses none.

    Args:
        home: the house.
        belongs: by path of a file, the model (id, hex) that it holds.

    Returns:
        Where each lies now, by where it lay; the path of those that stay aside, too.
    """
    root = LocalRoot(home)
    aside = {where: set_aside(home, home.parent / where) for where in belongs if (home.parent / where).is_file()}
    moved: dict[str, str] = {}
    # Plain files first: compact ones may be what differs from them.
    for where, path in sorted(aside.items(), key=lambda one: one[0].endswith(COMPACT)):
        model, target = belongs[where], root.folder / key_of(belongs[where], Path(where).suffix)
        held = held_as(root, key_of(model, target.suffix))
        if held is None or not holds(root, held, model):
            if target.is_file():
                set_aside(home, target)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            path = target
        moved[where] = str(path.relative_to(home.parent))
    return moved


__all__ = ["is_stray", "misnamed", "model_in", "relocate", "stray_findings"]
