"""Adapter folders as PEFT reads them."""

import contextlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from weightspace.adapters.scaling import Scaling
from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError
from weightspace.formats.safetensors import save


def save_adapter(adapter: Checkpoint, folder: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write `adapter_model.safetensors` and `adapter_config.json` into a folder, which is made; the weights appear last.

    Args:
        adapter: with PEFT's names and its `adapter_config` in the metadata, as `extract_adapter` makes it.
        folder: where to; files of these names are replaced.
        metadata: strings to store with the weights.

    Returns:
        The folder.

    Raises:
        FormatError: no adapter_config, or a folder that cannot be written.
    """
    place = Path(folder)
    config = adapter.metadata.get("adapter_config")
    if not isinstance(config, dict):
        raise FormatError(
            "expected an adapter with 'adapter_config' in its metadata, found none",
            reason="missing",
            advice="make it with extract_adapter, or open an adapter folder",
        )
    Scaling.parse(config, "adapter")
    temporary = place / f".adapter_config.json.{secrets.token_hex(4)}.tmp"
    try:
        place.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        temporary.replace(place / "adapter_config.json")
    except OSError as error:
        raise FormatError(
            f"{place}: cannot be written ({error.strerror})",
            reason="unreadable",
            advice="check the folder, its permissions and the free space",
        ) from None
    finally:
        with contextlib.suppress(OSError):  # also where the folder is none
            temporary.unlink()
    save(adapter, place / "adapter_model.safetensors", {"format": "pt", **(metadata or {})})
    return place
