"""Families of models with known history: what descends from what, and how, drawn by a seed and made on one core.

A family grows from one trained network. Several families may start from one seed and be trained apart, which makes them strangers whose
weights are alike; networks of a few architectures and mostly the same data make the rest. `python -m tests.benchmarks.lineage_families
FOLDER --models 500 --seed 1` writes a zoo into a folder; names of files say nothing.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.lineage_edits import CASTS, COPIES, EDITS, merged
from tests.benchmarks.lineage_history import DEPTH, TRAININGS, Plan, planned
from tests.benchmarks.lineage_networks import ARCHITECTURES, StateDict, initial, train
from weightspace.formats.safetensors import save


@dataclass(frozen=True)
class Edge:
    """One model that came from another.

    Attributes:
        parent, child: names.
        kind: the edits, joined by ' + '.
        is_directed: whether anything tells which was first.
        weight: of the parent in a merge, where it is one number.
        is_required: False for the base of a merge of differences: naming it is right, leaving it out is no mistake.
    """

    parent: str
    child: str
    kind: str
    is_directed: bool = True
    weight: float | None = None
    is_required: bool = True


@dataclass(frozen=True)
class Member:
    """What is true of one model.

    Attributes:
        file: its path within the folder.
        families: that it belongs to; two for a merge across families.
        kind: how it was made: `root`, or the edits.
        orbit: number that it shares with all that compute the same: copies, permuted and rescaled ones.
        near: number that it shares with those and with their casts: parents that no distance tells apart.
        depth: generations since its root.
        architecture: name.
        seed: of the initialisation of its root: families that share one were trained apart.
    """

    file: str
    families: tuple[int, ...]
    kind: str
    orbit: int
    near: int
    depth: int
    architecture: str
    seed: int


@dataclass(frozen=True)
class Truth:
    """The history of a zoo: members by name, and edges."""

    members: Mapping[str, Member]
    edges: tuple[Edge, ...]

    def write(self, path: Path) -> None:
        """Write as JSON."""
        members = {name: asdict(member) for name, member in self.members.items()}
        path.write_text(json.dumps({"members": members, "edges": [asdict(edge) for edge in self.edges]}, indent=1))

    @classmethod
    def read(cls, path: Path) -> "Truth":
        """Read what `write` wrote."""
        text = json.loads(path.read_text())
        members = {name: Member(**{**one, "families": tuple(one["families"])}) for name, one in text["members"].items()}
        return cls(members, tuple(Edge(**one) for one in text["edges"]))


def make(folder: Path, models: int = 500, seed: int = 0, architectures: Sequence[str] = tuple(ARCHITECTURES)) -> Truth:
    """Draw a history, make its models and write them into a folder, `truth.json` beside them."""
    draw = torch.Generator().manual_seed(seed)
    plans = planned(models, architectures, draw)
    states: dict[int, StateDict] = {}
    for depth in range(DEPTH + 1):
        level = [plan for plan in plans if plan.depth == depth]
        for plan, state in zip(level, _made(level, states, seed), strict=True):
            states[plan.number] = state
    folder.mkdir(parents=True, exist_ok=True)
    names = [hashlib.blake2b(f"{seed}/{plan.number}".encode(), digest_size=5).hexdigest() for plan in plans]
    files = [_write(folder, name, plan, states[plan.number]) for name, plan in zip(names, plans, strict=True)]
    truth = _truth(plans, names, files)
    truth.write(folder / "truth.json")
    return truth


def _made(level: Sequence[Plan], states: Mapping[int, StateDict], seed: int) -> list[StateDict]:
    """Make the models of one generation; all that is trained of one architecture is trained together."""
    made = [_start(plan, states) for plan in level]
    for turn in range(2):
        trained = [at for at, plan in enumerate(level) if _trains(plan, turn)]
        for architecture in ARCHITECTURES.values():
            chosen = [at for at in trained if level[at].architecture == architecture]
            ended = train(architecture, [made[at] for at in chosen], [level[at].job for at in chosen]) if chosen else []
            for at, state in zip(chosen, ended, strict=True):
                made[at] = state
        for at, plan in enumerate(level):
            if plan.edits[turn : turn + 1] and plan.edits[turn] in EDITS:
                draw = torch.Generator().manual_seed(seed * 100_003 + 2 * plan.number + turn)
                made[at] = EDITS[plan.edits[turn]](made[at], draw)
    return made


def _trains(plan: Plan, turn: int) -> bool:
    return turn == 0 if not plan.edits else plan.edits[turn : turn + 1] != () and plan.edits[turn] in TRAININGS


def _start(plan: Plan, states: Mapping[int, StateDict]) -> StateDict:
    """What the first edit starts from: an initialisation, the parent (in full precision where it is trained), or the merge."""
    if not plan.parents:
        return initial(plan.architecture, plan.seed)
    if plan.merging is not None:
        base = None if plan.base is None else states[plan.base]
        return merged(plan.merging, [states[parent] for parent in plan.parents], base)
    parent = states[plan.parents[0]]
    is_trained = any(edit in TRAININGS for edit in plan.edits)
    return {name: tensor.float() for name, tensor in parent.items()} if is_trained else parent


def _write(folder: Path, name: str, plan: Plan, state: StateDict) -> str:
    """Write one model; a copy in another container is a zip of numpy arrays or a file of torch's."""
    state = {plan.prefix + key: tensor.contiguous() for key, tensor in state.items()}
    if "other container" not in plan.edits:
        return save(state, folder / f"{name}.safetensors").name
    if plan.number % 2 or any(tensor.dtype == torch.bfloat16 for tensor in state.values()):
        torch.save(state, folder / f"{name}.pt")
        return f"{name}.pt"
    np.savez(folder / f"{name}.npz", allow_pickle=False, **{key: tensor.numpy() for key, tensor in state.items()})
    return f"{name}.npz"


