"""One repository of the Hub looked at: what it says of itself, the headers of its files, and no weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from blake3 import blake3

from weightspace.checkpoint import Checkpoint
from weightspace.companions import MAX_CONFIG
from weightspace.errors import FormatError, one_line
from weightspace.formats.safetensors import parse_json
from weightspace.remote.file import RemoteFile
from weightspace.remote.hub import HOME, HubAddress, files_of, repository, said_of, shown_endpoint
from weightspace.remote.opening import expect_no_zoo, of_files, weights_among
from weightspace.storage import FileSpan
from weightspace.zoo.beside.cards import ModelCard, card_of
from weightspace.zoo.hub.kinds import labels_of
from weightspace.zoo.hub.linking import bases_of
from weightspace.zoo.reading import finished, unread
from weightspace.zoo.records import BESIDE, Description, ModelRecord, Place, Refusal

CONFIGS = ("config.json", "adapter_config.json")
_LASTING = ("unsupported", "unknown")
"""Why a commit is refused for good: by what the Hub lists, which a commit does not change. Bytes that are wrong may have become so on the way."""


@dataclass
class Known:
    """What the catalog has of one repository.

    Attributes:
        files: addresses with the commits that were read.
        refused: what was refused, by address.
    """

    files: set[str] = field(default_factory=set)
    refused: dict[str, Refusal] = field(default_factory=dict)


@dataclass(frozen=True)
class Looked:
    """A repository that was looked at.

    Attributes:
        record: for the catalog; None where nothing has changed.
        outdated: addresses that it takes the place of.
        bytes_read: of its files.
        num_files: of which the headers were read.
    """

    record: ModelRecord | Refusal | None
    outdated: frozenset[str] = frozenset()
    bytes_read: int = 0
    num_files: int = 0


def stem(address: str) -> str:
    """An address without its revision."""
    try:
        return str(replace(HubAddress.parse(address), revision=None))
    except FormatError:
        return address


def look(name: str, known: Mapping[str, Known]) -> Looked:
    """Look at one repository; what is wrong with it becomes its record, and so does what is wrong with us.

    Args:
        name: `[hf:]org/name[@revision][/file]`; with a whole commit that is known, nothing is asked.
        known: what the catalog has, by address without revision.
    """
    try:
        address = HubAddress.parse(name)
        return _looked(address, known.get(str(replace(address, revision=None)), Known()))
    except FormatError as error:
        return Looked(refused(name, 0, 0, error))
    except Exception as error:
        said = one_line(f"{name}: reading it failed ({type(error).__name__}: {error})")
        return Looked(refused(name, 0, 0, FormatError(said, reason="crashed", advice="report this with its name")))


def _looked(address: HubAddress, known: Known, *, again: bool = True) -> Looked:
    settled = _settled(str(address), known)
    if settled is not None:
        return settled
    try:
        found = repository(address)
    except FormatError as error:
        return Looked(refused(str(address), 0, 0, error))
    place = str(replace(address, revision=found.sha))
    settled = _settled(place, known)
    if settled is not None:
        return settled
    files = files_of(address, found)
    try:
        expect_no_zoo(address, found)
        chosen = weights_among(place, files)
        checkpoint = of_files(place, chosen)
        configs = read_configs(chosen, files, ("adapter_config.json",))
    except FormatError as error:
        if error.reason == "missing" and again and not address.revision:  # the commit may have gone while we looked
            return _looked(address, known, again=False)
        return Looked(refused(place, stamp_of(place), sum(one.size for one in files), error))
    read = sum(_header_bytes(checkpoint, file) for file in chosen) + sum(size for _, size in configs.values())
    made = _record(place, found, chosen, checkpoint, {key: config for key, (config, _) in configs.items()})
    return Looked(made, frozenset({*known.files, *known.refused} - {place}), read, len(chosen))


def _settled(place: str, known: Known) -> Looked | None:
    """What is known of a commit; None where it has to be read."""
    if place in known.files:
        return Looked(None, frozenset(known.refused))
    if place in known.refused and known.refused[place].reason in _LASTING:
        return Looked(known.refused[place])
    return None


def read_configs(chosen: Sequence[RemoteFile], files: Sequence[RemoteFile], names: Sequence[str]) -> dict[str, tuple[dict[str, Any], int]]:
    """Read what lies beside weights, by the key that `weightspace.companions.describe` gives it, with the bytes that it took.

    Raises:
        FormatError: one cannot be had, is not what its hash says, no JSON object, or too large.
    """
    folder = PurePosixPath(chosen[0].address).parent
    made = {}
    for file in files:
        path = PurePosixPath(file.address)
        if path.parent == folder and path.name in names:
            if file.size > MAX_CONFIG:
                raise FormatError(
                    f"{file.address}: has {file.size} bytes, expected {MAX_CONFIG} at most", reason="hostile", advice="do not use it"
                )
            made[path.stem] = parse_json(file.whole(), path), file.size
    return made


def stamp_of(address: str) -> int:
    """What tells a commit from others: a digest of its address."""
    return int.from_bytes(blake3(address.encode()).digest(8), "little")


def _header_bytes(checkpoint: Checkpoint, file: RemoteFile) -> int:
    starts = [one.offset for one in checkpoint.storages.values() if isinstance(one, FileSpan) and one.file == file]
    return min(starts, default=file.size)


def refused(address: str, stamp: int, size: int, error: FormatError) -> Refusal:
    """A repository that cannot be catalogued."""
    place = Place(address, None, 0, size, datetime.fromtimestamp(0, UTC).replace(tzinfo=None), stamp)
    return Refusal(place, error.reason, error.detail, error.advice)


def _record(
    address: str, found: Any, files: Sequence[RemoteFile], checkpoint: Checkpoint, configs: Mapping[str, dict[str, Any]]
) -> ModelRecord:
    read = finished(checkpoint, unread(checkpoint))
    modified = getattr(found, "last_modified", None) or datetime.fromtimestamp(0, UTC)
    sha256 = bytes.fromhex(files[0].version) if len(files) == 1 and len(files[0].version) == 64 else None
    size = sum(one.size for one in files)
    stamp = stamp_of(address)
    place = Place(address, "safetensors", len(files), size, modified.astimezone(UTC).replace(tzinfo=None), stamp, stamp, sha256)
    return ModelRecord(
        place=place,
        name=stem(address).removeprefix("hf:"),
        id=read.id,
        weights_id=read.weights_id,
        fingerprint=read.fingerprint,
        kind="adapter" if _is_adapter(checkpoint, files, configs) else checkpoint.kind,
        num_params=checkpoint.num_params,
        num_bytes=checkpoint.num_bytes,
        tensors=read.rows,
        description=description(found, files, checkpoint, configs),
        recipe=checkpoint.recipe,
        parents=checkpoint.parents,
        is_read=False,
    )


def _is_adapter(checkpoint: Checkpoint, files: Sequence[RemoteFile], configs: Mapping[str, Any]) -> bool:
    is_named = PurePosixPath(files[0].address).name.startswith("adapter")
    return "adapter_config" in configs or (is_named and any(".lora_" in name or "lora_A" in name for name in checkpoint.info))


def description(found: Any, files: Sequence[RemoteFile], checkpoint: Checkpoint, configs: Mapping[str, dict[str, Any]]) -> Description:
    """What the Hub says of a repository, and its files say of themselves.

    Args:
        found: what the Hub says.
        files: that hold the weights.
        checkpoint: opened from them.
        configs: what lies beside them, by key.
    """
    said, adapter = said_of(found), configs.get("adapter_config", {})
    card: ModelCard = card_of(said)
    config = configs.get("config") or getattr(found, "config", None) or {}
    named = config.get("architectures")
    family = _words(named[0] if isinstance(named, list) and named else None) or _words(config.get("model_type"))
    bases = bases_of(said, adapter, getattr(found, "tags", None) or (), _is_adapter(checkpoint, files, configs))
    own = {key: value for key, value in checkpoint.metadata.items() if isinstance(value, str) and key != "address"}
    tags = {"revision": str(found.sha)} | ({"gated": str(found.gated)} if getattr(found, "gated", False) else {})
    metadata = {
        "container": own,
        "card": said,
        "config": config,
        "adapter_config": adapter,
        "bases": bases,
        "endpoint": shown_endpoint() if shown_endpoint() != HOME else None,
        "sha256": {PurePosixPath(one.address).name: one.version for one in files if len(one.version) == 64},
    }
    return Description(
        metadata={key: value for key, value in metadata.items() if value},
        licence=card.licence,
        base_model=next((one["name"] for one in bases), None),
        datasets=card.datasets,
        languages=card.languages,
        library=card.library or _words(getattr(found, "library_name", None)),
        task=card.task or _words(getattr(found, "pipeline_tag", None)),
        family=family,
        metrics=tuple((metric, BESIDE) for metric in card.metrics),
        tags=tags | labels_of(own),
    )


def _words(said: object) -> str | None:
    """What somebody wrote, where it is text: cards and configurations may say anything."""
    return one_line(said, 200) if isinstance(said, str) else None


__all__ = ["CONFIGS", "Known", "Looked", "description", "look", "read_configs", "refused", "stamp_of", "stem"]
