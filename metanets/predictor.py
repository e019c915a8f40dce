"""A predictor: a metanet with a head, and how far its predictions were off where it was not trained."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightspace.checkpoint import Checkpoint
from weightspace.errors import MetanetError, ShapeMismatchError, one_line
from weightspace.formats import open_checkpoint
from weightspace.formats.safetensors import save
from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.heads import Head, heads
from weightspace.metanets.metanet import PREDICTOR, UNBUILDABLE, MetaNet, built_from, recipe_of
from weightspace.metanets.standardise import Standardise


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


class Predictor(nn.Module):
    """A metanet and a head; with covariates the head sees them beside the metanet's vector.

    Attributes:
        residuals: how far predictions were off on networks not trained on, ascending; empty before `calibrate`.
    """

    def __init__(self, net: MetaNet, head: str = "regression", *, covariates: int = 0, **settings: Any) -> None:
        """Put a head on a metanet.

        Args:
            net: the metanet.
            head: name of the head (see `heads`).
            covariates: how many numbers besides the vector the head sees.
            settings: of the head.

        Raises:
            UnknownNameError: there is no such head.
        """
        super().__init__()
        self.net = net
        self.head_recipe = {"head": head, "covariates": covariates, "settings": settings}
        self.mix = nn.Sequential(nn.Linear(net.dim + covariates, net.dim), nn.ReLU()) if covariates else nn.Identity()
        self.head: Head = heads[head](net.dim, **settings)
        self.covariates = Standardise(covariates)
        self.residuals = nn.Buffer(torch.zeros(0))

    @property
    def own_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not the metanet's, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.state_dict().items() if not name.startswith(_NET)}

    def fit_inputs(self, examples: Examples) -> None:
        """Look at the examples to be trained on, once and before training."""
        self.net.fit_inputs(examples.networks)
        self.head.fit_targets(examples.targets)
        if examples.covariates is not None:
            self.covariates.fit(examples.covariates)

    def vectors(self, networks: WeightSet | WeightBatch, covariates: Tensor | None = None) -> Float[Tensor, "networks dim"]:
        """What the head sees.

        Raises:
            MetanetError: covariates are missing, or are given where none were trained with.
        """
        expected = self.head_recipe["covariates"]
        found = 0 if covariates is None else covariates.shape[1]
        if found != expected:
            raise MetanetError(f"the predictor was made for {expected} covariates, found {found}; give as many")
        vectors: Tensor = self.net(networks)
        if covariates is not None:
            vectors = torch.cat([vectors, self.covariates(covariates.to(vectors))], 1)
        mixed: Tensor = self.mix(vectors)
        return mixed

    def loss(self, examples: Examples) -> Float[Tensor, ""]:
        """What is lost on some examples, in mean."""
        return self.head.loss(self.vectors(examples.networks, examples.covariates), examples.targets.to(torch.get_default_dtype()))

    forward = loss  # what distributed training wraps

    @torch.no_grad()
    def predict(self, networks: WeightSet, covariates: Tensor | None = None, *, batch_size: int = 256) -> Float[Tensor, " networks"]:
        """The target of each network."""
        was, _ = self.training, self.eval()
        at = torch.split(torch.arange(len(networks)), batch_size)
        found = [
            self.head.predict(self.vectors(networks.take(some), None if covariates is None else covariates[some])).cpu() for some in at
        ]
        self.train(was)
        return torch.cat(found)

    def judge(self, examples: Examples) -> dict[str, float]:
        """Metrics on some examples."""
        return self.head.judge(self.predict(examples.networks, examples.covariates), examples.targets.cpu())

    def calibrate(self, examples: Examples) -> None:
        """Keep how far predictions are off on examples not trained on, for `interval`."""
        off = (self.predict(examples.networks, examples.covariates) - examples.targets.cpu()).abs().sort().values
        self.residuals = nn.Buffer(off.to(self.residuals))

    def interval(self, level: float = 0.9) -> float:
        """Half the width of an interval around a prediction that holds the truth with a probability of `level`.

        Split conformal prediction (Lei et al., arXiv:1604.04173): the ceil((n + 1) level)-th smallest error of n networks not trained on;
        infinite where n is too small. It holds for networks drawn as those were. Where those also chose when training ended, it is
        a little too narrow.

        Raises:
            MetanetError: it was not calibrated.
        """
        count = len(self.residuals)
        if count == 0:
            raise MetanetError("the predictor was not calibrated, so its errors are unknown; calibrate it on networks not trained on")
        place = math.ceil((count + 1) * level)
        return float(self.residuals[place - 1]) if place <= count else math.inf


_NET = "net."


def save_predictor(predictor: Predictor, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Save a predictor as safetensors; `load_metanet` reads its metanet from the same file.

    Args:
        predictor: what to save.
        path: where to.
        metadata: of one's own, text by text.
    """
    tensors = {name.removeprefix(_NET) if name.startswith(_NET) else f"{PREDICTOR}{name}": t for name, t in predictor.state_dict().items()}
    told = {"metanet": recipe_of(predictor.net), "predictor": json.dumps(predictor.head_recipe, sort_keys=True), **(metadata or {})}
    return save({name: tensor.detach() for name, tensor in tensors.items()}, Path(path), told)


def load_predictor(source: str | Path | Checkpoint) -> Predictor:
    """Load a predictor that `save_predictor` saved.

    Raises:
        FormatError: the file cannot be read.
        MetanetError: it holds no predictor.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(Path(source))
    text = checkpoint.metadata.get("predictor")
    where = checkpoint.path or source
    if text is None:
        raise MetanetError(f"'{where}' holds no predictor; give a file that 'weightspace train-metanet' wrote")
    net = built_from(checkpoint)
    own = {name.removeprefix(PREDICTOR): checkpoint[name] for name in checkpoint.info if name.startswith(PREDICTOR)}
    try:
        recipe = json.loads(text) if isinstance(text, str) else text
        with torch.device("meta"):  # shapes alone, as in `built_from`
            claimed = Predictor(net, recipe["head"], covariates=recipe["covariates"], **recipe["settings"]).own_shapes
        fits = {name: shape for name, shape in claimed.items() if name != "residuals"} == {
            name: tuple(tensor.shape) for name, tensor in own.items() if name != "residuals"
        }
        made = Predictor(net, recipe["head"], covariates=recipe["covariates"], **recipe["settings"]) if fits else None
    except UNBUILDABLE as error:
        raise MetanetError(
            f"the predictor in '{where}' cannot be built again ({one_line(str(error), 200)}); save it with this version"
        ) from error
    if made is None or "residuals" not in own or own["residuals"].dim() != 1:
        raise MetanetError(f"the predictor in '{where}' has other tensors than its head has here; train it again")
    made.residuals = nn.Buffer(torch.zeros_like(own["residuals"]))
    made.load_state_dict(own, strict=False)
    return made.eval()


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


__all__ = ["Examples", "Predictor", "group_split", "load_predictor", "save_predictor"]
