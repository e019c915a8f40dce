"""How `ws.open` finds catalogued models: by name or id in the zoo of the working folder."""

from weightspace.checkpoint import Checkpoint
from weightspace.errors import UnknownNameError
from weightspace.opening import openers


def open_catalogued(source: str) -> Checkpoint | None:
    """Open a model of the zoo that the working folder belongs to; None where there is no zoo or no such model."""
    from weightspace.zoo.zoo import Zoo

    zoo = Zoo()
    if not zoo.catalog.exists():
        return None
    try:
        return zoo.open(source)
    except UnknownNameError:
        return None


openers.add("catalog", open_catalogued)
