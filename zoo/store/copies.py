"""Copies in the store that the catalog knows, beside what lies there: told apart without reading weights, as far as that goes."""

from dataclasses import dataclass
from functools import cached_property

from weightspace.errors import FormatError
from weightspace.zoo.store.members import held_as, present
from weightspace.zoo.store.putting import holds, open_held
from weightspace.zoo.store.roots import LocalRoot, Root, find, key_of, other_of


@dataclass(frozen=True)
class Copies:
    """The copies of one store, for a run that asks for many; what lies in an object store is listed once."""

    root: Root

    def are_there(self, model: str, suffix: str, size: int | None) -> bool:
        """Whether weights lie there as their row says.

        Args:
            model: id (hex).
            suffix: of their file, plain or compact.
            size: bytes of it; of a file that is there in its other form, as after a compaction, no row says them.

        Returns:
            Whether the file is there, is as large, and its header can be read.
        """
        key = key_of(model, suffix)
        found = self._size(key)
        if found is None:
            return self._size(other_of(key)) is not None and self._opens(other_of(key))
        return found == size and self._opens(key)

    def are_whole(self, model: str) -> bool:
        """Whether the weights that lie there are what their name says, read to their end; in an object store they are not read."""
        if not isinstance(self.root, LocalRoot):
            return True
        held = find(self.root, model)
        return held is not None and holds(self.root, held, model)

    def _size(self, key: str) -> int | None:
        if not isinstance(self.root, LocalRoot):
            return self._listed.get(key)
        held = held_as(self.root, key)
        return None if held is None else held.file.size

    def _opens(self, key: str) -> bool:
        if not isinstance(self.root, LocalRoot):
            return True
        held = held_as(self.root, key)
        try:
            return held is not None and open_held(self.root, held) is not None
        except FormatError:
            return False

    @cached_property
    def _listed(self) -> dict[str, int]:
        return present(self.root)


__all__ = ["Copies"]
