"""Histories drawn by a seed: which models there are, what each is made from, and by which edits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tests.benchmarks.lineage_edits import CASTS, COPIES, Merging, pick
from tests.benchmarks.lineage_networks import ARCHITECTURES, CLASSES, Architecture, Job

DEPTH = 4  # generations after the first
ROOT_RATES = {"perceptron": 0.25, "wide": 0.4, "convolutional": 0.2}
"""High, so that networks of one seed and one task part: they end about as far from one another as each is from zero."""
PREFIXES = ("module.", "model.", "net.body.")
LOSSY = frozenset({"pruned, smallest", "pruned, by lot", "8 bits", "4 bits", *CASTS})
MERGES = ("linear", "slerp", "task_arithmetic", "ties", "aligned")
TRAININGS = ("same task, few steps", "same task, many steps", "other task, few steps", "other task, many steps", "lora")
SHARES: dict[tuple[str, ...], float] = {
    ("same task, few steps",): 7,
    ("same task, many steps",): 12,
    ("other task, few steps",): 6,
    ("other task, many steps",): 12,
    ("lora",): 12,
    ("pruned, smallest",): 5,
    ("pruned, by lot",): 5,
    ("8 bits",): 5,
    ("4 bits",): 4,
    ("float16",): 3,
    ("bfloat16",): 3,
    ("permuted",): 5,
    ("permuted and rescaled",): 5,
    ("renamed",): 2,
    ("other container",): 2,
    ("linear",): 4,
    ("slerp",): 3,
    ("task_arithmetic",): 2,
    ("ties",): 3,
    ("aligned",): 2,
    ("other task, many steps", "8 bits"): 1,
    ("same task, few steps", "pruned, smallest"): 1,
    ("lora", "bfloat16"): 1,
    ("pruned, smallest", "8 bits"): 1,
    ("permuted", "bfloat16"): 1,
    ("permuted and rescaled", "same task, many steps"): 1,
    ("other task, few steps", "permuted"): 1,
    ("pruned, smallest", "permuted and rescaled"): 1,
    ("linear", "bfloat16"): 1,
}
"""How often each edit, or row of edits of which only the last result is kept, makes a new model."""


@dataclass(frozen=True)
class Plan:
    """One model to be made; `frame` tells orders of hidden units apart; what is coarse is pruned or rounded already."""

    number: int
    family: int
    edits: tuple[str, ...]
    parents: tuple[int, ...]
    depth: int
    architecture: Architecture
    seed: int
    job: Job
    frame: int
    is_coarse: bool = False
    prefix: str = ""
    base: int | None = None
    merging: Merging | None = None
    others: tuple[int, ...] = ()

    @property
    def is_trained(self) -> bool:
        return len(self.edits) <= 1 and (not self.edits or self.edits[0] in TRAININGS)


def planned(models: int, names: Sequence[str], draw: torch.Generator) -> list[Plan]:
    """Draw roots first, so that merges can reach into other families, then children of each."""
    sizes = _sizes(models, draw)
    plans: list[Plan] = []
    while len(plans) < len(sizes):
        alike = (1, 1, 1, 2, 3)[_below(5, draw)]
        architecture, seed = ARCHITECTURES[names[_below(len(names), draw)]], _below(1 << 30, draw)
        images = ("clean", "clean", "clean", "turned", "inverted")[_below(5, draw)]
        for _ in range(min(alike, len(sizes) - len(plans))):
            seen = images if _below(4, draw) else "noisy"
            job = Job(_below(1 << 30, draw), 1000, ROOT_RATES[architecture.name], images=seen)
            plans.append(Plan(len(plans), len(plans), (), (), 0, architecture, seed, job, len(plans)))
    roots = tuple(plans)
    for root, size in zip(roots, sizes, strict=True):
        members = [root]
        while len(members) < size:
            members.append(_child(members, roots, len(plans), draw))
            plans.append(members[-1])
    return plans


def _sizes(models: int, draw: torch.Generator) -> list[int]:
    """Sizes of families: a few singles, the others about twenty on average."""
    sizes: list[int] = []
    while sum(sizes) < models:
        sizes.append(1 if _below(5, draw) == 0 else 8 + _below(min(30, max(2, models // 8)), draw))
    sizes[-1] -= sum(sizes) - models
    return sizes


def _child(members: Sequence[Plan], roots: Sequence[Plan], number: int, draw: torch.Generator) -> Plan:
    """Draw how a new member comes from members that are there; what they cannot give becomes a fine-tune."""
    edits = list(SHARES)[int(torch.multinomial(torch.tensor(list(SHARES.values()), dtype=torch.float64), 1, generator=draw))]
    if edits[0] in MERGES:
        found = _merge(edits, members, roots, number, draw)
        if found is not None:
            return found
        edits = ("same task, many steps",)
    fitting = [one for one in members if one.depth < DEPTH and not (one.is_coarse and set(edits) & LOSSY and edits[0] not in TRAININGS)]
    parent = fitting[_below(len(fitting), draw)]
    moved = set(edits) & {"permuted", "permuted and rescaled"}
    return replace(
        parent, number=number, edits=edits, parents=(parent.number,), depth=parent.depth + 1, job=_job(edits, parent.job, draw),
        frame=number if moved else parent.frame, prefix=PREFIXES[_below(3, draw)] if "renamed" in edits else parent.prefix,
        is_coarse=_coarse(edits, parent.is_coarse), base=None, merging=None, others=(),
    )  # fmt: skip


def _coarse(edits: Sequence[str], before: bool) -> bool:
    """Whether a row of edits leaves a model pruned or rounded: training undoes it, copying keeps it."""
    for edit in edits:
        before = edit in LOSSY or (before and edit in COPIES)
    return before


def _merge(edits: tuple[str, ...], members: Sequence[Plan], roots: Sequence[Plan], number: int, draw: torch.Generator) -> Plan | None:
    """Draw a merge of two or three members in one frame, or of a root with those of other families; None where there are too few."""
    method = edits[0]
    usable = [one for one in members if one.is_trained and one.depth < DEPTH and not one.prefix and one.frame == members[0].frame]
    base = None
    if method == "aligned":
        strangers = [one for one in roots if one.architecture == members[0].architecture and one.family != members[0].family]
        chosen = [usable[0], strangers[_below(len(strangers), draw)]] if strangers else []
    else:
        if method in ("task_arithmetic", "ties"):
            tuned = [[one for one in usable if one.parents == (parent.number,)] for parent in usable]
            usable = max(tuned, key=len)
            base = usable[0].parents[0] if usable else None
        order = torch.randperm(len(usable), generator=draw).tolist()
        chosen = [usable[at] for at in order[: 2 if method == "slerp" else 2 + _below(2, draw)]]
    if len(chosen) < 2:
        return None
    first = chosen[0]
    return replace(
        first, number=number, edits=edits, parents=tuple(one.number for one in chosen), depth=max(one.depth for one in chosen) + 1,
        is_coarse=_coarse(edits, False), base=base, merging=Merging(method, _merge_weights(method, len(chosen), draw)),
        others=tuple(one.family for one in chosen[1:] if one.family != first.family),
    )  # fmt: skip


def _merge_weights(method: str, count: int, draw: torch.Generator) -> tuple[float, ...]:
    if method == "slerp":
        t = pick((0.3, 0.4, 0.5, 0.6, 0.7), draw)
        return 1 - t, t
    if method in ("task_arithmetic", "ties"):
        return tuple(pick((0.3, 0.5, 0.7), draw) for _ in range(count))
    if method == "aligned" or _below(2, draw):
        return (1 / count,) * count
    rest = pick((0.3, 0.4, 0.6, 0.7), draw)
    return rest, *[(1 - rest) / (count - 1)] * (count - 1)


def _job(edits: tuple[str, ...], before: Job, draw: torch.Generator) -> Job:
    """The task of the parent, or another one that is near it: other labels, fewer classes, changed images."""
    job = replace(before, seed=_below(1 << 30, draw), decay=5e-3 if _below(2, draw) else 0.0, rank=0)
    kind = next((edit for edit in edits if edit in TRAININGS), "")
    if "other task" in kind or kind == "lora":
        change = _below(3, draw)
        if change == 0:
            job = replace(job, labels=tuple(torch.randperm(CLASSES, generator=draw).tolist()))
        elif change == 1:
            job = replace(job, classes=tuple(torch.randperm(CLASSES, generator=draw)[:4].sort().values.tolist()))
        else:
            job = replace(job, images=("noisy", "blurred")[_below(2, draw)])
    few, rate = "few" in kind, pick((0.005, 0.01, 0.03), draw)
    steps = (10, 40)[_below(2, draw)] if few else (120, 300)[_below(2, draw)]
    return replace(job, steps=steps, learning_rate=rate, rank=(1, 2, 4, 8)[_below(4, draw)] if kind == "lora" else 0)


def _below(top: int, draw: torch.Generator) -> int:
    return int(torch.randint(top, (), generator=draw))
