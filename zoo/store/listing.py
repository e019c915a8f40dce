"""What a store holds, family by family: bytes of the weights, and bytes that they are kept in."""

from collections.abc import Iterable
from typing import Any

from weightspace.zoo.catalog import Catalog
from weightspace.zoo.store.members import Member, members, needed, present
from weightspace.zoo.store.roots import COMPACT, PLAIN, key_of, root_of


def families(catalog: Catalog) -> list[dict[str, Any]]:
    """One row a family, the largest first: its first model, how many there are, how many of them compact, bytes, bytes kept, share saved.

    Models belong to one family where one comes from the other by the catalog's edges, or is kept as what differs from it. Those that
    belong to nobody share the last row, whose family is None.
    """
    root = root_of(catalog.home)
    with catalog.reading() as connection:
        everything = members(connection)
        edges = connection.execute("select parent_id, child_id from edges").fetchall()
    keys = present(root)
    by_id = {one.id: one for one in everything}
    by_number = {one.number: one for one in everything}
    links = [(by_number[a], by_number[b]) for a, b in edges if a in by_number and b in by_number]
    links += [(by_id[a], by_id[b]) for a, bases in needed(root, keys).bases.items() for b in bases if a in by_id and b in by_id]
    rows = [_row(family, keys) for family in _joined(everything, links)]
    alone = [one for one in rows if one["models"] == 1]
    rows = sorted((one for one in rows if one["models"] > 1), key=lambda one: -one["bytes"])
    if alone:
        total = {key: sum(one[key] for one in alone) for key in ("models", "compact", "bytes", "kept")}
        rows.append({"family": None, **total, "saved": _share(total["bytes"], total["kept"])})
    return rows


def _joined(everything: list[Member], links: Iterable[tuple[Member, Member]]) -> list[list[Member]]:
    """Members by family, in the order in which they were catalogued."""
    first = {one.number: one.number for one in everything}

    def top(number: int) -> int:
        while first[number] != number:
            first[number] = number = first[first[number]]
        return number

    for a, b in links:
        one, other = sorted((top(a.number), top(b.number)))
        first[other] = one
    made: dict[int, list[Member]] = {}
    for member in everything:
        made.setdefault(top(member.number), []).append(member)
    return list(made.values())


def _row(family: list[Member], keys: dict[str, int]) -> dict[str, Any]:
    kept = sum(keys.get(key_of(one.id, PLAIN), 0) or keys.get(key_of(one.id, COMPACT), 0) for one in family)
    num_bytes = sum(one.num_bytes for one in family)
    return {
        "family": family[0].name,
        "models": len(family),
        "compact": sum(key_of(one.id, PLAIN) not in keys and key_of(one.id, COMPACT) in keys for one in family),
        "bytes": num_bytes,
        "kept": kept,
        "saved": _share(num_bytes, kept),
    }


def _share(num_bytes: int, kept: int) -> float:
    return 1 - kept / num_bytes if num_bytes else 0.0


__all__ = ["families"]
