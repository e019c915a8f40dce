"""Which tensors a signature is made of: by a rule on their order or names, or by how much of its energy their layer holds."""

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from weightspace.analysis.layers import Layer
from weightspace.analysis.signatures.signature import Part
from weightspace.errors import AnalysisError, UnknownNameError

ALL = "all"
_RULES = "'all', 'first:7', 'energy:.9', 'ratio:.9' or a pattern of names such as 'layer1.*'"


def selected(parts: Mapping[str, Part], rule: str | Sequence[str], layers: Sequence[Layer]) -> list[str]:
    """Choose among tensors.

    `first:K` takes the first K convolutions with their biases, as the official code of the paper does with a VGG; of a model without
    convolutions the first K matrices. The order is that of the file, or, where that is the alphabet's (as in safetensors files), of the
    names with their numbers read as numbers: where neither is the order of the network, give a pattern. `energy:S` takes the smallest set of layers that hold the
    share S of the signature's energy, and `ratio:S` ranks them by energy over that of what clean training did to them, so that a
    wide layer counts no more than a narrow one. Anything else is a pattern of names, or a list of patterns.

    Args:
        parts: the tensors there are.
        rule: as above.
        layers: those of them that are matrices or kernels, in order.

    Raises:
        UnknownNameError: a pattern that no tensor has.
        AnalysisError: a rule that says no number, or one out of range.
    """
    if not isinstance(rule, str):
        return [name for name in parts if name in {one for pattern in rule for one in _named(parts, pattern)}]
    kind, _, amount = rule.partition(":")
    if rule == ALL:
        return list(parts)
    if kind not in ("first", "energy", "ratio") or not amount:
        return _named(parts, rule)
    present = [layer for layer in layers if layer.name in parts]
    if kind == "first":
        kept = _modules(_in_order([one for one in present if one.kind == "kernel"] or present))[: _count(rule, amount)]
    else:
        kept = smallest(_scores(parts, _modules(present), kind), _share(rule, amount))
    return [name for name in parts if module_of(name) in set(kept)]


def module_of(name: str) -> str:
    """The module that learns a tensor: its name without the last part; Keras cuts names by slashes."""
    return name.replace("/", ".").rpartition(".")[0]


def smallest(scores: Mapping[str, float], share: float) -> list[str]:
    """The fewest names whose scores sum up to a share of all; infinite ones are taken before any share is asked for.

    Example:
        >>> smallest({"a": 1.0, "b": 6.0, "c": 3.0}, 0.9)
        ['b', 'c']
    """
    endless = [name for name, score in scores.items() if math.isinf(score)]
    ordered = sorted((name for name in scores if name not in endless), key=lambda name: -scores[name])
    wanted, kept, held = share * math.fsum(scores[name] for name in ordered), endless, 0.0
    for name in ordered:
        if held >= wanted * (1 - 1e-12):  # the sum of all may fall short of itself by rounding
            break
        kept, held = [*kept, name], held + scores[name]
    return kept


def _modules(layers: Sequence[Layer]) -> list[str]:
    return list(dict.fromkeys(module_of(layer.name) for layer in layers))


def _in_order(layers: Sequence[Layer]) -> list[Layer]:
    """Layers as the file has them, or in the order of the numbers in their names where the file has them by the alphabet."""
    names = [layer.name for layer in layers]
    return sorted(layers, key=_natural) if names == sorted(names) else list(layers)


def _natural(layer: Layer) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", layer.name)]


def _scores(parts: Mapping[str, Part], modules: Sequence[str], kind: str) -> dict[str, float]:
    scores = {}
    for module in modules:
        own = [part for part in parts.values() if module_of(part.name) == module]
        energy, clean = (math.fsum(values) for values in ([one.energy for one in own], [one.clean or 0.0 for one in own]))
        scores[module] = energy if kind == "energy" else energy / clean if clean else math.inf if energy else 0.0
    return scores


def _named(parts: Mapping[str, Part], pattern: str) -> list[str]:
    found = [name for name in parts if fnmatchcase(name, pattern)]
    if not found:
        unknown = UnknownNameError.of("tensor", pattern, parts)
        raise UnknownNameError(f"{unknown}; select layers by {_RULES}")
    return found


def _count(rule: str, amount: str) -> int:
    if not amount.isdecimal() or not int(amount):
        raise AnalysisError(f"expected a number of layers after 'first:', found '{rule}'; write it as in first:7")
    return int(amount)


def _share(rule: str, amount: str) -> float:
    try:
        share = float(amount)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise AnalysisError(
            f"expected a share above 0 and up to 1 after '{rule.partition(':')[0]}:', found '{rule}'; write it as in energy:.9"
        )
    return share