def _truth(plans: Sequence[Plan], names: Sequence[str], files: Sequence[str]) -> Truth:
    orbits, near = _leaders(plans, COPIES), _leaders(plans, COPIES | CASTS)
    across: dict[int, tuple[int, ...]] = {}
    for plan in plans:
        inherited = [family for parent in plan.parents for family in across.get(parent, ())]
        across[plan.number] = tuple(sorted({plan.family, *plan.others, *inherited}))
    members: dict[str, Member] = {}
    for plan, name, file in zip(plans, names, files, strict=True):
        orbit, close = orbits[plan.number], near[plan.number]
        members[name] = Member(file, across[plan.number], _kind(plan), orbit, close, plan.depth, plan.architecture.name, plan.seed)
    return Truth(members, tuple(edge for plan in plans for edge in _edges(plan, names)))


def _leaders(plans: Sequence[Plan], still: frozenset[str]) -> list[int]:
    """For each model, the first of those that such edits alone lead to it from; parents come before their children."""
    leader = list(range(len(plans)))
    for plan in plans:
        if plan.edits and set(plan.edits) <= still:
            leader[plan.number] = leader[plan.parents[0]]
    return leader


def _kind(plan: Plan) -> str:
    return " + ".join(plan.edits) or "root"


def _edges(plan: Plan, names: Sequence[str]) -> Iterator[Edge]:
    weights = plan.merging.weights if plan.merging is not None and plan.merging.method != "ties" else ()
    for at, parent in enumerate(plan.parents):
        is_directed = not set(plan.edits) <= COPIES
        yield Edge(names[parent], names[plan.number], _kind(plan), is_directed, weights[at] if weights else None)
    if plan.base is not None:
        yield Edge(names[plan.base], names[plan.number], _kind(plan), is_required=False)


def main() -> None:
    """Write a zoo into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    truth = make(given.folder, given.models, given.seed)
    print(f"{len(truth.members)} models, {len(truth.edges)} edges in {given.folder}")


if __name__ == "__main__":
    main()
