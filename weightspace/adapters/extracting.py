"""An adapter taken out of a fine-tuned model: the best low-rank approximation of what each tensor changed by."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from weightspace import dtypes
from weightspace.adapters.adapter import widened
from weightspace.adapters.keys import WRAPPER
from weightspace.adapters.layout import Layout
from weightspace.checkpoint import Checkpoint
from weightspace.errors import MergeError, one_line
from weightspace.naming import wrapper_prefix

_EMBEDDING = re.compile(r"(\w*_)?embeddings?|embed(_tokens|_in|_positions)?|(tok|pos|position|token_type)_embed\w*|wte|wpe|shared")


@dataclass
class _Taken:
    """What has been taken out so far.

    Attributes:
        tensors: the adapter's, under PEFT's names.
        ranks: of each module's update.
        kept: rank, share of the squared change that is kept, and norm of the change, by tensor.
        left: norm of the change of each tensor that has no low-rank update.
        transposed: modules whose weight is (in, out).
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    kept: dict[str, dict[str, float]] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)


def extract_adapter(
    base: Checkpoint,
    tuned: Checkpoint,
    *,
    rank: int | None = None,
    energy: float | None = None,
    targets: str | None = None,
    alpha: float | None = None,
    keep_whole: bool = False,
) -> Checkpoint:
    """Approximate a fine-tuning by a LoRA: the truncated singular value decomposition of each weight's change.

    By Eckart and Young, no update of that rank is nearer. One tensor is in memory at a time, and the adapter so far. The root of the singular
    values goes to either factor. A kernel's axes after the first are laid into columns. Tensors that are the same in both get no update.

    Args:
        base: where the fine-tuning began.
        tuned: where it ended; the same names.
        rank: largest rank of an update; a tensor that has less gets less.
        energy: the least share of the squared change that an update keeps; with `rank`, whichever is reached first.
        targets: a regular expression; only tensors in whose name it is found get an update.
        alpha: as in the adapter's config, which scales by alpha / rank; by default the scale is 1.
        keep_whole: whether what has no low-rank update (biases, norms, new heads) goes into the adapter as it is, as PEFT's
            `modules_to_save` and trained biases.

    Returns:
        A checkpoint of kind `adapter` with PEFT's names and, in its metadata, `adapter_config` and `extraction`: for each tensor the
        rank, the kept energy and the norm of the change, and the norms of the changes that were left out.

    Raises:
        MergeError: neither rank nor energy, values out of range, shapes that differ, or nothing to take out.
    """
    search = _checked(rank, energy, targets)
    if not set(base.info) & set(tuned.info):
        raise MergeError("base and fine-tuned model have no tensor name in common; open two checkpoints of one architecture")
    taken, layout, prefix = _Taken(), Layout(tuned.info), wrapper_prefix(tuned.info)
    for name, info in tuned.info.items():
        change = _change(base, tuned, name)
        if change is None or info.alias_of is not None:
            continue
        module = name.removesuffix(".weight").removeprefix(prefix)
        if name in base.info and name.endswith(".weight") and _is_matrix(change) and search.search(name):
            is_embedding = change.ndim == 2 and bool(_EMBEDDING.fullmatch(module.rpartition(".")[2]))
            _take(taken, name, module, change, is_embedding, is_embedding or layout.is_transposed(name), rank, energy, alpha)
        else:
            taken.left[name] = float(torch.linalg.vector_norm(change))
    whole = _whole(taken, tuned, prefix) if keep_whole else {}
    if not taken.ranks and not whole:
        raise MergeError("nothing to take out: no weight of the fine-tuned model differs from the base's; check targets= and the two models")
    made = Checkpoint.of(taken.tensors)
    info = made.info | {key: tuned.info[name].renamed(key) for key, name in whole.items()}
    return Checkpoint(info, {}, "memory")
