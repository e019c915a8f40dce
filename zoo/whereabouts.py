"""Where catalogued models lie, and what the catalog tells of them that their files in the store do not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from weightspace.checkpoint import Checkpoint
from weightspace.companions import describe_adapter
from weightspace.errors import FormatError
from weightspace.formats import open_checkpoint
from weightspace.provenance import told
from weightspace.remote import is_remote, open_remote
from weightspace.zoo import store
from weightspace.zoo.discover import stamp_at

_BESIDE = ("config", "generation_config", "adapter_config")
"""What a file of the store has no folder for, by the key that `weightspace.companions.describe` gives it."""


@dataclass(frozen=True)
class Whereabouts:
    """Where one model lies.

    Attributes:
        id: of the model, in hex; empty where the catalog is damaged.
        kind: of the model; empty where the catalog is damaged.
        files: paths with their stamps, in the order in which they were catalogued.
        said: what its files said of themselves, and what lay beside them, as `files.metadata` has it.
        recipe: how it was made, as JSON.
        parents: ids of the models that its recipe names.
    """

    id: str
    kind: str
    files: tuple[tuple[str, int], ...]
    said: Mapping[str, Any]
    recipe: Mapping[str, Any] | None
    parents: tuple[str, ...]

    def open(self, home: Path, name: str) -> Checkpoint:
        """Open the first of its files that is still the one that was catalogued.

        Args:
            home: the zoo's `.weightspace`.
            name: of the model, for messages.

        Raises:
            FormatError: none of its files is there any more, or it is damaged, or its row in the catalog is.
        """
        if not self.id or not self.kind:
            raise FormatError(
                f"model '{name}' is catalogued without {'a kind' if self.id else 'an id'}, which must not be",
                reason="corrupt",
                advice="mend the catalog with 'weightspace check --repair'",
            )
        for path, stamp in self.files:
            if stamp == store.STAMP:  # of the store: its files have their ids for names, and lie where it says
                opened = store.open_stored(home, self.id)
                if opened is not None:
                    return self._completed(opened)
            elif is_remote(path):
                return self._completed(open_remote(path))
            elif (home.parent / path).exists() and stamp_at(home.parent / path) == stamp:  # else it was written over since
                return self._made(open_checkpoint(home.parent / path))
        if not home.is_dir():
            raise FormatError(
                f"model '{name}' lies in {home.parent}, a folder that is not reachable here",
                reason="missing",
                advice="mount it, and where it has another path here than where its catalog is served, name it as in quack:host:port/mnt/zoo",
            )
        places = ", ".join(path for path, _ in self.files[:3]) or "another model took its place"
        raise FormatError(
            f"model '{name}' is catalogued, but its file is gone or has changed since ({places})",
            reason="missing",
            advice="bring it back, or ingest its new place",
        )

    def _made(self, opened: Checkpoint) -> Checkpoint:
        return opened if self.recipe is None else replace(opened, recipe=self.recipe, parents=opened.parents or self.parents)

    def _completed(self, opened: Checkpoint) -> Checkpoint:
        """A file of the store, or on the Hub, is opened alone: what the first file said and what lay beside it comes from the catalog."""
        beside = {key: self.said[key] for key in _BESIDE if isinstance(self.said.get(key), dict)}
        if "adapter_config" in beside:
            beside["adapter"] = describe_adapter(beside["adapter_config"])
        container = self.said.get("container")
        metadata = {**(container if isinstance(container, dict) else {}), **beside, **opened.metadata}
        recipe, parents = told(metadata)
        made = replace(opened, metadata=metadata, kind=self.kind, recipe=opened.recipe or recipe, parents=opened.parents or parents)
        return self._made(made)


def whereabouts(connection: duckdb.DuckDBPyConnection, model_ids: Sequence[int]) -> dict[int, Whereabouts]:
    """Look up where models lie, all of them at once.

    Args:
        connection: open for reading.
        model_ids: surrogate ids.
    """
    wanted = [list(model_ids)]
    chosen = "(select unnest(?::integer[]) as model_id)"
    rows = connection.execute(
        f"""select model_id, coalesce(lower(hex(id)), ''), coalesce(models.kind, ''), recipe::varchar from models semi join {chosen} using (model_id)
            left join recipes using (recipe_id)""",
        wanted,
    ).fetchall()
    files: dict[int, list[tuple[str, int]]] = {}
    said: dict[int, dict[str, Any]] = {}
    is_bare = f"stamp = {store.STAMP} or starts_with(path, 'hf:')"
    for number, path, stamp, metadata in connection.execute(
        # Only models of which a file may be opened that lies alone need more than their places.
        f"""select model_id, path, stamp, case when model_id in (select model_id from files where {is_bare}) then metadata::varchar end
            from files semi join {chosen} using (model_id) where path is not null and stamp is not null order by file_id""",
        wanted,
    ).fetchall():
        files.setdefault(number, []).append((path, stamp))
        if metadata is not None:
            said[number] = {**json.loads(metadata), **said.get(number, {})}
    parents: dict[int, list[str]] = {}
    for number, parent in connection.execute(
        f"""select child_id, lower(hex(id)) from edges join models on models.model_id = parent_id
            where child_id in (select model_id from {chosen}) and evidence = 'recipe' order by edges.rowid""",
        wanted,
    ).fetchall():
        parents.setdefault(number, []).append(parent)
    return {
        number: Whereabouts(
            id,
            kind,
            tuple(files.get(number, ())),
            said.get(number, {}),
            None if recipe is None else json.loads(recipe),
            tuple(dict.fromkeys(parents.get(number, ()))) if recipe is not None else (),
        )
        for number, id, kind, recipe in rows
    }


__all__ = ["Whereabouts", "whereabouts"]
