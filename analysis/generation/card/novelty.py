"""How new a network is: where it errs and where it lies, beside the networks of a zoo.

Two networks are alike in what they do if they get the same examples wrong: the intersection over union of the two sets, as Wang et al.
(arXiv:2402.13144) measure it. They are alike in what they are if a permutation of neurons brings one near the other. Zeng et al.
(arXiv:2506.07998) look at both, and always beside the zoo's own values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.analysis.generation.target import Target
from weightspace.analysis.matching.balance import balance
from weightspace.analysis.matching.match import match
from weightspace.dtypes import widened
from weightspace.errors import GenerationError
from weightspace.metanets.layout import Layout
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act
from weightspace.task import Task, logits_of

Stacked = Mapping[str, Tensor]
"""Tensors of many networks by name, (networks, *shape)."""

TOGETHER = 64
"""Networks run side by side: more would not fit the caches."""

PAIRS = 100
"""Pairs that stand for all in a diversity."""


def length(networks: Stacked) -> int:
    """How many networks are stacked."""
    return len(next(iter(networks.values())))


@torch.no_grad()
def logits(task: Task, networks: Stacked, target: Target) -> Float[Tensor, "networks examples classes"]:
    """Run networks on the examples of a task, side by side where the module allows.

    Args:
        task: whose module returns logits, the classes last; positions of a sequence count as examples.
        networks: (networks, *shape) of the tensors that the target makes.
        target: adds what goes into every network as it is.

    Raises:
        TaskError: the networks do not fit the task, or it returns no logits.
    """
    names, made = list(networks), []
    for at in range(0, length(networks), TOGETHER):
        chunk = {name: networks[name][at : at + TOGETHER] for name in names}
        made.append(torch.cat([_run(task, chunk, target, batch) for batch in task.batches], 1))
    return torch.cat(made)


def _run(task: Task, networks: Stacked, target: Target, batch: object) -> Tensor:
    def one(tensors: dict[str, Tensor]) -> Tensor:
        found = logits_of(task.outputs_of(target.whole(tensors), batch))
        return found.flatten(0, -2)

    try:
        outputs: Tensor = torch.vmap(one)(dict(networks))
    except (RuntimeError, TypeError, ValueError):  # its flow depends on values, or an operation has no batched form
        outputs = torch.stack([one({name: tensor[k] for name, tensor in networks.items()}) for k in range(length(networks))])
    return outputs.float()


def classes_of(task: Task) -> Int[Tensor, " examples"]:
    """The classes of a task's examples in its order, the last part of each batch; -100 means none.

    Raises:
        GenerationError: the batches end in no whole numbers, so the task is no classification.
    """
    found: list[Tensor] = []
    for batch in task.batches:
        last = batch[-1] if isinstance(batch, tuple | list) and len(batch) else None
        if not isinstance(last, Tensor) or last.is_floating_point() or last.is_complex():
            raise GenerationError("the task's batches do not end in classes; wrong predictions can be compared on a classification alone")
        found.append(last.flatten())
    return torch.cat(found).to(task.device)


def wrong(logits: Float[Tensor, "networks examples classes"], classes: Int[Tensor, " examples"]) -> Bool[Tensor, "networks examples"]:
    """Which examples each network gets wrong; those without a class are never wrong."""
    return (logits.argmax(-1) != classes) & (classes != -100)


def calibration_error(
    logits: Float[Tensor, "networks examples classes"], classes: Int[Tensor, " examples"], bins: int = 15
) -> Float[Tensor, " networks"]:
    """Expected calibration error of each network: the mean over bins of |accuracy - confidence|, by counts.

    Guo et al., arXiv:1706.04599, equation 3, with bins of equal width (low, high] of the largest probability.
    """
    seen = classes != -100
    sure, guess = logits[:, seen].double().softmax(-1).max(-1)
    gap = (guess == classes[seen]).double() - sure
    at = (sure * bins).ceil().long().clamp(1, bins) - 1
    sums = torch.zeros(len(logits), bins, dtype=torch.float64, device=logits.device).scatter_add_(1, at, gap)
    return sums.abs().sum(1) / max(1, int(seen.sum()))


def iou(a: Bool[Tensor, "left examples"], b: Bool[Tensor, "right examples"]) -> Float[Tensor, "left right"]:
    """Intersection over union of the examples that networks get wrong; 1 where both get all right."""
    x, y = a.double(), b.double()
    both = x @ y.T
    either = x.sum(1)[:, None] + y.sum(1) - both
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))


def nearest_iou(
    made: Bool[Tensor, "made examples"], zoo: Bool[Tensor, "zoo examples"], leave_one_out: bool = False
) -> Float[Tensor, " made"]:
    """The largest IoU of each network with one of the zoo.

    Args:
        made: what is judged.
        zoo: what it is compared with.
        leave_one_out: network k of both is the same one, and is not compared with itself.
    """
    table = iou(made, zoo)
    if leave_one_out:
        _expect_others(len(zoo))
        table.fill_diagonal_(-1)
    return table.amax(1)


def median_iou(networks: Bool[Tensor, "networks examples"]) -> float:
    """Median IoU over all pairs of networks; 1 for one network alone."""
    at = torch.triu_indices(len(networks), len(networks), 1)
    return float(iou(networks, networks)[at[0], at[1]].median()) if at.shape[1] else 1.0


@dataclass(frozen=True, eq=False)
class Places:
    """Where networks lie among all that their symmetry makes of them.

    Attributes:
        tensors: (networks, *shape), balanced where the symmetry has scales; running statistics are left out.
        spec: the symmetry; None where weights are compared as they are.
    """

    tensors: Stacked
    spec: SymmetrySpec | None = None

    @classmethod
    def of(cls, networks: Stacked, spec: SymmetrySpec | None = None) -> "Places":
        """Balance networks (see `balance`), where that is a symmetry of theirs.

        Networks that lack weights of the spec are compared as they are: the rest, which all share, holds their order fixed.
        """
        networks = {name: widened(tensor) for name, tensor in networks.items()}
        if spec is None or any(name not in networks for name in spec.tensors if name not in spec.statistics):
            return cls(networks)
        count = length(networks)  # running statistics may be left to be measured, and do not count
        kept = {name: networks[name] if name in networks else torch.ones(count, *spec.shape(name)) for name in spec.tensors}
        if any(group.symmetry == "scale" for group in spec.groups.values()):
            rows = [{name: tensor[k] for name, tensor in kept.items()} for k in range(length(kept))]
            moved = [act(balance(row, spec), row) for row in rows]
            kept = {name: torch.stack([row[name] for row in moved]) for name in kept}
        return cls(kept, spec)

    def __len__(self) -> int:
        return length(self.tensors)

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        """One network."""
        return {name: tensor[at] for name, tensor in self.tensors.items()}

    @cached_property
    def flat(self) -> Float[Tensor, "networks params"]:
        """All weights that count, in rows."""
        return self.rows(self.tensors)

    def rows(self, names: Iterable[str]) -> Float[Tensor, "networks params"]:
        """The weights of some tensors in rows, running statistics left out."""
        statistics = self.spec.statistics if self.spec else frozenset()
        return torch.cat([self.tensors[name].flatten(1).double() for name in names if name not in statistics], 1)

    @cached_property
    def sorted(self) -> Float[Tensor, "networks params"]:
        """What no permutation changes: each tensor's weights, sorted along all axes together that may be permuted.

        By the rearrangement inequality two rows are no further apart than the networks are after any permutation. Signs are taken off
        where one may be flipped.
        """
        if self.spec is None:
            return self.flat
        layout, rows = Layout.of(self.spec), []
        slots = layout.unfold(self.tensors)
        for slot in layout.slots:
            if slot.tensor in self.spec.statistics:
                continue
            values = slots[slot.key].double()
            groups = [layout.groups[name] for name in slot.groups]
            if any(group.symmetry not in ("none", "scale") for group in groups):
                values = values.abs()
            movable = [1 + k for k, group in enumerate(groups) if group.kind == "permutable"]
            if movable:
                fixed = [k for k in range(values.ndim) if k not in movable]
                values = values.permute(*fixed, *movable).flatten(len(fixed)).sort(-1).values
            rows.append(values.flatten(1))
        return torch.cat(rows, 1)


def nearest_distance(
    made: Places | Stacked, zoo: Places | Stacked, spec: SymmetrySpec | None = None, *, leave_one_out: bool = False, candidates: int = 4
) -> Float[Tensor, " made"]:
    """L2 distance of each network to the nearest of a zoo, modulo permutations, signs and scales.

    Matching each to all of the zoo would take made x zoo searches. Instead each starts with the least distance as the weights are,
    and is matched to a few: the nearest as they are, then the nearest by what no permutation changes (`Places.sorted`), which is a
    lower bound and leaves out all that cannot be nearer. So what is returned is never below the true distance, and exact where no
    candidates were left and the search (one descent of weight matching, without shakes) is.

    Args:
        made: what is judged; tensors are balanced first.
        zoo: what it is compared with.
        spec: the symmetry of both; None compares weights as they are. Not looked at for `Places`, which know theirs.
        leave_one_out: network k of both is the same one, and is not compared with itself.
        candidates: networks of the zoo that each is matched to at most.

    Raises:
        GenerationError: the zoo has one network alone and is compared with itself.
    """
    left, right = (one if isinstance(one, Places) else Places.of(one, spec) for one in (made, zoo))
    shared = [name for name in left.tensors if name in right.tensors]
    plain = _apart(left.rows(shared), right.rows(shared))
    if leave_one_out:
        _expect_others(len(right))
        plain.fill_diagonal_(torch.inf)
    best = plain.amin(1)
    if left.spec is None or right.spec is None:
        return best
    least = _apart(left.sorted, right.sorted)
    if leave_one_out:
        least.fill_diagonal_(torch.inf)
    for k in range(len(left)):
        for j in _candidates(plain[k], least[k], candidates):
            if least[k, j] < best[k]:
                best[k] = min(float(best[k]), _matched(right[j], left[k], left.spec))
    return best


def median_distance(networks: Places, *, generator: torch.Generator, pairs: int = PAIRS) -> float:
    """Median distance over pairs of networks modulo their symmetry, of so many pairs drawn at random; 0 for one network alone."""
    at = torch.triu_indices(len(networks), len(networks), 1)
    if not at.shape[1]:
        return 0.0
    drawn = at[:, torch.randperm(at.shape[1], generator=generator)[:pairs]]
    found = (networks.flat[drawn[0]] - networks.flat[drawn[1]]).norm(dim=1)
    if networks.spec is not None:
        for k, (i, j) in enumerate(drawn.T.tolist()):
            found[k] = min(float(found[k]), _matched(networks[i], networks[j], networks.spec))
    return float(found.median())


def _candidates(plain: Tensor, least: Tensor, count: int) -> list[int]:
    """Whom to match: the nearest as they are and by what does not move, by turns."""
    turns = torch.stack([plain.argsort(), least.argsort()], 1).flatten().tolist()
    return list(dict.fromkeys(turns))[:count]


def _matched(a: dict[str, Tensor], b: dict[str, Tensor], spec: SymmetrySpec) -> float:
    return match(a, b, spec, generator=torch.Generator().manual_seed(0), shakes=0).l2_after


def _apart(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _expect_others(count: int) -> None:
    if count < 2:
        raise GenerationError("a zoo of one network has no other to compare it with; give at least two checkpoints")


__all__ = [
    "Places",
    "calibration_error",
    "classes_of",
    "iou",
    "length",
    "logits",
    "median_distance",
    "median_iou",
    "nearest_distance",
    "nearest_iou",
    "wrong",
]
