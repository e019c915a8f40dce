"""Edges that cards and files declare: written as soon as both ends are in the catalog, in whichever order they come."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import duckdb

from weightspace.errors import FormatError
from weightspace.provenance import PARENTS, RECIPE, told
from weightspace.remote.hub import SCHEME, HubAddress
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.edges import CARD, DECLARED, STATED

KINDS = ("finetune", "adapter", "merge", "quantized")
"""What the Hub calls the ways in which a model comes from its base."""

MOST_BASES = 1000
Edge = tuple[int, int, str, str]
"""Parent, child, kind, evidence."""


def bases_of(card: Mapping[str, Any], adapter: Mapping[str, Any], tags: Iterable[object], is_adapter: bool) -> list[dict[str, str]]:
    """The models that a repository says it comes from, each with the kind of descent.

    Args:
        card: what the front matter of its README says.
        adapter: its adapter_config.json.
        tags: the Hub's own; they say the kind where the card does not.
        is_adapter: whether it holds updates of another model.

    Example:
        >>> bases_of({"base_model": ["lab/a", "lab/b"]}, {}, [], False)
        [{'name': 'lab/a', 'kind': 'merge'}, {'name': 'lab/b', 'kind': 'merge'}]
    """
    said = card.get("base_model")
    named = [one for one in (said if isinstance(said, list) else [said])[:MOST_BASES] if isinstance(one, str) and one.strip()]
    if not named and isinstance(adapter.get("base_model_name_or_path"), str):
        named, is_adapter = [adapter["base_model_name_or_path"]], True
    relation = card.get("base_model_relation")
    if relation not in KINDS:
        tagged = {tag.split(":", 2)[1] for tag in tags if isinstance(tag, str) and tag.startswith("base_model:") and tag.count(":") > 1}
        relation = next((kind for kind in KINDS if kind in tagged), None)
    kind = relation or ("adapter" if is_adapter else "merge" if len(named) > 1 else "finetune")
    return [{"name": one.strip()[:200], "kind": kind} for one in dict.fromkeys(named)]


def link(catalog: Catalog) -> int:
    """Bring the edges that are declared up to date: those that are missing are written, those that nobody declares any more go.

    Args:
        catalog: that models came into.

    Returns:
        How many edges are new.
    """
    with catalog.reading() as connection:
        fresh, gone = _changes(connection)
    if not fresh and not gone:
        return 0
    with catalog.writing() as connection:
        fresh, gone = _changes(connection)  # somebody may have written meanwhile
        for edge in gone:
            connection.execute("delete from edges where parent_id = ? and child_id = ? and kind = ? and evidence = ?", list(edge))
        if fresh:
            connection.executemany("insert into edges values (?, ?, ?, ?, 1)", [list(edge) for edge in sorted(fresh)])
    return len(fresh)


def _changes(connection: duckdb.DuckDBPyConnection) -> tuple[set[Edge], set[Edge]]:
    """Edges that are missing, and edges of cards that no card declares."""
    there: set[Edge] = set(
        connection.execute(
            "select parent_id, child_id, kind, evidence from edges where list_contains(?::varchar[], evidence)", [list(STATED)]
        ).fetchall()
    )
    by_recipe = set(_by_recipe(connection))
    made = {(parent, child) for parent, child, _, evidence in there | by_recipe if evidence != CARD}
    by_card = {edge for edge in _by_card(connection) if (edge[0], edge[1]) not in made}
    looked_at = {child for (child,) in connection.execute("select model_id from files where starts_with(path, 'hf:')").fetchall()}
    known = {(parent, child) for parent, child, _, evidence in there if evidence != CARD}
    gone = {edge for edge in there - by_card if edge[3] == CARD and edge[1] in looked_at}
    stated = {edge for edge in by_recipe if (edge[0], edge[1]) not in known}
    kept = connection.execute("select parent_id, child_id from edges").fetchall() if by_card - there else []
    tree = _Tree([*kept, *((parent, child) for parent, child, _, _ in stated)])
    # Two cards may name each other: whichever would close a circle is not believed.
    return stated | {edge for edge in sorted(by_card - there) if tree.add(edge[0], edge[1])}, gone


class _Tree:
    """Who descends from whom."""

    def __init__(self, edges: Iterable[tuple[int, int]]) -> None:
        self.children: dict[int, set[int]] = {}
        for parent, child in edges:
            self.children.setdefault(parent, set()).add(child)

    def add(self, parent: int, child: int) -> bool:
        """Add an edge, unless the parent descends from the child."""
        ahead, seen = [child], {child}
        while ahead:
            fresh = self.children.get(ahead.pop(), set()) - seen
            seen |= fresh
            ahead += fresh
        if parent not in seen:
            self.children.setdefault(parent, set()).add(child)
        return parent not in seen


def _by_card(connection: duckdb.DuckDBPyConnection) -> Iterator[Edge]:
    """What cards declare, as far as the bases are here."""
    declared: dict[int, list[dict[str, str]]] = {}
    for child, bases in connection.execute(
        "select model_id, json_extract(metadata, '$.bases')::varchar from files where json_exists(metadata, '$.bases') order by file_id desc"
    ).fetchall():
        declared[child] = [one for one in json.loads(bases) if isinstance(one, dict) and {"name", "kind"} <= one.keys()]
    for child, base, kind in connection.execute("select model_id, base_model, kind from models where base_model is not null").fetchall():
        declared.setdefault(child, [{"name": base, "kind": "adapter" if kind == "adapter" else "finetune"}])
    if not declared:
        return
    models = _by_name(connection, {str(one["name"]).casefold() for bases in declared.values() for one in bases})
    for child, bases in declared.items():
        for one in bases:
            parent = models.get(str(one["name"]).casefold())
            if parent is not None and parent != child:
                yield parent, child, str(one["kind"]), CARD


def _by_name(connection: duckdb.DuckDBPyConnection, wanted: set[str]) -> dict[str, int]:
    """Models by what a card may call them: where they lie on the Hub, else where they were pulled from, else their own names."""
    found: dict[str, int] = {}
    for question in (
        "select path, model_id from files where starts_with(path, 'hf:') order by file_id",
        "select value, model_id from tags where key = 'hub' and value is not null",
        "select name, model_id from models",
    ):
        rows = connection.execute(question)
        while some := rows.fetchmany(10_000):
            for said, model in some:
                name = _repository(said).casefold()
                if name in wanted:
                    found.setdefault(name, model)
    return found


def _repository(said: str) -> str:
    """The name of a repository, without revision and file; what is no address is a name already."""
    if not said.startswith(SCHEME):
        return said
    try:
        return HubAddress.parse(said).repo
    except FormatError:
        return said


def _by_recipe(connection: duckdb.DuckDBPyConnection) -> Iterator[Edge]:
    """What files of models that came from the Hub say of how they were made, as far as the parents are here."""
    said: list[tuple[int, str, tuple[str, ...]]] = []
    for child, container in connection.execute(
        f"""select model_id, json_extract(metadata, '$.container')::varchar from files
            where json_exists(metadata, '$.container."{PARENTS}"') and json_extract_string(metadata, '$.container."{PARENTS}"') <> '[]'
            and (starts_with(path, 'hf:') or model_id in (select model_id from tags where key = 'hub'))"""
    ).fetchall():
        held = json.loads(container)
        recipe, parents = told({key: held.get(key) for key in (RECIPE, PARENTS)})
        said.append((child, str((recipe or {}).get("kind", "made")), parents))
    if not said:
        return
    ids = sorted({parent for _, _, parents in said for parent in parents})
    models = dict(
        connection.execute("select lower(hex(id)), model_id from models where id in (select unhex(unnest(?::varchar[])))", [ids]).fetchall()
    )
    for child, kind, parents in said:
        for parent in parents:
            if parent in models and models[parent] != child:
                yield models[parent], child, kind, DECLARED


__all__ = ["KINDS", "bases_of", "link"]
