"""An adapter whose update has directions scaled: again an adapter, of a rank that is larger by their number."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from weightspace.adapters import Adapter, Factors, LowRank
from weightspace.adapters.keys import WRAPPER
from weightspace.adapters.scaling import Scaling
from weightspace.analysis.intruders.directions import Directions
from weightspace.analysis.intruders.pairing import Pairing, is_plain
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, one_line


@dataclass(frozen=True, eq=False)
class _Module:
    """One module's factors as PEFT stores them.

    Attributes:
        name: of the module, as PEFT's config calls it.
        a: name and tensor of the factor (rank, in).
        b: name and tensor of the factor (out, rank).
        scale: what the config is to multiply their product by.
    """

    name: str
    a: tuple[str, Tensor]
    b: tuple[str, Tensor]
    scale: float

    @property
    def rank(self) -> int:
        return self.a[1].shape[0]


def scaled_adapter(pairing: Pairing, chosen: Mapping[str, Directions], lam: float, truncate: bool = False) -> Checkpoint:
    """Scale directions of an adapted model in its adapter: `dW + (lam - 1) s u v^T` as one product, exactly but for rounding.

    An adapter with a PEFT config keeps its names; others get PEFT's. Factors of updates that change come in float32 or wider, others
    stay as they are. The updates of other parts of a pipeline are not in the result.

    Args:
        pairing: of a base and an adapter.
        chosen: what is scaled, by tensor.
        lam: lambda.
        truncate: whether each update gets back to its rank, by the best approximation.

    Raises:
        AnalysisError: an update with magnitudes, of a tensor that the adapter replaces, or a control that is no sum of triplets.
    """
    adapter = pairing.adapter
    assert adapter is not None
    original = adapter.checkpoint.metadata.get("adapter_config")
    chosen = chosen if lam != 1 else {}
    if not chosen and isinstance(original, Mapping):
        return adapter.checkpoint
    for name, one in chosen.items():
        _expect_possible(adapter, name, one)
    scaling = Scaling.parse(original, "the adapter") if isinstance(original, Mapping) else None
    modules = [_module(adapter, target, chosen.get(target), lam, truncate, scaling) for target in adapter.factors]
    tensors = {name: tensor for module in modules for name, tensor in (module.a, module.b)}
    tensors |= dict(_others(pairing, adapter, chosen, lam, keeps_names=scaling is not None))
    config = _config(modules, dict(original) if isinstance(original, Mapping) else None, adapter)
    metadata = {**adapter.checkpoint.metadata, "adapter_config": config}
    return Checkpoint.of(tensors, metadata=metadata, kind="adapter")


def _expect_possible(adapter: Adapter, name: str, one: Directions) -> None:
    advice = "pass merged=True (--merged) for the merged model"
    if one.is_rest:
        raise AnalysisError(f"the energy control is made of the whole update, and not as an adapter; {advice}")
    if name in adapter.factors and not is_plain(adapter, name):
        raise AnalysisError(
            f"the update of '{one_line(name, 80)}' is more than a product (a DoRA's magnitudes, or a replaced tensor); {advice}"
        )


def _module(adapter: Adapter, target: str, one: Directions | None, lam: float, truncate: bool, scaling: Scaling | None) -> _Module:
    """The factors of one update with what is added to it, as PEFT stores them."""
    factors = adapter.factors[target]
    names = (factors.a, factors.b) if scaling is not None else _peft_names(factors)
    module = factors.module if scaling is not None else target.removesuffix(".weight")
    kept = scaling.scale_of(module) if scaling is not None else factors.scale
    a, b = adapter.checkpoint[factors.a], adapter.checkpoint[factors.b]
    if one is None:
        return _Module(module, (names[0], a), (names[1], b), kept)
    update = _sum(adapter[target], one, lam)
    update = _truncated(update, a.shape[0]) if truncate else update
    first, second = (update.b.T, update.a.T) if factors.is_transposed else (update.a, update.b)
    return _Module(
        module,
        (names[0], first.reshape(update.rank, *a.shape[1:]).contiguous()),
        (names[1], second.reshape(b.shape[0], update.rank, *b.shape[2:]).contiguous()),
        kept,
    )


def _sum(update: LowRank, one: Directions, lam: float) -> LowRank:
    """An update plus triplets, the root of whose values goes to either factor; of the same scale, so that others' columns stay."""
    root = one.s.sqrt()
    u, v = (one.v, one.u) if one.layer.is_transposed else (one.u, one.v)
    b = torch.cat([update.b, ((lam - 1) / update.scale * root * u).to(update.b)], dim=1)
    a = torch.cat([update.a, (root * v).T.to(update.a)], dim=0)
    return replace(update, a=a, b=b)


