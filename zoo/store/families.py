"""Who may stand as the base of whom: parents by the catalog, what is declared, what shares tensors, what has weights close by."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.storage import part, read
from weightspace.zoo.store.members import Member

Sketch = npt.NDArray[np.float32]

MOST = 4  # bases that are tried for a model
NEAREST = 2  # of them by their weights
FAR = 1.0  # distance over norm: two networks of independent seeds are 1.4 apart
_TENSORS, _NUMBERS, _REMEMBERED = 8, 128, 512  # of a sketch; sketches that are kept of an architecture


class Families:
    """What the catalog tells of descent and of shared tensors, and sketches of weights that were seen."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, chosen: Sequence[Member]) -> None:
        self.by_number = {one.number: one for one in chosen}
        self.by_id = {one.id: one for one in chosen}
        connection.register("chosen", pa.table({"model_id": pa.array(self.by_number, pa.int32())}))
        edges = connection.execute(
            "select child_id, parent_id from edges semi join chosen on child_id = model_id where parent_id <> child_id order by confidence desc"
        ).fetchall()
        self.parents: dict[int, list[int]] = defaultdict(list)
        for child, parent in edges:
            if parent in self.by_number and parent not in self.parents[child]:
                self.parents[child].append(parent)
        named: dict[str, int] = {one.name: one.number for one in chosen}
        tags = "select value, model_id from tags semi join chosen using (model_id) where key = 'hub'"
        named |= {value.removeprefix("hf:").partition("@")[0]: number for value, number in connection.execute(tags).fetchall()}
        for one in chosen:
            base = named.get(one.base or "")
            if base is not None and base != one.number and base not in self.parents[one.number]:
                self.parents[one.number].append(base)
        # Only contents that stand more than once: those alone can be referred to.
        self.shared: dict[int, dict[str, bytes]] = defaultdict(dict)
        rows = connection.execute(
            """with held as (select distinct model_id, name, tensor_id from model_tensors semi join chosen using (model_id) where alias_of is null)
               select model_id, held.name, hash from held join tensors using (tensor_id)
               where tensor_id in (select tensor_id from held group by tensor_id having count(*) > 1)"""
        ).fetchall()
        for number, name, digest in rows:
            self.shared[number][name] = bytes(digest)
        connection.unregister("chosen")
        self.sketches: dict[int, dict[str, Sketch]] = defaultdict(dict)

    def ordered(self, chosen: Sequence[Member]) -> Iterator[Member]:
        """Parents before their children, otherwise as they were catalogued; circles are cut where they are met."""
        wanted = {one.number for one in chosen}
        done: set[int] = set()
        for one in chosen:
            waiting = [one.number]
            while waiting:
                number = waiting[-1]
                before = [
                    parent for parent in self.parents.get(number, ()) if parent in wanted and parent not in done and parent not in waiting
                ]
                if before:
                    waiting.append(before[0])
                    continue
                waiting.pop()
                if number not in done:
                    done.add(number)
                    yield self.by_number[number]

    def candidates(self, member: Member, sketch: Sketch | None, owners: dict[bytes, tuple[str, str]]) -> list[str]:
        """Ids of models that a model may come from, the likeliest first.

        Args:
            member: the model.
            sketch: of its weights.
            owners: who holds tensors that stand in several models.
        """
        declared = [self.by_number[parent].id for parent in self.parents.get(member.number, ())]
        sharing = Counter(owners[digest][0] for digest in self.shared.get(member.number, {}).values() if digest in owners)
        near = self._near(member, sketch) if sketch is not None else []
        found = dict.fromkeys([*declared, *(model for model, _ in sharing.most_common(1)), *near])
        found.pop(member.id, None)
        return list(found)[:MOST]

    def _near(self, member: Member, sketch: Sketch) -> list[str]:
        known = {
            model: one for model, one in self.sketches[member.architecture].items() if one.shape == sketch.shape and model != member.id
        }
        if not known:
            return []
        distances = np.linalg.norm(np.stack(list(known.values())) - sketch, axis=1) / (np.linalg.norm(sketch) + 1e-30)
        models = list(known)
        return [models[at] for at in np.argsort(distances)[:NEAREST] if distances[at] < FAR]

    def remember(self, member: Member, sketch: Sketch) -> None:
        """Let a model be found as the base of others."""
        known = self.sketches[member.architecture]
        known[member.id] = sketch
        if len(known) > _REMEMBERED:
            del known[next(iter(known))]


def sketch_of(checkpoint: Checkpoint) -> Sketch:
    """A few numbers from the middle of the largest tensors, the same ones for every model of an architecture."""
    largest = sorted((one for one in checkpoint.info.values() if one.is_parameter), key=lambda one: (-one.nbytes, one.name))[:_TENSORS]
    return np.concatenate([np.zeros(0, np.float32), *(_numbers(checkpoint, one) for one in largest)])


def _numbers(checkpoint: Checkpoint, info: TensorInfo) -> Sketch:
    kind = dtypes.dtype(info.dtype)
    if kind.kind != "float" or kind.bits < 8:
        return np.zeros(0, np.float32)
    width = int(kind.bits) // 8
    count = min(_NUMBERS, info.numel)
    raw = np.frombuffer(read(part(checkpoint.storages[info.name], (info.numel - count) // 2 * width, count * width)), np.uint8)
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.asarray(dtypes.decode(raw, kind), np.float32), posinf=0, neginf=0)


__all__ = ["Families", "Sketch", "sketch_of"]
