"""Where damaged files of a store go: aside, with their bytes kept."""

import secrets
from pathlib import Path

DAMAGED = "damaged"  # folder of the house


def set_aside(home: Path, path: Path) -> Path:
    """Move a damaged file out of the way, to `.weightspace/damaged`; returns where it lies now."""
    folder = home / DAMAGED
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    if target.exists():
        target = folder / f"{path.name}.{secrets.token_hex(4)}"
    path.replace(target)
    return target


__all__ = ["DAMAGED", "set_aside"]
