"""A metanet of equivariant layers: weights are embedded slot by slot, mapped some times, and averaged over what permutes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.equivariant.basis import Basis, foldable
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import EquivariantMetaNet

Codes = Literal["learned", "sinusoidal"]
MakeLayer = Callable[[Basis, Mapping[str, int], Mapping[str, int]], nn.Module]
"""Makes a layer from the basis and the channels by slot that it reads and writes."""


class EquivariantStack(EquivariantMetaNet):
    """Layers `x + layer(norm(x))` on features of all slots, then the mean over every dimension that permutes.

    Weights are standardised slot by slot and embedded, the cells of a kernel as so many inputs. Members of a fixed group either become
    channels, or keep their dimension and get a code each. The norm is over the channels of one place, so that networks of a batch do
    not see each other.
    """

    def __init__(
        self,
        layout: Layout,
        make_layer: MakeLayer,
        *,
        fold: frozenset[str],
        dim: int,
        channels: int,
        depth: int,
        width: int,
        codes: Codes = "learned",
    ) -> None:
        """Build it for one architecture.

        Args:
            layout: of the architecture.
            make_layer: makes each of the layers.
            fold: groups that become channels.
            dim: length of the vector.
            channels: of each place.
            depth: layers.
            width: of the hidden layer of the perceptron at the end.
            codes: of the members of fixed groups that are not folded: learned, or sines and cosines of their number.
        """
        super().__init__()
        self.dim, self.channels, self.layout = dim, channels, layout
        self.basis = Basis.of(layout, fold)
        self.cells = [slot.cells for slot in layout.slots]
        self.mean, self.std = nn.Buffer(torch.zeros(sum(self.cells))), nn.Buffer(torch.ones(sum(self.cells)))
        self.embeddings = nn.ModuleList(nn.Linear(cells, channels) for cells in self.cells)
        coded = {
            (name, at) for slot in layout.slots for name, at in _occurrences(slot.groups) if layout.has_identity(name) and name not in fold
        }
        self.code_of = {one: k for k, one in enumerate(sorted(coded))}
        self.codes = nn.ModuleList(_Code(layout.groups[name].size, channels, codes) for name, _ in self.code_of)
        wide = dict.fromkeys(self.basis.frames, channels)
        self.layers = nn.ModuleList(make_layer(self.basis, wide, wide) for _ in range(depth))
        sizes = [channels * frame.folds for frame in self.basis.frames.values()]
        self.norms = nn.ModuleList(nn.ModuleList(nn.LayerNorm(size) for size in sizes) for _ in range(depth + 1))
        self.readout = nn.Sequential(nn.Linear(sum(sizes), width), nn.ReLU(), nn.Linear(width, dim))

    def fit_inputs(self, networks: WeightSet) -> None:
        """Take mean and deviation of each slot, cell by cell, over the networks to be trained on."""
        found = [self._checked(batch) for batch in networks.batches]
        values = [torch.cat([one[slot.key].flatten(0, -2) for one in found]) for slot in self.layout.slots]
        self.mean.copy_(torch.cat([one.mean(0) for one in values]))
        # The mean over cells keeps one that is the same everywhere (a bias that starts at zero) from being blown up.
        self.std.copy_(
            torch.cat([one.std(0, correction=0).clamp_min(1e-3 * float(one.std(correction=0))) for one in values]).clamp_min(1e-6)
        )

    def features(self, batch: WeightBatch) -> dict[str, Float[Tensor, "networks ... channels"]]:
        """Features of each slot's weights."""
        return {key: self.basis.frames[key].unfold(values) for key, values in self._mapped(batch).items()}

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of the architecture.

        Raises:
            MetanetError: they are of another.
        """
        pooled = [values.flatten(1, -2).mean(1) if values.ndim > 2 else values for values in self._mapped(batch).values()]
        made: Tensor = self.readout(torch.cat(pooled, -1))
        return made

    def _mapped(self, batch: WeightBatch) -> dict[str, Tensor]:
        slots = self._checked(batch)
        values = {}
        scales = zip(torch.split(self.mean, self.cells), torch.split(self.std, self.cells), strict=True)
        for slot, (mean, std), embedding in zip(self.layout.slots, scales, self.embeddings, strict=True):
            embedded = embedding((slots[slot.key] - mean) / std)
            for j, (name, at) in enumerate(_occurrences(slot.groups)):
                if (name, at) in self.code_of:
                    code = self.codes[self.code_of[name, at]]()
                    embedded = embedded + code.view(-1, *(1 for _ in slot.groups[j + 1 :]), self.channels)
            values[slot.key] = self.basis.frames[slot.key].fold(embedded)
        for layer, norms in zip(self.layers, self.norms, strict=False):
            mapped = layer(_normed(values, norms))
            values = {key: values[key] + mapped[key] for key in values}
        return _normed(values, self.norms[-1])

    def _checked(self, batch: WeightBatch) -> Mapping[str, Tensor]:
        for slot in self.layout.slots:
            expected = (len(batch), *self.layout.shape(slot))
            found = batch.slots.get(slot.key)
            if found is None or found.shape != expected:
                was = "none" if found is None else f"{tuple(found.shape[1:])}"
                raise MetanetError(
                    f"this metanet was built for tensor '{slot.tensor}' as {expected[1:]}, found {was}; build one for this architecture"
                )
        return batch.slots


class _Code(nn.Module):
    """A vector for each member of a group, which tells it from the others."""

    def __init__(self, size: int, channels: int, kind: Codes) -> None:
        super().__init__()
        if kind == "learned":
            self.table: Tensor = nn.Parameter(torch.randn(size, channels) * channels**-0.5)
            self.map: nn.Module = nn.Identity()
        else:
            self.table = nn.Buffer(_sines(size, channels))
            self.map = nn.Linear(channels, channels)

    def forward(self) -> Tensor:
        made: Tensor = self.map(self.table)
        return made


def _sines(size: int, channels: int) -> Float[Tensor, "size channels"]:
    """Sines and cosines of wavelengths from 2 pi to 10,000 times that (Vaswani et al., arXiv:1706.03762, section 3.5)."""
    half = (channels + 1) // 2
    angles = torch.arange(size)[:, None] * torch.logspace(0, -4, half)
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :channels]


def _occurrences(groups: Sequence[str]) -> list[tuple[str, int]]:
    """Each group with how often it stood before: the two sides of a square get codes of their own."""
    return [(name, groups[:j].count(name)) for j, name in enumerate(groups)]


def _normed(values: Mapping[str, Tensor], norms: nn.Module) -> dict[str, Tensor]:
    return {key: norm(one) for (key, one), norm in zip(values.items(), norms.children(), strict=True)}


def only(name: str, layouts: Sequence[Layout]) -> Layout:
    """The one architecture that a metanet is built for.

    Raises:
        MetanetError: there are several.
    """
    if len(layouts) != 1:
        raise MetanetError(f"metanet '{name}' reads one architecture, found {len(layouts)}; build one for each")
    return layouts[0]


def chosen(name: str, setting: str, value: str, known: Sequence[str]) -> str:
    """A setting that is one of some words.

    Raises:
        MetanetError: it is none of them.
    """
    if value not in known:
        raise MetanetError(f"metanet '{name}' has {setting} '{value}'; expected one of: {', '.join(known)}")
    return value


FOLDED = 16
"""Members up to which `endpoints="auto"` folds a fixed group into channels; a layer has as many parameters as its square."""


def folded(name: str, layout: Layout, endpoints: str) -> frozenset[str]:
    """The groups that become channels under a setting `endpoints`: `fold` all that can, `code` none, `auto` those that are small."""
    chosen(name, "endpoints", endpoints, ("auto", "fold", "code"))
    return foldable(layout, at_most={"auto": FOLDED, "fold": None, "code": 1}[endpoints])


__all__ = ["Codes", "EquivariantStack", "chosen", "folded", "only"]
