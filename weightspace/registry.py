"""A registry: named things of one kind, each added by a decorator in a file of its own."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from weightspace.errors import UnknownNameError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Things of one kind by name, in order of registration; a duplicate is refused and a typo gets a suggestion.

    Example:
        >>> colours: Registry[int] = Registry("colour")
        >>> colours.add("red", 1)
        1
        >>> colours["rad"]
        Traceback (most recent call last):
        ...
        weightspace.errors.UnknownNameError: no colour named 'rad'; did you mean 'red'? (known: red)
    """

    def __init__(self, kind: str, package: str | None = None, *further: str) -> None:
        """Make an empty registry; `package` is searched for modules that register themselves on first use, and `further` modules are imported."""
        self.kind = kind
        self._places = ((package,) if package is not None else ()) + further
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> T:
        """Register a thing under a new name and return it."""
        if name in self._things:
            raise ValueError(f"{self.kind} '{name}' is already registered")
        self._things[name] = thing
        return thing

    def _loaded(self) -> dict[str, T]:
        places, self._places = self._places, ()
        for place in places:
            module = importlib.import_module(place)
            for found in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{place}."):
                importlib.import_module(found.name)
        return self._things

    def __getitem__(self, name: str) -> T:
        things = self._loaded()
        if name not in things:
            raise UnknownNameError.of(self.kind, name, things)
        return things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())
