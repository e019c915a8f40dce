"""From what torch pickled to a Checkpoint: which part is the state dict, what is training state, what is metadata."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.containers import pickle_safety
from weightspace.containers.pickles import Call, Global, Persistent, Pickle, Value
from weightspace.containers.plain import Json, Plain, key_text, short
from weightspace.containers.torch_tensors import Tensor
from weightspace.errors import FormatError, one_line
from weightspace.storage import Storage, read

# Where training code puts the state dict, most wanted first: plain weights before their moving average (but BasicSR's
# `params_ema` is what its authors publish), a generator before its discriminator.
STATE_DICT_KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net_state_dict", "net", "network", "params_ema", "params", "weights",
    "generator_state_dict", "generator", "netG", "G_state_dict", "G", "g_ema", "G_ema", "g", "ema_state_dict", "state_dict_ema", "model_ema",
    "ema", "student", "teacher", "discriminator_state_dict", "discriminator", "netD", "D_state_dict", "D", "d",
)  # fmt: skip
MAX_DEPTH = 64
MAX_NODES = 1_000_000
MAX_TEXT = 1 << 28  # characters of all names: a long key above many tensors stands in each of them
MAX_VALUES = 1000  # plain values kept beside the tensors
_TRAINER = re.compile(r"optim|sched|scaler|(^|_)(amp|apex)(_|$)", re.IGNORECASE)
_RANDOM = re.compile(r"(^|_)rng|random_state", re.IGNORECASE)
_BOMB = "do not load this file"
_RANDOM_STATES = frozenset(("cpu", "cuda", "python", "numpy", "xla", "npu", "xpu", "mps"))

Keys = tuple[str, ...]


@runtime_checkable
class TensorSource(Protocol):
    """Knows which values of a tree describe tensors, and finds their bytes."""

    def is_tensor(self, value: Value) -> bool:
        """Whether a value describes a tensor."""

    def tensor(self, value: Call) -> Tensor:
        """Find it."""


def checkpoint(
    found: Pickle, tensors: TensorSource, *, format: str, path: Path, files: tuple[Path, ...], metadata: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Make the checkpoint that a pickle describes.

    The metadata say which keys led to the state dict (`state_dict_key`), which other state dicts there are
    (`other_state_dicts`), which classes of unknown modules are named beside it (`foreign_globals`), the scales of
    quantized tensors (`quantized`) and every plain value beside the tensors under its own key.

    Raises:
        FormatError: unpickling would run code, nothing in it is a tensor, or a tensor cannot be read.
    """
    pickle_safety.refuse_code(found)
    tree = _Tree(tensors)
    chosen = _choose(tree, found.value)
    info: dict[str, TensorInfo] = {}
    storages: dict[str, Storage] = {}
    quantized: dict[str, Json] = {}
    first: dict[Any, str] = {}
    plain = Plain(tree.shown)
    values: dict[str, Json] = {}
    for keys, leaf in chosen.leaves:
        name = ".".join(keys)
        if not tree.is_tensor(leaf):
            _refuse_objects(leaf, name)
            if len(values) < MAX_VALUES:
                values[short(name)] = plain(leaf)
            continue
        one = tree.tensor(leaf, name)
        if name in info:
            raise FormatError(f"two tensors are named '{one_line(name, 80)}'", reason="corrupt", advice="save them under different names")
        owner = first.setdefault(one.place, name) if one.bytes.nbytes else name
        info[name] = TensorInfo(name, one.dtype, one.shape, None if owner == name else owner)
        storages[name] = one.bytes
        if one.quantization:
            quantized[name] = plain(one.quantization)
    said: dict[str, Any] = {**(metadata or {}), **chosen.beside(plain)}
    extra = {"state_dict_key": ".".join(chosen.keys), "other_state_dicts": list(chosen.others), "state_dict_values": values}
    extra |= {"foreign_globals": pickle_safety.foreign(found), "quantized": quantized}
    said.update((key, value) for key, value in extra.items() if value)
    kind = chosen.kind if chosen.kind != "full" or not info.keys() <= _RANDOM_STATES else "trainer"
    return Checkpoint(info, storages, format, path=path, files=files, metadata=said, kind=kind, extras=chosen.extras())


