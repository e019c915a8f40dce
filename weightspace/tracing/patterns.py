"""Patterns: several operations that together are one with more symmetry than each, replaced by that one in a graph."""

from typing import Any, TypeAlias

import torch
from torch.fx import Graph

from weightspace.tracing.reader import operation_name

Node: TypeAlias = Any  # a torch.fx.Node, or an argument that is none; arguments of nodes have no narrower type

_COPIES = ("_to_copy", "clone", "alias", "detach", "contiguous")
_ANGLE_STEPS = (*_COPIES, "unsqueeze", "view", "expand", "squeeze", "transpose", "permute")


def rotary(x: torch.Tensor) -> torch.Tensor:
    """Stand for the rotation of pairs of coordinates, first half with second half, by angles of position and frequency."""
    return x


def fuse(graph: Graph) -> None:
    """Replace RMS normalisations and rotary embeddings that are written out."""
    for node in list(graph.nodes):
        if _is(node, "mul"):
            _fuse_rms_norm(graph, node)
        elif _is(node, "add"):
            _fuse_rotary(graph, node)


def _is(node: Node, *names: str) -> bool:
    return _is_node(node) and bool(node.op == "call_function") and operation_name(node) in names


def _is_node(node: Node) -> bool:
    return isinstance(node, torch.fx.Node)


def _original(node: Node) -> Any:
    while _is(node, *_COPIES):
        node = node.args[0]
    return node


def _replace(graph: Graph, node: Node, operation: Any, arguments: tuple[Any, ...]) -> None:
    with graph.inserting_after(node):
        made = graph.call_function(operation, arguments)
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)


def _fuse_rms_norm(graph: Graph, node: Node) -> None:
    """Write `x * rsqrt(mean(x ** 2) + eps)` as one operation: turned about, it turns its output likewise."""
    for x, scale in (node.args[:2], node.args[1::-1]):
        scale = _original(scale)
        if not (_is_node(x) and _is(scale, "rsqrt") and _is(scale.args[0], "add")):
            continue
        mean, epsilon = scale.args[0].args[:2]
        if not (_is(mean, "mean") and isinstance(epsilon, (int, float)) and len(mean.args) > 2 and mean.args[2]):
            continue
        square, axes = mean.args[:2]
        rank = x.meta["val"].dim()
        if not _is_square_of(square, x) or [axis % rank for axis in axes] != [rank - 1]:
            continue
        _replace(graph, node, torch.ops.aten.rms_norm.default, (x, [x.meta["val"].shape[-1]], None, epsilon))
        return


def _is_square_of(square: Node, x: Node) -> bool:
    if _is(square, "pow") and square.args[1] == 2:
        return _original(square.args[0]) is _original(x)
    return _is(square, "mul") and all(_original(one) is _original(x) for one in square.args[:2])


def _fuse_rotary(graph: Graph, node: Node) -> None:
    """Write `x * cos + (-second half, first half) * sin` as one operation: planes of coordinates, each turned by its angle."""
    if len(node.args) < 2 or not all(_is(one, "mul") for one in node.args[:2]):
        return
    for straight, turned in (node.args[:2], node.args[1::-1]):
        for x, cosine in (straight.args[:2], straight.args[1::-1]):
            for other, sine in (turned.args[:2], turned.args[1::-1]):
                if _is_half_turn(other, x) and _is_angle_pair(cosine, sine):
                    _replace(graph, node, rotary, (x,))
                    return


def _is_half_turn(other: Node, x: Node) -> bool:
    """Whether a value is the second half of x with its sign changed, then the first."""
    if not (_is_node(x) and _is(other, "cat") and len(other.args[0]) == 2):
        return False
    rank, width = x.meta["val"].dim(), x.meta["val"].shape[-1]
    if (other.args[1] if len(other.args) > 1 else 0) % rank != rank - 1:
        return False
    second, first = other.args[0]
    return _is(second, "neg") and _range_of(second.args[0], x) == (width // 2, width) and _range_of(first, x) == (0, width // 2)


def _range_of(node: Node, x: Node) -> tuple[int, int] | None:
    """Which range of x's last dimension a node is."""
    rank, width = x.meta["val"].dim(), x.meta["val"].shape[-1]
    if _is(node, "slice") and node.args[0] is x and node.args[1] % rank == rank - 1 and len(node.args) == 4:
        return node.args[2], min(node.args[3], width)
    if _is(node, "getitem") and _is(node.args[0], "split", "split_with_sizes") and node.args[0].args[0] is x:
        if (node.args[0].args[2] if len(node.args[0].args) > 2 else 0) % rank == rank - 1:
            sizes = [part.shape[-1] for part in node.args[0].meta["val"]]
            return sum(sizes[: node.args[1]]), sum(sizes[: node.args[1] + 1])
    return None


def _is_angle_pair(cosine: Node, sine: Node) -> bool:
    """Whether two values are cosine and sine of the same angles, equal in both halves, and equally scaled."""
    angles = [_angle(value, name) for value, name in ((cosine, "cos"), (sine, "sin"))]
    if angles[0] is None or angles[0] != angles[1]:
        return False
    angle = _original(angles[0][0])
    return _is(angle, "cat") and len(angle.args[0]) == 2 and angle.args[0][0] is angle.args[0][1] and _is_last(angle)


def _is_last(cat: Node) -> bool:
    rank = cat.meta["val"].dim()
    return bool((cat.args[1] if len(cat.args) > 1 else 0) % rank == rank - 1)


def _angle(node: Node, name: str) -> tuple[Node, list[Any]] | None:
    """The angle of a cosine or sine, and the steps from there that must be the same for both."""
    steps: list[Any] = []
    while _is_node(node):
        if _is(node, name):
            return node.args[0], steps
        if _is(node, "mul") and not _is_node(node.args[1]):
            steps.append(("mul", node.args[1]))
        elif _is(node, *_ANGLE_STEPS):
            steps.append((operation_name(node), *(repr(argument) for argument in node.args[1:])))
        else:
            return None
        node = node.args[0]
    return None
