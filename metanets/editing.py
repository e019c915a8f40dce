"""Editing: weights changed by an equivariant metanet's features of them."""

from typing import Any

import torch
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.batch import WeightBatch
from weightspace.metanets.metanet import EquivariantMetaNet


class Editor(nn.Module):
    """Changes weights: an equivariant metanet's features, through a linear map for each kind of slot, added to the weights.

    It has no biases, so that edits are flipped and scaled as the weights are, where the metanet honours that.
    """

    def __init__(self, net: EquivariantMetaNet, example: WeightBatch, *, scale: float = 0.01) -> None:
        """Add heads to a metanet.

        Args:
            net: what gives the features.
            example: networks of an architecture to be edited; its kinds of slots get a head.
            scale: of the edits at first (Kofinas et al., arXiv:2403.12143).
        """
        super().__init__()
        self.net = net
        kinds = {_kind(slot.kind, slot.cells): slot.cells for slot in example.layout.slots}
        self.heads = nn.ModuleDict({kind: nn.Linear(net.channels, cells, bias=False) for kind, cells in kinds.items()})
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, batch: WeightBatch) -> WeightBatch:
        """The networks with edited weights; statistics and whatever has no feature stay as they are.

        Raises:
            MetanetError: a slot is of a kind that the example did not have.
        """
        edited: dict[str, Tensor] = dict(batch.slots)
        features: dict[str, Any] = self.net.features(batch)
        for slot in batch.layout.slots:
            kind = _kind(slot.kind, slot.cells)
            if slot.key not in features or slot.tensor in batch.spec.statistics:
                continue
            if kind not in self.heads:
                raise MetanetError(
                    f"tensor '{slot.tensor}' is of a kind that the editor's example did not have; give an example that has it"
                )
            edited[slot.key] = batch.slots[slot.key] + self.scale * self.heads[kind](features[slot.key])
        return WeightBatch(batch.layout, batch.layout.fold(edited), batch.module)


def _kind(kind: str, cells: int) -> str:
    return f"{kind.replace('.', '_')} of {cells}"


__all__ = ["Editor"]
