"""An adapter taken out of a fine-tuned model: the best low-rank approximation of what each weight changed by."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from weightspace import dtypes
from weightspace.adapters.keys import WRAPPER
from weightspace.adapters.layout import Layout
from weightspace.adapters.ties import tied_with
from weightspace.checkpoint import Checkpoint
from weightspace.dtypes import widened
from weightspace.errors import MergeError, one_line
from weightspace.naming import wrapper_prefix

# Modules that are embeddings by what libraries call them: PEFT names their factors otherwise.
_EMBEDDING = re.compile(r"(\w+_)?embeddings?|embed(_tokens|_in|_positions)?|tok_embeddings|wte|wpe|shared")


@dataclass(frozen=True)
class _Taken:
    """The update of one module.

    Attributes:
        name: of the tensor.
        module: that has it, without a wrapper's prefix.
        a: (rank, in) or (rank, in, kernel...).
        b: (out, rank) or (out, rank, 1...), not yet divided by the scale.
        kept: share of the squared change that the update has.
        norm: of the change.
        is_embedding: whether the module is an embedding.
        is_transposed: whether its weight is (in, out).
        tied: modules that share the weight, whose updates are the same.
    """

    name: str
    module: str
    a: Tensor
    b: Tensor
    kept: float
    norm: float
    is_embedding: bool
    is_transposed: bool
    tied: tuple[str, ...]

    @property
    def rank(self) -> int:
        return self.a.shape[0]


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

    No update of that rank is nearer (Eckart and Young). One tensor is in memory at a time, beside the adapter so far. Either
    factor gets the root of the singular values. A kernel's axes after the first are laid into columns. A weight that is the
    same in both gets no update.

    Args:
        base: where the fine-tuning began.
        tuned: where it ended; of the same names.
        rank: the largest rank of an update; a weight that has less gets less.
        energy: the share of the squared change that an update shall keep; with `rank`, whichever is reached first ends it.
        targets: a regular expression; only weights in whose name it is found get an update.
        alpha: as in the adapter's config, which scales by alpha / rank; by default the scale is 1.
        keep_whole: whether what has no low-rank update (biases, norms, new heads) goes into the adapter as it is, as PEFT's
            `modules_to_save` and trained biases.

    Returns:
        A checkpoint of kind `adapter` with PEFT's names and, in its metadata, `adapter_config` and `extraction`: rank, kept
        energy and norm of each update, and the norms of the changes that were left out.

    Raises:
        MergeError: neither rank nor energy or one out of range, shapes that differ, or nothing to take out.
    """
    wanted = _checked(base, tuned, rank, energy, targets)
    layout, prefix = Layout(tuned.info), wrapper_prefix(tuned.info)
    names, taken = _taken_names(tuned), list[_Taken]()
    left: dict[str, float] = {}
    for name, one in tuned.info.items():
        if name not in names or dtypes.dtype(one.dtype).kind not in ("float", "quantized"):
            continue
        change = _change(base, tuned, name)
        norm = float(torch.linalg.vector_norm(change))
        if norm == 0 and name in base.info:
            continue
        if name in base.info and name.endswith(".weight") and change.ndim > 1 and min(change.flatten(1).shape) > 1 and wanted.search(name):
            taken.append(_take(change, name, tuned, layout, rank, energy))
        else:
            left[name] = norm
    tensors = {key: tensor for one in taken for key, tensor in _named(one, alpha).items()}
    whole = _whole(taken, left, tuned, prefix) if keep_whole else {}
    if not tensors and not whole:
        raise MergeError("nothing to take out: no weight that was asked for differs between the two models; check targets= and the models")
    made = Checkpoint.of(tensors)
    info = {**made.info, **{key: replace(tuned.info[name], name=key, alias_of=None) for key, name in whole.items()}}
    storages = {**made.storages, **{key: tuned.storages[name] for key, name in whole.items()}}
    report = {
        "kept": {one.name: {"rank": one.rank, "energy": one.kept, "norm": one.norm} for one in taken},
        "left_out": {name: norm for name, norm in left.items() if name not in whole.values()},
    }
    config = _config(base, taken, alpha, list(whole))
    if any(one.tied for one in taken) or any(tied_with(name, tuned) for name in whole.values()):
        config["ensure_weight_tying"] = True
    return Checkpoint(info, storages, "memory", metadata={"adapter_config": config, "extraction": report}, kind="adapter")


def _taken_names(tuned: Checkpoint) -> set[str]:
    """Every tensor once: of the names of a tied one, an embedding's where there is one, else the first."""
    names = {one.alias_of or name: one.alias_of or name for name, one in tuned.info.items()}
    for name, one in tuned.info.items():
        owner = one.alias_of or name
        if _is_embedding(name.removesuffix(".weight")) and not _is_embedding(names[owner].removesuffix(".weight")):
            names[owner] = name
    return set(names.values())


def _is_embedding(module: str) -> bool:
    return bool(_EMBEDDING.fullmatch(module.rpartition(".")[2]))