def _truncated(update: LowRank, rank: int) -> LowRank:
    """The best approximation of an update of a lower rank, from thin decompositions of its factors alone."""
    left, core_left = torch.linalg.qr(update.b)
    right, core_right = torch.linalg.qr(update.a.T)
    u, s, vh = torch.linalg.svd(core_left @ core_right.T)
    root = s[:rank].sqrt()
    return replace(update, b=left @ u[:, :rank] * root, a=root[:, None] * vh[:rank] @ right.T)


def _others(
    pairing: Pairing, adapter: Adapter, chosen: Mapping[str, Directions], lam: float, *, keeps_names: bool
) -> Iterator[tuple[str, Tensor]]:
    """The adapter's tensors besides the two factors of each update."""
    stored = adapter.checkpoint
    for factors in adapter.factors.values():
        if factors.magnitude is not None:
            yield factors.magnitude if keeps_names else f"{WRAPPER}{_bare(factors)}.lora_magnitude_vector", stored[factors.magnitude]
    for target, name in adapter.whole.items():
        one = chosen.get(target)
        after = stored[name] if one is None else one.layer.tensor(pairing.after(one.layer) + one.added(lam)).to(stored[name])
        yield name if keeps_names else f"{WRAPPER}{target}", after
    for target, (name, _) in adapter.shifts.items():
        yield name if keeps_names else f"{WRAPPER}{target.removesuffix('.bias')}.lora_B.bias", stored[name]
    if keeps_names:
        yield from ((name, stored[name]) for name in adapter.left_out if name in stored.info)


def _peft_names(factors: Factors) -> tuple[str, str]:
    place = f"{WRAPPER}{_bare(factors)}"
    if factors.is_embedding:
        return f"{place}.lora_embedding_A", f"{place}.lora_embedding_B"
    return f"{place}.lora_A.weight", f"{place}.lora_B.weight"


def _bare(factors: Factors) -> str:
    return factors.target.removesuffix(".weight")


def _config(modules: list[_Module], original: dict[str, Any] | None, adapter: Adapter) -> dict[str, Any]:
    """The adapter's config with ranks and scales of these modules; every module is named, since a pattern fits all that end in it."""
    by_root = bool(original and original.get("use_rslora"))
    longest_first = sorted(modules, key=lambda one: -len(one.name))
    ranks = {one.name: one.rank for one in longest_first}
    alphas = {one.name: one.scale * (one.rank**0.5 if by_root else one.rank) for one in longest_first}
    config = original or {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "lora_dropout": 0.0,
        "use_dora": any(one.magnitude is not None for one in adapter.factors.values()),
        "bias": "none",
        "fan_in_fan_out": any(one.is_transposed and not one.is_embedding for one in adapter.factors.values()),
        "target_modules": [one.name for one in modules],
        "modules_to_save": sorted({name.rpartition(".")[0] for name in adapter.whole}) or None,
    }
    largest = max(ranks.values(), default=1)
    return {"lora_alpha": largest, "r": largest, **config, "rank_pattern": ranks, "alpha_pattern": alphas}
