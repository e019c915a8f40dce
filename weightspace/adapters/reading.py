"""Adapter files of every library read as one value."""

from weightspace.adapters.adapter import Adapter, Factors
from weightspace.adapters.keys import Key, is_foreign, is_token, key_of, without_wrappers
from weightspace.adapters.scaling import Scaling, scalings
from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError, one_line

# PEFT adds the update of a MultiheadAttention's output projection twice, in training too: once by itself and once for the module around it.
_OUT_OF_ATTENTION = ".base_layer.out_proj.lora_"

_Roles = dict[str, tuple[str, Key]]  # the name and key of each tensor of one update, by role


def read_adapter(checkpoint: Checkpoint, *, alpha: float | None = None) -> Adapter:
    """Read what an adapter does to each tensor; the tensors themselves are read later.

    Keys of PEFT, loralib, diffusers, kohya and cloneofsimo are known. The scale is what PEFT's config says of a module, or the
    file's own `.alpha` divided by the rank; where diffusers, kohya and cloneofsimo store none, it is 1, as in those libraries.

    Args:
        checkpoint: an adapter folder or file, opened.
        alpha: what is divided by the rank where the file says nothing (loralib, or PEFT's weights without their config).

    Raises:
        FormatError: no low-rank updates, another kind of adapter, one factor without the other, or an unknown alpha.
    """
    where = str(checkpoint.path or "adapter")
    known = scalings(checkpoint)
    modules, rest = _grouped(checkpoint, where)
    if not modules:
        raise FormatError(
            f"{where}: expected low-rank updates (lora_A and lora_B, lora_down and lora_up), found none",
            reason="unsupported",
            advice="open an adapter folder",
        )
    factors, shifts = {}, {}
    for (component, module), roles in modules.items():
        one = _factors(checkpoint, roles, known.get(component), alpha, where)
        factors[one.target] = one
        if "bias" in roles:
            shifts[f"{module}.bias".removeprefix(".")] = (roles["bias"][0], one.scale)
    left_out = tuple(name for name in rest if is_token(name))
    whole = {without_wrappers(name): name for name in rest if not is_token(name)}
    return Adapter(checkpoint, factors, whole, shifts, left_out, any(one.keeps_ties for one in known.values()))


def _grouped(checkpoint: Checkpoint, where: str) -> tuple[dict[tuple[str, str], _Roles], list[str]]:
    """Tensors by the module that they update and their role in it, and the names of those that are of no update."""
    modules: dict[tuple[str, str], _Roles] = {}
    rest = []
    adapters: dict[str, None] = {}
    for name in checkpoint.info:
        key = key_of(name)
        if key is None and is_foreign(name):
            raise FormatError(
                f"{where}: tensor '{one_line(name, 80)}' belongs to no plain low-rank update",
                reason="unsupported",
                advice="merge it with the library that made it and open the merged model",
            )
        if key is None:
            rest.append(name)
            continue
        adapters[key.adapter] = None
        modules.setdefault((key.component, key.module), {})[key.role] = (name, key)
    if len(adapters) > 1:
        names = ", ".join(f"'{one_line(one, 40)}'" for one in adapters)
        raise FormatError(f"{where}: expected one adapter, found {len(adapters)} ({names})", advice="save each in its own file")
    return modules, rest


def _factors(checkpoint: Checkpoint, roles: _Roles, scaling: Scaling | None, alpha: float | None, where: str) -> Factors:
    """What lies where for one module."""
    at = next(iter(roles.values()))[1]
    shown = one_line(at.module, 80)
    if "a" not in roles or "b" not in roles:
        raise FormatError(
            f"{where}: module '{shown}' has one factor of its update without the other", reason="missing", advice="copy the file again"
        )
    (a, key), (b, _) = roles["a"], roles["b"]
    first, second = checkpoint.info[a].shape, checkpoint.info[b].shape
    if len(first) < 2 or len(second) < 2 or first[0] != second[1] or not first[0]:
        raise FormatError(
            f"{where}: the factors of module '{shown}' are {list(first)} and {list(second)}, expected (rank, in) and (out, rank)",
            reason="unsupported",
            advice="save the adapter again, whole and with one rank",
        )
    if scaling is not None and scaling.rank_of(at.module) != first[0]:
        raise FormatError(
            f"{where}: the factors of module '{shown}' have rank {first[0]}, its adapter_config.json says {scaling.rank_of(at.module)}",
            advice="correct the config: the scale depends on it",
        )
    stored = roles["alpha"][0] if "alpha" in roles else None
    transposed = key.is_embedding or (scaling is not None and scaling.fan_in_fan_out and len(first) == 2)
    return Factors(
        target=_target(key),
        module=at.module,
        a=a,
        b=b,
        scale=_scale(checkpoint, key, first[0], stored, scaling, alpha, where) * (2 if _OUT_OF_ATTENTION in a else 1),
        shape=(first[1], second[0]) if transposed else (second[0], *first[1:]),
        is_transposed=transposed,
        is_embedding=key.is_embedding,
        magnitude=roles["magnitude"][0] if "magnitude" in roles else None,
        style=key.style,
        component=at.component,
    )


def _target(key: Key) -> str:
    """The name of the tensor that a module's update is of, as far as the file names it."""
    if key.style == "numbered":
        return f"{key.component}:{key.module}"
    return ".".join(one for one in (key.component, key.module, "weight") if one)


def _scale(
    checkpoint: Checkpoint, key: Key, rank: int, stored: str | None, scaling: Scaling | None, alpha: float | None, where: str
) -> float:
    """What the product of a module's factors is multiplied by: as its file says, else as its library has it, else as the caller says."""
    if stored is not None:
        return float(checkpoint[stored]) / rank
    if scaling is not None:
        return scaling.scale_of(key.module)
    if alpha is not None:
        return alpha / rank
    if key.style != "peft" or key.component:
        return 1.0
    raise FormatError(
        f"{where}: says nowhere what alpha its updates are scaled by",
        reason="missing",
        advice="pass alpha= (as a measure's option: --option alpha=16), or put its adapter_config.json beside it",
    )
