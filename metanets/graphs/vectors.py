"""Vectors of codes: what the nodes, slots and cells of a graph are, alike for every architecture."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from weightspace.metanets.graphs.codes import KINDS, NODES, OTHER_KINDS, PARTS, ROLES, SIDES, SYMMETRIES, Codes

WAVES = 8
"""Frequencies of the code of a position."""

POSITION_CODES = 2 * WAVES


def waves(position: Float[Tensor, "*places"], longest: float) -> Float[Tensor, "*places codes"]:
    """Sines and cosines of positions, of wavelengths from 4 to 4 times `longest`."""
    frequencies = (math.pi / 2) / longest ** torch.linspace(0, 1, WAVES, dtype=position.dtype, device=position.device)
    angle = position[..., None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], -1)


def node_vectors(codes: Codes, like: Tensor) -> Float[Tensor, "nodes codes"]:
    """What each node is and, where its order has a meaning outside the network, which one."""
    kinds = [one_hot(code, many).to(like) for code, many in zip(codes.node_code.T, (len(NODES), len(SYMMETRIES), len(SIDES)), strict=True)]
    order, size = codes.node_order.to(like), codes.node_size.to(like).clamp_min(1)
    identity = torch.cat([waves(order, 1000.0), (order / size)[:, None]], 1) * (order >= 0)[:, None]
    return torch.cat([*kinds, identity, size.log()[:, None], _depths(codes.node_depth, like)], 1)


def slot_vectors(codes: Codes, like: Tensor) -> Float[Tensor, "slots codes"]:
    """What each slot is: kind, role and part, depth, cells, fan-in, and the powers with which scales act on it."""
    sizes = (len(KINDS) + OTHER_KINDS, len(ROLES), PARTS, 4)
    kinds = [one_hot(code, many).to(like) for code, many in zip(codes.slot_code.T, sizes, strict=True)]
    numbers = [codes.slot_exponents.to(like), codes.slot_cells.to(like).log(), codes.slot_fan.to(like).log()[:, None]]
    return torch.cat([*kinds, *numbers, _depths(codes.slot_depth, like)], 1)


def cell_vectors(shape: Int[Tensor, " 3"], like: Tensor) -> Float[Tensor, "cells codes"]:
    """Where each cell of a kernel is, along each of its three axes."""
    axes = torch.cartesian_prod(*(torch.arange(int(size)) for size in shape)).reshape(-1, 3).to(like)
    share = (axes + 0.5) / shape.to(like)
    return torch.cat([waves(axes, 64.0), share[..., None]], -1).flatten(1)


def _depths(depth: Int[Tensor, "things 2"], like: Tensor) -> Float[Tensor, "things codes"]:
    at, layers = depth.to(like).T
    return torch.cat([waves(at, 64.0), waves(8 * at / layers, 8.0), layers.log()[:, None]], 1)


DEPTH_CODES = 2 * POSITION_CODES + 1
NODE_CODES = len(NODES) + len(SYMMETRIES) + len(SIDES) + POSITION_CODES + 2 + DEPTH_CODES
SLOT_CODES = len(KINDS) + OTHER_KINDS + len(ROLES) + PARTS + 4 + 6 + DEPTH_CODES
CELL_CODES = 3 * (POSITION_CODES + 1)


__all__ = ["CELL_CODES", "NODE_CODES", "POSITION_CODES", "SLOT_CODES", "cell_vectors", "node_vectors", "slot_vectors", "waves"]
