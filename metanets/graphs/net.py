"""The base of metanets that read networks as graphs."""

import abc
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from weightspace.metanets.metanet import EquivariantMetaNet

if TYPE_CHECKING:
    from torch_geometric.data import Batch


class GraphMetaNet(EquivariantMetaNet):
    """A metanet with two paths that give the same: dense over the stacked slots of one architecture, sparse over a batch of graphs.

    The dense path (`embed`, `features`) is the fast one; the sparse path takes any architectures in one go.
    """

    @abc.abstractmethod
    def embed_graphs(self, graphs: "Batch") -> Float[Tensor, "networks dim"]:
        """Read graphs that were joined by `weightspace.metanets.graph.collate` or `batches`."""


__all__ = ["GraphMetaNet"]
