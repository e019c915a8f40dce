"""Populations: recipes that train many small networks into a zoo, one family a file."""

from collections.abc import Callable, Iterator

from weightspace.registry import Registry
from weightspace.zoo.zoo import Added

Recipe = Callable[..., Iterator[Added]]
"""Trains networks and yields each checkpoint with what is known of it.

Every setting is a keyword with a default; `seed` is one of them, and the same settings give the same bytes. The recipe of
each checkpoint holds the settings that train it again, alone or among others.
"""

populations: Registry[Recipe] = Registry("population", package="weightspace.zoo.populations")


def population(name: str) -> Callable[[Recipe], Recipe]:
    """Register a recipe under a name."""
    return lambda recipe: populations.add(name, recipe)