class _Tree:
    """Questions asked of one pickle's tree, each container looked at once."""

    def __init__(self, tensors: TensorSource) -> None:
        self.tensors = tensors
        self._holds: dict[int, bool] = {}
        self._left, self._text_left = MAX_NODES, MAX_TEXT

    def is_tensor(self, value: Value) -> bool:
        return type(value) is Call and self.tensors.is_tensor(value)

    def tensor(self, value: Call, name: str) -> Tensor:
        try:
            return self.tensors.tensor(value)
        except FormatError as error:
            what = error.detail.removeprefix("a tensor ") if error.detail.startswith("a tensor ") else f"cannot be read: {error.detail}"
            raise FormatError(f"tensor '{one_line(name, 80)}' {what}", reason=error.reason, advice=error.advice) from None
        except (TypeError, ValueError, AttributeError, LookupError, OverflowError, ArithmeticError) as error:
            raise FormatError(
                f"tensor '{one_line(name, 80)}' is described wrongly ({error})", reason="corrupt", advice="copy or download it again"
            ) from None

    def holds(self, value: Value, depth: int = 0) -> bool:
        """Whether a tensor lies anywhere in the plain containers of a value."""
        if self.is_tensor(value):
            return True
        if not isinstance(value, dict | list | tuple) or depth > MAX_DEPTH:
            return False
        known = self._holds.get(id(value))
        if known is None:
            self._holds[id(value)] = False  # a cycle holds no tensor of its own
            inner = value.values() if isinstance(value, dict) else value
            known = self._holds[id(value)] = any(self.holds(one, depth + 1) for one in inner)
        return known

    def leaves(self, value: Value, keys: Keys = ()) -> Iterator[tuple[Keys, Value]]:
        """Walk plain containers down to the tensors; a container that holds none is one leaf."""
        stack = [iter([(keys, value)])]  # iterators, not entries: a list inside itself has endlessly many of those
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
                continue
            at, one = found
            if self.is_tensor(one) or not self.holds(one):
                self._text_left -= sum(map(len, at))
                if self._text_left < 0:
                    raise FormatError(f"its tensors' names have more than {MAX_TEXT} characters", reason="hostile", advice=_BOMB)
                yield at, one
                continue
            self._left -= len(one)
            if self._left < 0 or len(at) > MAX_DEPTH:
                raise _endless()
            stack.append(_below(at, one))

    def described(self, value: Value, keys: Keys) -> dict[str, TensorInfo]:
        """Describe all tensors below a value by dotted names; those that cannot be read are left out."""
        made: dict[str, TensorInfo] = {}
        for at, leaf in self.leaves(value, keys):
            if self.is_tensor(leaf):
                name = ".".join(at)
                with contextlib.suppress(FormatError):
                    one = self.tensor(leaf, name)
                    made[name] = TensorInfo(name, one.dtype, one.shape)
        return made

    def is_number(self, value: Call) -> bool:
        """Whether a tensor is one number, such as the best accuracy so far."""
        try:
            return math.prod(self.tensors.tensor(value).shape) == 1
        except (FormatError, TypeError, ValueError, AttributeError, LookupError):
            return False

    def shown(self, value: Call) -> Json | None:
        """Show a tensor among plain values: a number if it is one, otherwise its dtype and shape."""
        if not self.is_tensor(value):
            return None
        try:
            one = self.tensors.tensor(value)
        except (FormatError, TypeError, ValueError, AttributeError, LookupError):
            return "<tensor>"
        kind = dtypes.dtype(one.dtype)
        if one.bytes.nbytes == int(kind.bits) // 8 > 0 and kind.kind != "complex":
            number: bool | int | float = dtypes.decode(np.frombuffer(read(one.bytes), np.uint8), kind)[0].item()
            return number if math.isfinite(number) else str(number)
        return f"<{one.dtype} {list(one.shape)}>"


@dataclass(frozen=True)
class _Chosen:
    """The part of a pickle that is the state dict.

    Attributes:
        keys: what leads to it from the top.
        leaves: its tensors and other values, by keys from there.
        rest: what else there is, by keys from the top.
        others: state dicts among the rest.
    """

    tree: _Tree
    keys: Keys
    leaves: list[tuple[Keys, Value]]
    rest: dict[Keys, Value]
    others: tuple[str, ...]
    kind: str = "full"

    def beside(self, plain: Plain) -> dict[str, Json]:
        """Make plain what stands beside the state dict: numbers and texts, and the settings of optimizers."""
        made: dict[str, Json] = {}
        for keys, value in self.rest.items():
            if len(made) == MAX_VALUES:
                break
            if not self.tree.holds(value) or self.tree.is_tensor(value):
                made[short(".".join(keys))] = plain(value)
            elif isinstance(value, dict) and isinstance(value.get("param_groups"), list):
                groups = [group for group in value["param_groups"] if isinstance(group, dict)]
                made[short(".".join(keys))] = {"param_groups": plain([{k: v for k, v in g.items() if k != "params"} for g in groups])}
        return made

    def extras(self) -> dict[str, TensorInfo]:
        """Describe the tensors outside the state dict; those that cannot be read are left out."""
        made: dict[str, TensorInfo] = {}
        for keys, value in self.rest.items():
            made.update(self.tree.described(value, keys))
        return made


