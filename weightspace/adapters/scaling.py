"""What an adapter's config says: whether its updates can be applied at all, and what their products are multiplied by."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError, one_line

# Fields of PEFT's LoraConfig that, where set, make the adapter's function another than base + scale * b @ a.
_OTHER_FUNCTION = (
    "layer_replication", "target_parameters", "trainable_token_indices", "use_qalora", "use_bdlora", "kasa_config",
    "monteclora_config", "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
# Ways to initialise that take their own start out of the base, so that the file's factors belong to a base that is nowhere kept.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Scaling:
    """What a LoRA config says of scales and layout.

    Attributes:
        rank: of modules that `ranks` does not name.
        alpha: of modules that `alphas` does not name.
        ranks: rank by pattern of module names.
        alphas: alpha by pattern of module names.
        by_root: whether alpha is divided by the root of the rank (Kalajdzievski, rsLoRA, arXiv:2312.03732) and not by the rank.
        fan_in_fan_out: whether square dense weights are (in, out).
        keeps_ties: whether the adapter was trained with tied updates.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    by_root: bool = False
    fan_in_fan_out: bool = False
    keeps_ties: bool = False

    @classmethod
    def parse(cls, config: Mapping[str, Any], where: str) -> "Scaling":
        """Read PEFT's adapter_config.

        Args:
            config: the file's fields.
            where: what errors name.

        Raises:
            FormatError: another kind of adapter than LoRA, a variant with another function, or values of the wrong type.
        """
        kind = config.get("peft_type", "LORA")
        if kind != "LORA":
            raise FormatError(
                f"{where}: an adapter of type {one_line(str(kind), 40)}, expected LORA",
                reason="unsupported",
                advice="merge it with peft's merge_and_unload and open the merged model",
            )
        for option in _OTHER_FUNCTION:
            if config.get(option):
                raise FormatError(
                    f"{where}: a LoRA with {option}, which is no sum of a base and low-rank updates",
                    reason="unsupported",
                    advice="merge it with peft's merge_and_unload and open the merged model",
                )
        start = config.get("init_lora_weights")
        if isinstance(start, str) and start.startswith(_CHANGED_BASE):
            raise FormatError(
                f"{where}: a LoRA with init_lora_weights '{one_line(start, 40)}', which took its start out of the base",
                reason="unsupported",
                advice="save it with peft's path_initial_model_for_weight_conversion",
            )
        try:
            return cls(
                int(config["r"]),
                float(config.get("lora_alpha", 8)),
                {str(key): int(value) for key, value in (config.get("rank_pattern") or {}).items()},
                {str(key): float(value) for key, value in (config.get("alpha_pattern") or {}).items()},
                bool(config.get("use_rslora")),
                bool(config.get("fan_in_fan_out")),
                bool(config.get("ensure_weight_tying")),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{where}: expected numbers for r, lora_alpha and their patterns in adapter_config.json, found {one_line(repr(error), 80)}",
                advice="save the adapter again",
            ) from None

    def rank_of(self, module: str) -> int:
        """The rank that the config gives a module."""
        return self.ranks.get(_matching(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What the product of a module's factors is multiplied by."""
        rank = self.rank_of(module)
        return self.alphas.get(_matching(self.alphas, module), self.alpha) / (math.sqrt(rank) if self.by_root else rank)


def _matching(patterns: Iterable[str], module: str) -> str:
    """The first pattern that a module's name ends in, as PEFT looks it up; the name itself where there is none."""
    for pattern in patterns:
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return pattern
        except re.error as error:
            raise FormatError(
                f"'{one_line(pattern, 80)}' in adapter_config.json is no pattern of module names ({error})", advice="correct it"
            ) from None
    return module


def scalings(checkpoint: Checkpoint) -> dict[str, Scaling]:
    """What a file says of scales, by component: its adapter_config.json, or what diffusers keeps in the file's own metadata.

    Raises:
        FormatError: see `Scaling.parse`.
    """
    where = str(checkpoint.path or "adapter")
    found: dict[str, Scaling] = {}
    config = checkpoint.metadata.get("adapter_config")
    if isinstance(config, Mapping):
        found[""] = Scaling.parse(config, where)
    inner = checkpoint.metadata.get("lora_adapter_metadata")
    try:
        fields = json.loads(inner) if isinstance(inner, str) else {}
    except ValueError:
        fields = {}
    parts: dict[str, dict[str, Any]] = {}
    for key, value in fields.items() if isinstance(fields, dict) else ():
        component, _, name = key.partition(".")
        parts.setdefault(component, {})[name] = value
    return found | {component: Scaling.parse(part, where) for component, part in parts.items() if "r" in part}
