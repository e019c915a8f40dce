"""Examples: networks with what is to be predicted of them, and how they are split so that no group is in two parts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.errors import MetanetError, ShapeMismatchError
from weightspace.metanets.batch import WeightSet


@dataclass(frozen=True, eq=False)
class Examples:
    """Networks with what is to be predicted of them.

    Attributes:
        networks: of any architectures.
        targets: one number each: of a property, or of a class.
        covariates: (networks, covariates): what else is known of each, given to the head beside the metanet's vector.
    """

    networks: WeightSet
    targets: Tensor
    covariates: Tensor | None = None

    def __post_init__(self) -> None:
        for what, given in (("targets", self.targets), ("rows of covariates", self.covariates)):
            if given is not None and len(given) != len(self.networks):
                raise ShapeMismatchError(f"{len(self.networks)} networks but {len(given)} {what}; give one for each network")
        if not self.targets.isfinite().all():
            raise MetanetError(f"{int((~self.targets.isfinite()).sum())} targets are not finite; leave those networks out")

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, at: Int[Tensor, " chosen"]) -> "Examples":
        """Some of the examples, in the order asked for."""
        covariates = None if self.covariates is None else self.covariates[at]
        return Examples(self.networks.take(at), self.targets[at], covariates)

    def to(self, device: torch.device | str) -> "Examples":
        """The same examples on another device."""
        covariates = None if self.covariates is None else self.covariates.to(device)
        return replace(self, networks=self.networks.to(device), targets=self.targets.to(device), covariates=covariates)


def group_split(groups: Sequence[str], fractions: Sequence[float] = (0.7, 0.15, 0.15), *, seed: int = 0) -> list[int]:
    """Assign each network to a split by its group, so that no group is in two: checkpoints of one run, networks of one image.

    Args:
        groups: of each network.
        fractions: of the groups that each split gets; they add up to 1.
        seed: of the shuffle.

    Returns:
        The number of each network's split.

    Example:
        >>> group_split(["a", "a", "b", "b"], (0.5, 0.5))
        [0, 0, 1, 1]
    """
    names = sorted(set(groups))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    ends = [round(sum(fractions[: k + 1]) * len(names)) for k in range(len(fractions))]
    split = {names[at]: next((k for k, end in enumerate(ends) if place < end), len(ends) - 1) for place, at in enumerate(order)}
    return [split[group] for group in groups]


__all__ = ["Examples", "group_split"]
