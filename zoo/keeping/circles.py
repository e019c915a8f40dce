"""Edges of the family tree that lead back to where they began."""

from collections.abc import Iterator

from weightspace.errors import one_line
from weightspace.zoo.edges import DECLARED
from weightspace.zoo.keeping.findings import Finding
from weightspace.zoo.write import Connection


def circles(connection: Connection) -> Iterator[Finding]:
    """Find models that descend from themselves, each group of them once."""
    inferred = {(parent, child) for parent, child, _ in _inferred(connection)}
    names = dict(connection.execute("select model_id, name from models where model_id in (select parent_id from edges)").fetchall())
    for group in _groups(connection):
        shown = ", ".join(one_line(str(names.get(one, one)), 60) for one in group[:4]) + (", …" if len(group) > 4 else "")
        is_mendable = any(parent in group and child in group for parent, child in inferred)
        advice = (
            "the least certain of the edges that were inferred can be removed"
            if is_mendable
            else "all of its edges are declared by recipes; look at them"
        )
        yield Finding("circle", "they descend from one another", f"edges: {shown}", advice, is_mendable)


def cut(connection: Connection) -> None:
    """Remove the least certain inferred edge of each circle until none is left that has one."""
    while groups := _groups(connection):
        gone = []
        for group in groups:
            inside = [
                (confidence, parent, child) for parent, child, confidence in _inferred(connection) if parent in group and child in group
            ]
            if inside:
                gone.append(min(inside)[1:])
        if not gone:
            return
        for parent, child in gone:
            connection.execute("delete from edges where parent_id = ? and child_id = ? and evidence <> ?", [parent, child, DECLARED])


def _inferred(connection: Connection) -> list[tuple[int, int, float]]:
    return connection.execute("select parent_id, child_id, confidence from edges where evidence <> ?", [DECLARED]).fetchall()


def _groups(connection: Connection) -> list[list[int]]:
    """Groups of models each of which descends from each (strongly connected components, Tarjan), and those that are their own parents."""
    children: dict[int, list[int]] = {}
    for parent, child in connection.execute("select distinct parent_id, child_id from edges order by all").fetchall():
        children.setdefault(parent, []).append(child)
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for start in children:
        if start in order:
            continue
        walk: list[tuple[int, Iterator[int]]] = []

        def enter(node: int, walk: list[tuple[int, Iterator[int]]] = walk) -> None:
            order[node] = low[node] = len(order)
            stack.append(node)
            on_stack.add(node)
            walk.append((node, iter(children.get(node, ()))))

        enter(start)
        while walk:
            node, rest = walk[-1]
            below = next(rest, None)
            if below is not None:
                if below not in order:
                    enter(below)
                elif below in on_stack:
                    low[node] = min(low[node], order[below])
                continue
            walk.pop()
            if walk:
                low[walk[-1][0]] = min(low[walk[-1][0]], low[node])
            if low[node] == order[node]:
                group = []
                while True:
                    group.append(stack.pop())
                    on_stack.discard(group[-1])
                    if group[-1] == node:
                        break
                if len(group) > 1 or node in children.get(node, ()):
                    found.append(sorted(group))
    return found
