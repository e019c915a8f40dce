"""A zoo's house, the folder `.weightspace`: its locks, its store and its cache as files, and what killed processes left in them."""

import re
import time
from collections.abc import Iterator, Set
from pathlib import Path

from blake3 import blake3

from weightspace.errors import DAMAGE, FormatError, one_line
from weightspace.formats.safetensors import open_safetensors
from weightspace.zoo import store
from weightspace.zoo.keeping.findings import Finding
from weightspace.zoo.keeping.misplaced import is_stray
from weightspace.zoo.store.members import is_tended, needed, present
from weightspace.zoo.store.roots import OWNER, LocalRoot, Root, other_of

GRACE = 3600.0  # seconds: what is younger may belong to a process that has not catalogued it yet
LOCKS = ("gate", "lock", "collecting", "tending")
_LEFT = re.compile(r"(catalog|restoring)\..*\.new(\.wal)?|\..*\.(new|tmp)")


def lock_findings(home: Path) -> Iterator[Finding]:
    """Find locks that are no files; a process that takes one would fail."""
    for name in LOCKS:
        path = home / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            is_empty = path.is_symlink() or not path.is_dir() or not any(path.iterdir())
            advice = "it can be removed; the next process makes a new one" if is_empty else "move what is in it elsewhere, and remove it"
            yield Finding("lock", "is no regular file", name, advice, is_empty)


def leftovers(home: Path, grace: int | float) -> Iterator[Finding]:
    """Find unfinished files that no process is writing any more."""
    for path in sorted([*home.glob("*"), *(home / "store").glob("*/*"), *(home / "cache").glob("*/*")]):
        if _LEFT.fullmatch(path.name) and path.is_file() and is_old(path, grace):
            yield Finding("leftover", "an unfinished file of a process that ended", str(path.relative_to(home)), "it can be removed", True)


def is_old(path: Path, grace: int | float) -> bool:
    """Whether a file came or changed so long ago that nobody is at it any more; one from the future is old, too."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return not 0 <= time.time() - max(status.st_mtime, status.st_ctime) < grace


def unlisted(home: Path, known: Set[str], grace: int | float) -> Iterator[Finding]:
    """Find files in the store that the catalog does not know; and in a store elsewhere, which is not read, those that are gone.

    Args:
        home: the house.
        known: paths of files of the store, as the catalog has them.
        grace: see `GRACE`.
    """
    root = store.root_of(home)
    there, odd, young = set(), list[str](), list[str]()
    for entry in root.entries():
        address = root.address(entry.key)
        there.add(address)
        is_told = isinstance(root, LocalRoot) and is_stray(entry.key)  # at once, since nobody at work makes such
        if not (is_told or entry.key == OWNER or Path(entry.key).name.startswith(".") or address in known):
            (young if 0 <= time.time() - entry.changed < grace else odd).append(entry.key)
    if any(other_of(root.address(key)) in known for key in young) and not is_tended(home):
        # Both forms are there at once only while a process is at it, or after one that was killed, or a restored backup.
        odd += [key for key in young if (other := other_of(root.address(key))) in known and (other not in there or _are_both(root, key))]
    keys = present(root) if odd else {}
    catalogued = {Path(path).name.partition(".")[0] for path in known}
    wanted = needed(root, keys).all_of(catalogued) if odd else set()
    for key in odd:
        stem = Path(key).name.partition(".")[0]
        if key not in keys:
            yield Finding("unknown", "is not named as a file of the store", root.address(key), "look at it, and move it elsewhere")
        elif stem in catalogued and any(Path(path).name.partition(".")[0] == stem for path in known & there):
            advice = "'weightspace gc' removes it once it is an hour old"
            yield Finding("leftover", "another form of what the catalog knows", root.address(key), advice)
        elif other_of(root.address(key)) in known:
            advice = "'weightspace store compact' or 'store restore' lets its row name it"
            yield Finding("form", "the catalog knows it in its other form, which is not there", root.address(key), advice)
        elif stem not in wanted or stem in catalogued:  # what another is the difference from stays, although no row names it
            advice = "it can be catalogued; 'weightspace gc' removes what nothing needs"
            yield Finding("unknown", "the catalog does not know it", root.address(key), advice, True)
    for path in sorted(path for path in known - there if "://" in path and other_of(path) not in there):
        yield Finding("missing", "is gone from the store", path, "bring it back")


def _are_both(root: Root, key: str) -> bool:
    return all(root.at(one) is not None for one in (key, other_of(key)))


def cache_findings(home: Path, *, is_deep: bool) -> Iterator[Finding]:
    """Find files of the cache that cannot be read, have another's name, or do not hold what was put there."""
    for path in sorted((home / "cache").glob("*/*")):
        if path.name.startswith("."):
            continue
        why = _odd_cached(path, is_deep)
        if why is not None:
            yield Finding("cache", why, str(path.relative_to(home)), "it can be removed; it is computed again when it is needed", True)


def _odd_cached(path: Path, is_deep: bool) -> str | None:
    try:
        checkpoint = open_safetensors(path)
        key = checkpoint.metadata.get("key")
        name = blake3(str(key).encode()).hexdigest(length=16)
        if key is None or path.name != f"{name}.safetensors" or path.parent.name != name[:2]:
            return "its name is not that of its key"
        if is_deep and checkpoint.metadata.get("id", checkpoint.id) != checkpoint.id:
            return "it does not hold what was put there"
    except (FormatError, *DAMAGE) as error:
        return f"cannot be read ({one_line(str(error), 160)})"
    return None
