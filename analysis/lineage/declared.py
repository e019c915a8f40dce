"""What is said of models, whatever their weights: parents that cards, adapter configurations and recipes name, and steps of one run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.entry import Entry
from weightspace.analysis.lineage.evidence import Finding
from weightspace.analysis.lineage.probability import CERTAIN, DECLARED, REFUTED, STRANGERS, shared_probability
from weightspace.analysis.lineage.tree import Relation

_PREFIX = 8  # digits of an id that name a model
_SAID = 64  # elements from which equal tensors are no chance


def declared(entries: Sequence[Entry]) -> dict[int, list[Relation]]:
    """The parents that something names, by number of the child; what is named and not among the entries is left out."""
    at = {entry.name: number for number, entry in enumerate(entries)}
    made: dict[int, list[Relation]] = {}
    for child, entry in enumerate(entries):
        for told in entry.declared:
            parent = _number(told.parent, at, entries)
            if parent is None or parent == child or any(one.first == parent for one in made.get(child, ())):
                continue
            reason = Reason("declared", f"{told.source} names {entries[parent].name} as its parent")
            finding = Finding(told.kind, DECLARED, CERTAIN, reason)
            made.setdefault(child, []).append(Relation(parent, child, (finding,), 0.0))
    return made


def _number(name: str, at: Mapping[str, int], entries: Sequence[Entry]) -> int | None:
    """Which entry a name means: its own, the end of it (a card names an organisation, too), or the begin of its id."""
    if name in at:
        return at[name]
    ends = [number for other, number in at.items() if name.endswith(f"/{other}") or other.endswith(f"/{name}")]
    if len(ends) == 1:
        return ends[0]
    if len(name) >= _PREFIX and set(name) <= set("0123456789abcdef"):
        starts = [number for number, entry in enumerate(entries) if entry.content.startswith(name)]
        return starts[0] if len(starts) == 1 else None
    return None


def trajectories(entries: Sequence[Entry]) -> Iterator[Relation]:
    """Checkpoints of one run, each the parent of the next."""
    runs: dict[str, list[tuple[int, int]]] = {}
    for number, entry in enumerate(entries):
        if entry.run is not None and entry.step is not None:
            runs.setdefault(entry.run, []).append((entry.step, number))
    for run, steps in runs.items():
        for (before, first), (after, second) in zip(sorted(steps), sorted(steps)[1:], strict=False):
            if before < after:
                reason = Reason("trajectory", f"steps {before} and {after} of run {run}", {"from": float(before), "to": float(after)})
                yield Relation(first, second, (Finding("continued", DECLARED, CERTAIN, reason),), 0.0)


def supported(told: Relation, found: Sequence[Relation]) -> Relation:
    """What is declared, with what the weights say of the same pair; strangers' weights speak against it."""
    same = next((one for one in found if {one.first, one.second} == {told.first, told.second}), None)
    if same is None:
        return told
    finding = told.finding if same.finding.probability > STRANGERS else replace(told.finding, probability=REFUTED)
    return Relation(told.first, told.second, (finding, *same.findings), same.distance, told.weight, same.step)


def by_hash(entries: Sequence[Entry]) -> Iterator[Relation]:
    """Copies and models that share tensors, from hashes alone."""
    contents = {number: _contents(entry) for number, entry in enumerate(entries)}
    owners: dict[bytes, list[int]] = {}
    for number, tensors in contents.items():
        for digest in tensors:
            owners.setdefault(digest, []).append(number)
    pairs = {(a, b) for numbers in owners.values() for a, b in pairwise(numbers)}
    for a, b in sorted(pairs):
        shared = sum(size for digest, size in contents[a].items() if digest in contents[b])
        share = shared / max(1, min(sum(contents[a].values()), sum(contents[b].values())))
        is_copy = contents[a].keys() == contents[b].keys()
        reason = Reason("shared tensors", f"{share:.0%} of the weights lie in equal tensors", {"shared": share})
        kind, probability = ("copy", CERTAIN) if is_copy else ("finetune", shared_probability(share))
        yield Relation(a, b, (Finding(kind, probability, 0.5, reason, is_directed=not is_copy, is_exact=is_copy),), 1 - share)


def _contents(entry: Entry) -> dict[bytes, int]:
    """Hashes of the tensors with at least `_SAID` elements, and their sizes."""
    info = entry.checkpoint.info
    return {digest: info[name].numel for name, digest in entry.checkpoint.tensor_hashes.items() if info[name].numel >= _SAID}
