"""What the files beside a checkpoint say of it, put together for the catalog."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightspace.zoo.discover import Found
from weightspace.zoo.records import Description


class Describer:
    def __init__(self, root: Path) -> None:
        self.root = root

    def stamp(self, found: Found) -> int:
        return 0

    def describe(self, found: Found, container: Mapping[str, Any]) -> Description:
        return Description(metadata={"container": dict(container)} if container else {})
