"""HuRef's invariants of transformers: products of weights between the embeddings of a few tokens.

Zeng et al., HuRef: HUman-REadable Fingerprint for Large Language Models (arXiv:2312.04828), section 4.2.
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.layers import Layer, layers
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.roles import block_of, role_of


def huref(
    checkpoint: Checkpoint, *, tokens: int | Iterable[int] = 64, blocks: Iterable[str] | None = None, head_size: int | None = None
) -> Float[Tensor, "products tokens tokens"]:
    """Compute `X Wq' Wk X'`, `X Wo Wv X'` and `X Wdown Wup X'` for each block, X being rows of the embedding.

    Weights are (out, in) here, as torch has them: the paper's `X Wq Wk' X'` has them (in, out). Summed over heads, the products are unchanged by
    reordering the stream, heads and hidden units, by scales of hidden units, and by a matrix and its inverse inside a head. Gains of norms do not count,
    and neither do biases and rotary positions. The cosine of two such (`weightspace.analysis.fingerprints.similarity` of the flattened values) is the paper's ICS.

    Args:
        checkpoint: of a transformer; layers are found by their names.
        tokens: rows of the embedding: that many, evenly spaced, or which (the paper takes rare ones, which fine-tuning moves least).
        blocks: to look at, by the part of their names up to the first number; by default all that have such layers.
        head_size: where several heads share a key and a value, or queries, keys and values lie together head by head.

    Returns:
        In float64; for each block the products whose layers it has, in that order.

    Raises:
        UnknownNameError: no such block.
        AnalysisError: no embedding or no such layers are found, heads share keys and their size is not told, or a token is not there.
    """
    table = _embedding(checkpoint)
    rows = _rows(table, tokens)
    found: dict[str, dict[str, Layer]] = {}
    for layer in layers(checkpoint):
        if layer.kind == "dense" and (role := role_of(layer.name)) in ("q", "k", "v", "o", "qkv", "up", "down"):
            found.setdefault(block_of(layer.name), {}).setdefault(role, layer)
    for name in blocks or ():
        if name not in found:
            raise UnknownNameError.of("block", name, found)
    wanted = list(blocks) if blocks is not None else list(found)
    made = [product for name in wanted for product in _products(checkpoint, found[name], rows, head_size)]
    if not made:
        raise AnalysisError("expected layers of attention or of feed-forward blocks by their names, found none; use fingerprint instead")
    if not bool(torch.isfinite(stacked := torch.stack(made)).all()):
        raise AnalysisError("some weights are not finite; a fingerprint needs finite weights")
    return stacked


def _products(checkpoint: Checkpoint, of: Mapping[str, Layer], x: Tensor, head_size: int | None) -> list[Tensor]:
    matrices = {role: layer.matrix(checkpoint[layer.name]).double() for role, layer in of.items()}
    if "qkv" in matrices:
        matrices |= _parted(matrices.pop("qkv"), of["qkv"].name, head_size)
    width = x.shape[1]
    made: list[Tensor] = []
    for first, second, is_square in (("q", "k", True), ("o", "v", False), ("down", "up", False)):
        if first not in matrices or second not in matrices:
            continue
        left, right = matrices[first].T if is_square else matrices[first], matrices[second]
        if left.shape[0] != width or right.shape[1] != width:
            continue
        if left.shape[1] != right.shape[0]:
            right = _repeated(right, left.shape[1], head_size, of[second].name)
        made.append((x @ left) @ (right @ x.T))
    return made


def _parted(fused: Tensor, name: str, head_size: int | None) -> dict[str, Tensor]:
    """Queries, keys and values of one layer: three parts, or (as GPT-NeoX and BLOOM name it) three parts of every head."""
    if "query_key_value" not in name:
        return dict(zip("qkv", fused.chunk(3), strict=True)) if len(fused) % 3 == 0 else {}
    if head_size is None or len(fused) % (3 * head_size):
        raise AnalysisError(
            f"tensor '{name}' holds queries, keys and values head by head; say the size of a head that divides its {len(fused)} rows"
        )
    by_head = fused.reshape(-1, 3, head_size, fused.shape[1])
    return {part: by_head[:, at].flatten(0, 1) for at, part in enumerate("qkv")}


def _repeated(shared: Tensor, wanted: int, head_size: int | None, name: str) -> Tensor:
    """Keys or values as often as there are heads that share them."""
    if head_size is None or len(shared) % head_size or wanted % len(shared):
        raise AnalysisError(
            f"tensor '{name}' has {len(shared)} rows for {wanted}, so heads share keys and values; say the size of a head that divides both"
        )
    return shared.reshape(-1, head_size, shared.shape[1]).repeat_interleave(wanted // len(shared), 0).flatten(0, 1)


def _embedding(checkpoint: Checkpoint) -> Tensor:
    tables = [layer for layer in layers(checkpoint, embeddings=True) if layer.kind == "embedding"]
    if not tables:
        raise AnalysisError("expected a table of embeddings by its name, found none; use fingerprint instead")
    return checkpoint[max(tables, key=lambda table: table.shape[0]).name]


def _rows(table: Tensor, tokens: int | Iterable[int]) -> Tensor:
    wanted = torch.linspace(0, len(table) - 1, min(tokens, len(table))).long().tolist() if isinstance(tokens, int) else list(tokens)
    outside = next((token for token in wanted if not 0 <= token < len(table)), None)
    if outside is not None or not wanted:
        raise AnalysisError(f"expected tokens from 0 to {len(table) - 1}, found {outside}; name some that the embedding has")
    return table[wanted].double()


__all__ = ["huref"]