def _checked(base: Checkpoint, tuned: Checkpoint, rank: int | None, energy: float | None, targets: str | None) -> re.Pattern[str]:
    """See that the request can be met; the pattern of names that are wanted."""
    if rank is None and energy is None:
        raise MergeError("expected a rank or an energy to extract an adapter at, found neither; pass rank=16 or energy=0.95")
    if rank is not None and rank < 1:
        raise MergeError(f"expected a rank of 1 or more, found {rank}; pass rank=16")
    if energy is not None and not 0 < energy <= 1:
        raise MergeError(f"expected an energy above 0 and up to 1, found {energy:g}; pass energy=0.95")
    if not base.info.keys() & tuned.info.keys():
        raise MergeError("base and fine-tuned model have no tensor name in common; pass two checkpoints of one architecture")
    try:
        return re.compile(targets or "")
    except re.error as error:
        raise MergeError(f"'{one_line(targets or '', 80)}' is no regular expression ({error}); correct targets=") from None


def _change(base: Checkpoint, tuned: Checkpoint, name: str) -> Tensor:
    """What one tensor changed by, in float32 or wider; all of it where the base has none."""
    if name not in base.info:
        return widened(tuned[name])
    if base.info[name].shape != tuned.info[name].shape:
        raise MergeError(
            f"tensor '{one_line(name, 80)}' is {list(base.info[name].shape)} in the base and {list(tuned.info[name].shape)} in the "
            "fine-tuned model, expected one shape; resize the base first"
        )
    return widened(tuned[name]) - widened(base[name])


def _take(change: Tensor, name: str, tuned: Checkpoint, layout: Layout, rank: int | None, energy: float | None) -> _Taken:
    """Decompose one change and cut it where rank or energy is reached."""
    module = _module(name, tuned)
    is_embedding = change.ndim == 2 and _is_embedding(module)
    is_transposed = is_embedding or layout.is_transposed(name)
    left, values, right = torch.linalg.svd((change.T if is_transposed else change).flatten(1), full_matrices=False)
    shares = values.double().square().cumsum(0)
    shares /= shares[-1].clone()
    reached = len(values) if energy is None else int((shares < energy - 1e-12).sum()) + 1
    count = min(len(values), reached, rank or len(values))
    root = values[:count].sqrt()
    a, b = root[:, None] * right[:count], left[:, :count] * root
    kernel = change.shape[2:]
    return _Taken(
        name=name,
        module=module,
        a=a.reshape(count, change.shape[1], *kernel) if kernel else a,
        b=b.reshape(*b.shape, *(1 for _ in kernel)),
        kept=float(shares[count - 1]),
        norm=float(torch.linalg.vector_norm(values)),
        is_embedding=is_embedding,
        is_transposed=is_transposed,
        tied=tuple(_module(other, tuned) for other in tied_with(name, tuned)),
    )


def _module(name: str, tuned: Checkpoint) -> str:
    return name.removesuffix(".weight").removeprefix(wrapper_prefix(tuned.info))


def _named(one: _Taken, alpha: float | None) -> dict[str, Tensor]:
    """The two factors under PEFT's names; what the config will scale by is divided out."""
    b = one.b if alpha is None else one.b * (one.rank / alpha)
    names: dict[str, Tensor] = {}
    for module in (one.module, *one.tied):
        place = f"{WRAPPER}{module}"
        if not one.is_embedding:
            names |= {f"{place}.lora_A.weight": one.a, f"{place}.lora_B.weight": b}
        elif _is_embedding(module):
            names |= {f"{place}.lora_embedding_A": one.a, f"{place}.lora_embedding_B": b}
        else:  # a head that is tied to the embedding is a Linear: the other way round
            names |= {f"{place}.lora_A.weight": b.T, f"{place}.lora_B.weight": one.a.T}
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in names.items()}


def _whole(taken: list[_Taken], left: Mapping[str, float], tuned: Checkpoint, prefix: str) -> dict[str, str]:
    """The tensors that go in as they are, by PEFT's names for them: biases of updated modules, and all of a module that has no update.

    A parameter that is no module's `weight` or `bias` has no such name; it stays left out.
    """
    updated = {one.module for one in taken}
    found: dict[str, str] = {}
    for name in left:
        module, _, leaf = name.removeprefix(prefix).rpartition(".")
        if leaf not in ("weight", "bias") or not module:
            continue
        if module in updated:
            found |= {f"{WRAPPER}{one}.base_layer.bias": f"{prefix}{one}.bias" for one in updated if f"{prefix}{one}.bias" in tuned.info}
        else:
            inside = (one for one in tuned.info if one.rpartition(".")[0] == f"{prefix}{module}")
            found |= {f"{WRAPPER}{one.removeprefix(prefix)}": one for one in inside}
    return found


def _config(base: Checkpoint, taken: list[_Taken], alpha: float | None, whole: list[str]) -> dict[str, Any]:
    """PEFT's adapter_config for these updates and whole tensors."""
    modules = {key.removeprefix(WRAPPER).rpartition(".")[0] for key in whole if ".base_layer." not in key}
    ranks = {module: one.rank for one in taken for module in (one.module, *one.tied)}
    largest = max(ranks.values(), default=1)
    # A pattern fits every module that ends in it, and the first that fits holds: all are named, the longest first.
    patterns = dict(sorted(ranks.items(), key=lambda item: -len(item[0]))) if len(set(ranks.values())) > 1 else {}
    config = base.metadata.get("config")
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": config.get("_name_or_path") if isinstance(config, Mapping) else None,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest if alpha is None else alpha,
        "rank_pattern": patterns,
        "alpha_pattern": patterns if alpha is None else {},
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "fan_in_fan_out": any(one.is_transposed and not one.is_embedding for one in taken),
        "bias": "lora_only" if any(".base_layer." in key for key in whole) else "none",
        "target_modules": list(ranks),
        "modules_to_save": sorted(modules) or None,
    }