def described(tensors: TensorSource, value: Value, keys: Keys = ()) -> dict[str, TensorInfo]:
    """Describe all tensors below a value by dotted names; those that cannot be read are left out."""
    return _Tree(tensors).described(value, keys)


def _endless() -> FormatError:
    return FormatError("its pickle repeats itself without end", reason="hostile", advice=_BOMB)


def _choose(tree: _Tree, top: Value) -> _Chosen:
    _refuse_objects(top, "")
    if tree.is_tensor(top):
        return _Chosen(tree, (), [(("tensor",), top)], {}, ())
    keys: Keys = ()
    rest: dict[Keys, Value] = {}
    others: list[str] = []
    direct: list[str] = []
    nested: list[str] = []
    value = top
    while isinstance(value, dict | list | tuple):
        if len(keys) > MAX_DEPTH:
            raise _endless()
        pairs = dict(_pairs(value))
        direct = [key for key, one in pairs.items() if tree.is_tensor(one) and not _RANDOM.search(key)]
        nested = [key for key, one in pairs.items() if tree.holds(one) and not tree.is_tensor(one) and not is_trainer(key, one)]
        if is_trainer("", value):
            nested = []
        picked = _pick(pairs, [key for key in direct if not nested or not tree.is_number(pairs[key])], nested, top=not keys)
        if picked is None:
            break
        rest.update(((*keys, key), one) for key, one in pairs.items() if key != picked)
        others.extend(short(".".join((*keys, key))) for key in nested[:MAX_VALUES] if key != picked)
        keys, value = (*keys, picked), pairs[picked]
    if keys:
        return _Chosen(tree, keys, list(tree.leaves(value)), rest, tuple(others))
    pairs = dict(_pairs(top)) if isinstance(top, dict | list | tuple) else {}
    for key in STATE_DICT_KEYS:
        _refuse_objects(pairs.get(key), key)
    wanted = {*direct, *nested}
    mine = {key: one for key, one in pairs.items() if key in wanted}
    rest = {(key,): one for key, one in pairs.items() if key not in mine}
    if mine:
        return _Chosen(tree, (), list(tree.leaves(mine)), rest, ())
    for key, one in pairs.items():
        _refuse_objects(one, key)
    trainer = [(keys, leaf) for keys, leaf in tree.leaves(top) if tree.is_tensor(leaf)]
    if not trainer:
        raise FormatError("it holds no tensors", reason="unsupported", advice="name a file of weights")
    return _Chosen(tree, (), trainer, {at: one for at, one in rest.items() if not tree.holds(one)}, (), kind="trainer")


def _pick(pairs: dict[str, Value], direct: list[str], nested: list[str], *, top: bool) -> str | None:
    """Choose the key under which the state dict lies; None when it is this mapping itself."""
    if direct and not top:
        return None
    for key in STATE_DICT_KEYS:
        if key in nested and (not direct or "state" in key or _is_dotted(pairs[key])):
            return key
    # A single unknown name beside other things, with a state dict's dotted names below it; or (weights, something).
    if not direct and top and nested and _is_dotted(pairs[nested[0]]) and (len(nested) == 1 or nested[0] == "0"):
        return nested[0]
    return None


def _pairs(value: Value) -> Iterator[tuple[str, Value]]:
    """List a container's entries under text keys."""
    if isinstance(value, dict):
        return ((key_text(key), one) for key, one in value.items())
    return ((str(index), one) for index, one in enumerate(value))


def _below(keys: Keys, value: Value) -> Iterator[tuple[Keys, Value]]:
    return (((*keys, key), one) for key, one in _pairs(value))


def _is_dotted(value: Value) -> bool:
    return isinstance(value, dict) and any("." in key for key in value if isinstance(key, str))


def is_trainer(key: str, value: Value) -> bool:
    """Whether a key, or the shape of what lies under it, says optimizer, scheduler or random state."""
    shaped = isinstance(value, dict) and "param_groups" in value and "state" in value
    return shaped or bool(_TRAINER.search(key) or _RANDOM.search(key)) or key in ("param_groups",)


def _refuse_objects(value: Value, name: str) -> None:
    """Refuse an object of an unknown class where weights are expected: a whole module, packed parameters."""
    if not isinstance(value, Call):
        return
    kind = value.function
    if isinstance(kind, Persistent) and isinstance(kind.pid, tuple) and len(kind.pid) > 1 and kind.pid[0] == "module":
        kind = kind.pid[1]  # torch before 1.6 keeps the source of module classes: ('module', class, file, source)
    if isinstance(kind, Global) and pickle_safety.is_inert(kind):
        return
    where = f"under '{one_line(name, 80)}' " if name else ""
    raise FormatError(
        f"it holds {where}a whole pickled object of class {kind if isinstance(kind, Global) else 'unknown'}, which needs its code to load",
        reason="needs-code",
        advice="where it was made, save model.state_dict() instead of the object",
    )
