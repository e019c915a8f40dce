"""An adapter's updates brought onto the names and shapes of one base."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from weightspace.adapters.adapter import Adapter, Factors
from weightspace.adapters.layout import Layout
from weightspace.adapters.ties import input_embedding, is_hidden_head
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import MergeError, one_line

_ADVICE = "apply it to the model that it was trained on"


@dataclass(frozen=True)
class _Renaming:
    """A prefix that the adapter's names lose, or that they are given, to be the base's."""

    added: str = ""
    dropped: str = ""

    def __call__(self, name: str) -> str:
        return self.added + name[len(self.dropped) :] if name.startswith(self.dropped) else name


def fit(adapter: Adapter, base: Checkpoint, names: Mapping[str, str] | None = None) -> Adapter:
    """Name every update by the base's tensor, and settle which way round it lies.

    Names may differ by one prefix, the same for all (a wrapper, or a model without its head). A file for several parts of a pipeline
    fits where one part does; the other parts are left out. An output head that the base does not store, because it is tied to the
    input embedding, keeps its own name.

    Args:
        adapter: as `read_adapter` gives it.
        base: what it was trained on.
        names: the base's tensor for each update that the file names otherwise, for files that number their modules.

    Raises:
        MergeError: an update that no tensor of the base fits by name or by shape.
    """
    given = dict(names or {})
    _check_given(adapter, given)
    layout = Layout(base.info)
    laid = {name: _laid(adapter, adapter.factors[target], name, base, layout) for target, name in given.items()}
    renamings: dict[str, _Renaming] = {}
    errors: list[MergeError] = []
    for component in dict.fromkeys(one.component for one in adapter.factors.values()):
        part = [
            one for one in adapter.factors.values() if one.component == component and one.target not in given and one.style != "numbered"
        ]
        try:
            renaming, found = _named(part, component, base)
            one_part = {name: _laid(adapter, one, name, base, layout) for one, name in found}
        except MergeError as error:
            errors.append(error)
            continue
        twice = next((name for name in one_part if name in laid), None)
        if twice is not None:
            raise MergeError(
                f"two updates of the adapter fit '{one_line(twice, 80)}' in {_where(base)}; pass names= with the base's tensor for each"
            )
        laid |= one_part
        if renaming is not None:
            renamings[component] = renaming
    if not laid:
        raise errors[0] if errors else _fits_nothing(adapter, base)
    renaming = renamings.get("") or next(iter(renamings.values()), _Renaming())
    used = {one.a for one in laid.values()}
    return replace(
        adapter,
        factors=laid,
        whole={_present(name, renaming, base): tensor for name, tensor in adapter.whole.items()},
        shifts={_present(name, renaming, base): shift for name, shift in adapter.shifts.items()},
        left_out=(*adapter.left_out, *(one.target for one in adapter.factors.values() if one.a not in used)),
    )


def _check_given(adapter: Adapter, given: Mapping[str, str]) -> None:
    """See that the names given are of updates that there are, each of its own tensor, and of all modules of a numbered part.

    Raises:
        MergeError: they are not.
    """
    for target in given:
        if target not in adapter.factors:
            raise MergeError(f"the adapter has no update '{one_line(target, 80)}'; name one of {_some(adapter.factors)}")
    if len(set(given.values())) < len(given):
        raise MergeError("names= gives one tensor for two updates of the adapter; give each its own")
    named = {adapter.factors[target].component for target in given}
    for one in adapter.factors.values():
        if one.style == "numbered" and one.component in named and one.target not in given:
            raise MergeError(
                f"names= has some modules of '{one.component}' but not '{one_line(one.target, 80)}'; give the base's tensor for each"
            )


def _named(part: list[Factors], component: str, base: Checkpoint) -> tuple[_Renaming | None, list[tuple[Factors, str]]]:
    """The renaming under which the updates of one component are the base's, and each with its tensor; none where no update is."""
    is_flat = any(one.style == "flat" for one in part)
    keys: dict[str, str] = {}
    for name in base.info:
        module, _, leaf = name.rpartition(".")
        if leaf in ("weight", "in_proj_weight"):
            keys.setdefault(module.replace(".", "_") if is_flat else module, name)
    heads = {one.module for one in part if is_hidden_head(one.module, base)}
    modules = [one.module for one in part if one.module not in heads]
    own = _Renaming(added=f"{component}.") if component else _Renaming()
    if not modules:
        return (own, [(one, one.target) for one in part]) if heads else (None, [])
    renaming = _renaming(modules, keys, "_" if is_flat else ".", own, base)
    if renaming is None:
        return None, []
    return renaming, [(one, one.target if one.module in heads else keys[renaming(one.module)]) for one in part]


