"""Sharded checkpoints: an index file that says which shard holds which tensor, and the shards, checked against each other both ways."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.companions import describe
from weightspace.errors import DAMAGE, FormatError, guarded, one_line
from weightspace.formats import checkpoint_format, head_of
from weightspace.formats import sniff as sniff_format
from weightspace.formats.safetensors import MAX_HEADER, parse_json
from weightspace.provenance import told
from weightspace.storage import SourceFile, Storage, inside

SUFFIX = ".index.json"
MAX_SHARDS = 100_000
_PREFERRED = ("model.safetensors.index.json", "adapter_model.safetensors.index.json", "pytorch_model.bin.index.json")


def sniff(path: Path, head: bytes) -> bool:
    """An index file (a JSON object with a weight_map), or a folder that holds one."""
    if not head and path.is_dir():
        return index_of(path) is not None
    return head.lstrip()[:1] == b"{" and (b'"weight_map"' in head or path.name.endswith(SUFFIX))


def index_of(folder: Path) -> Path | None:
    """Find the index that speaks for a folder: one of a usual name, safetensors before torch files, or the only one there.

    Where several unusual ones lie side by side, or a whole model.safetensors beside an index of torch files, none does.
    """
    found = {path.name: path for path in sorted(folder.glob(f"*{SUFFIX}")) if _is_index(path)}
    if (folder / "model.safetensors").is_file() and _PREFERRED[0] not in found:
        return None
    usual = [found[name] for name in _PREFERRED if name in found]
    return usual[0] if usual else next(iter(found.values())) if len(found) == 1 else None


def _is_index(path: Path) -> bool:
    try:
        return path.is_file() and sniff(path, head_of(path))
    except FormatError:
        return True  # it cannot be read, which opening says


def claims(path: Path) -> frozenset[Path]:
    """The index and every shard it names; for a folder, those of the index that speaks for it."""
    index = index_of(path) if path.is_dir() else path
    if index is None:
        return frozenset()
    try:
        return frozenset({index, *(inside(index.parent, name, index) for name in set(_weight_map(index)[0].values()))})
    except DAMAGE:
        # What is wrong with it is told when it is opened.
        return frozenset({index})


@checkpoint_format("sharded", sniff=sniff, claims=claims)
def open_sharded(path: Path) -> Checkpoint:
    """Open every shard's header and check it against the index.

    Raises:
        FormatError: a shard is missing or leaves the folder, a tensor is missing in its shard or in the index, or lies
            in two shards.
    """
    index = index_of(path) if path.is_dir() else path
    if index is None:
        raise FormatError(f"{path}: no index of shards in it", reason="missing", advice=f"name a file that ends in {SUFFIX}")
    weight_map, said = _weight_map(index)
    shards = {name: _open_shard(index, name) for name in dict.fromkeys(weight_map.values())}
    _check(index, weight_map, shards)
    info: dict[str, TensorInfo] = {}
    storages: dict[str, Storage] = {}
    extras: dict[str, TensorInfo] = {}
    metadata: dict[str, Any] = {}
    for shard in shards.values():
        info |= shard.info
        storages |= shard.storages
        extras |= shard.extras
        metadata |= shard.metadata
    recipe, parents = told({**said, **metadata})
    metadata |= {"index": said} if said else {}
    metadata |= describe(path) if path.is_dir() else {}
    return Checkpoint(
        info,
        storages,
        "sharded",
        path=path,
        files=(index, *(file for shard in shards.values() for file in shard.files)),
        metadata=metadata,
        kind="adapter" if "adapter_config" in metadata else "full",
        extras=extras,
        recipe=recipe,
        parents=parents,
    )


def _weight_map(index: Path) -> tuple[dict[str, str], Mapping[str, Any]]:
    file = SourceFile.at(index)
    if file.size > MAX_HEADER:
        raise FormatError(
            f"{index}: an index of {file.size} bytes, expected at most {MAX_HEADER}", reason="hostile", advice="do not load this checkpoint"
        )
    try:
        made = parse_json(file.read(0, file.size), index)
    finally:
        file.close()
    weight_map, said = made.get("weight_map"), made.get("metadata", {})
    if (
        not isinstance(weight_map, dict)
        or not all(isinstance(shard, str) for shard in weight_map.values())
        or not isinstance(said, dict)
        or not weight_map
    ):
        raise FormatError(
            f"{index}: expected a weight_map from tensor names to shard names", reason="corrupt", advice="copy or download it again"
        )
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise FormatError(f"{index}: names more than {MAX_SHARDS} shards", reason="hostile", advice="do not load this checkpoint")
    return weight_map, said


def _open_shard(index: Path, name: str) -> Checkpoint:
    path = inside(index.parent, name, index)
    if not path.is_file():
        raise FormatError(
            f"{index}: the shard '{one_line(name, 80)}' is not there", reason="missing", advice="bring all shards together in one folder"
        )
    found = sniff_format(path)
    if found is None or found.name == "sharded":
        kind = "another index" if found else "of no known format"
        raise FormatError(f"{index}: the shard '{one_line(name, 80)}' is {kind}", reason="hostile", advice="do not load this checkpoint")
    return guarded(found.open, path)


def _check(index: Path, weight_map: Mapping[str, str], shards: Mapping[str, Checkpoint]) -> None:
    for name, shard in weight_map.items():
        if name not in shards[shard].info:
            raise FormatError(
                f"{index}: puts the tensor '{one_line(name, 80)}' into '{one_line(shard, 80)}', which does not hold it",
                reason="missing",
                advice="copy or download the shards again",
            )
    for shard, checkpoint in shards.items():
        for name, info in checkpoint.info.items():
            home = weight_map.get(name)
            if home is None and info.alias_of is None:
                raise FormatError(
                    f"{index}: does not list the tensor '{one_line(name, 80)}' of '{one_line(shard, 80)}'",
                    reason="corrupt",
                    advice="copy or download the index again",
                )
            if home is not None and home != shard:
                raise FormatError(
                    f"{index}: the tensor '{one_line(name, 80)}' lies in two shards, '{one_line(home, 80)}' and '{one_line(shard, 80)}'",
                    reason="corrupt",
                    advice="save the model again",
                )
