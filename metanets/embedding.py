"""Embedding checkpoints: from files or state dicts to a metanet's vectors."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.architectures import spec_for
from weightspace.checkpoint import Checkpoint
from weightspace.metanets.batch import WeightSet
from weightspace.metanets.metanet import MetaNet
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict


@torch.no_grad()
def embed(
    net: MetaNet,
    networks: Sequence[Checkpoint | StateDict],
    specs: SymmetrySpec | Sequence[SymmetrySpec] | None = None,
    *,
    modules: Sequence[nn.Module] | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "networks dim"]:
    """Read networks, at most `batch_size` in memory at a time.

    Args:
        net: the metanet.
        networks: Checkpoints or state dicts.
        specs: one for all, or one for each; by default what their names tell.
        modules: of each network, for metanets that run them.
        batch_size: networks at a time.

    Raises:
        SymmetryError: a network's spec is not given and cannot be told, or does not fit.
        MetanetError: the metanet does not read an architecture.

    Example:
        >>> from weightspace.metanets import build
        >>> spec = SymmetrySpec.parse({"fc.weight": "h 4"}, sizes={"h": 8})
        >>> embed(build("statistics", spec), [{"fc.weight": torch.zeros(8, 4)}], spec).shape
        torch.Size([1, 64])
    """
    if specs is None:
        each = [spec_for(one) for one in networks]
    else:
        each = [specs] * len(networks) if isinstance(specs, SymmetrySpec) else list(specs)
    dtype = next((parameter.dtype for parameter in net.parameters()), torch.float32)
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    was, _ = net.training, net.eval()
    found = []
    for start in range(0, len(networks), batch_size):
        stop = start + batch_size
        chosen = None if modules is None else modules[start:stop]
        some = WeightSet.of(networks[start:stop], each[start:stop], modules=chosen, dtype=dtype)
        found.append(net(some.to(device)).cpu())
    net.train(was)
    return torch.cat(found) if found else torch.zeros(0, net.dim, dtype=dtype)


__all__ = ["embed"]