def _renaming(modules: list[str], keys: Mapping[str, str], separator: str, own: _Renaming, base: Checkpoint) -> _Renaming | None:
    """Find the one prefix to add or to drop that makes modules the base's; of several, `own` is meant.

    Raises:
        MergeError: some fit and others do not, or several prefixes fit all.
    """
    best: list[_Renaming] = []
    most = 0
    for module in modules:
        for renaming in _candidates(module, keys, separator):
            count = sum(renaming(one) in keys for one in modules)
            if count == most and renaming not in best:
                best.append(renaming)
            elif count > most:
                best, most = [renaming], count
        if most == len(modules):
            break
    if not best:
        return None
    renaming = own if own in best else min(best, key=lambda one: (len(one.added), len(one.dropped)))
    if most < len(modules):
        absent = next(one for one in modules if renaming(one) not in keys)
        raise MergeError(
            f"the adapter updates module '{one_line(absent, 80)}', which {_where(base)} has not, though it has {most} of {len(modules)} others; {_ADVICE}"
        )
    if renaming.added and renaming != own and len(best) > 1:
        raise MergeError(
            f"module '{one_line(modules[0], 80)}' of the adapter may be any of {_some(one(modules[0]) for one in best)} in {_where(base)}; pass names="
        )
    return renaming


def _candidates(module: str, keys: Iterable[str], separator: str) -> Iterable[_Renaming]:
    """Every prefix that, added to or dropped from one module, makes it a key."""
    for key in keys:
        if key == module:
            yield _Renaming()
        elif key.endswith(separator + module):
            yield _Renaming(added=key.removesuffix(module))
        elif key and module.endswith(separator + key):
            yield _Renaming(dropped=module.removesuffix(key))


def _present(name: str, renaming: _Renaming, base: Checkpoint) -> str:
    """The base's name of a whole tensor; one that the base lacks is new, under the adapter's name."""
    return next((one for one in (renaming(name), name) if one in base.info), name)


def _laid(adapter: Adapter, one: Factors, name: str, base: Checkpoint, layout: Layout) -> Factors:
    """An update with its base's name and shape, and turned as the base's tensor lies.

    Raises:
        MergeError: neither way round fits.
    """
    info = base.info.get(input_embedding(base) or "" if is_hidden_head(name.removesuffix(".weight"), base) else name)
    if info is None:
        raise MergeError(f"{_where(base)} has no tensor '{one_line(name, 80)}' (there are {_some(base.info)}); correct names=")
    outputs, inputs = adapter.fit_of(one.target)
    rows, columns = (info.shape[0], math.prod(info.shape[1:])) if len(info.shape) > 1 else (0, 0)
    plain = (outputs, inputs) == (rows, columns) and not one.is_embedding
    turned = (inputs, outputs) == (rows, columns) and len(info.shape) == 2
    if not (plain or turned):
        raise MergeError(
            f"the adapter's update of '{one_line(name, 80)}' is {list(one.shape)}, the tensor in {_where(base)} is {list(info.shape)}; "
            "apply it to the model that it was trained on"
        )
    is_transposed = layout.is_transposed(name, one.is_transposed) if plain and turned and name in base.info else turned and not plain
    if one.magnitude is not None and adapter.checkpoint.info[one.magnitude].numel != outputs:
        raise MergeError(
            f"the magnitudes of '{one_line(name, 80)}' are {adapter.checkpoint.info[one.magnitude].numel}, expected one for each of {outputs} outputs; "
            "save the adapter again"
        )
    return replace(one, target=name, shape=info.shape, is_transposed=is_transposed or one.is_embedding)


def _where(base: Checkpoint) -> str:
    return f"the base at {base.path}" if base.path else "the base"


def _fits_nothing(adapter: Adapter, base: Checkpoint) -> MergeError:
    is_numbered = any(one.style == "numbered" for one in adapter.factors.values())
    advice = "its modules are numbered, not named: pass names= with the base's tensor for each" if is_numbered else _ADVICE
    first = one_line(next(iter(adapter.factors)), 80)
    return MergeError(
        f"the adapter fits nothing in {_where(base)}: no tensor is named like '{first}' (there are {_some(base.info)}); {advice}"
    )


def _some(names: Iterable[str] | Mapping[str, TensorInfo]) -> str:
    shown = [f"'{one_line(name, 60)}'" for name in names]
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")
