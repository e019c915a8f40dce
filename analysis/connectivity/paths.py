"""Paths in weight space: state dicts blended tensor by tensor, along a line or a quadratic Bezier curve."""

from collections.abc import Callable, Sequence

from torch import Tensor

from weightspace.dtypes import widened
from weightspace.errors import ShapeMismatchError, UnknownNameError
from weightspace.symmetry import StateDict

Path = Callable[[float], dict[str, Tensor]]
"""The state dict at a time t: a at 0, b at 1."""


def line(a: StateDict, b: StateDict) -> Path:
    """Follow the straight line, `(1 - t) a + t b`."""
    return lambda t: blend((1 - t, t), (a, b))


def quadratic(a: StateDict, control: StateDict, b: StateDict) -> Path:
    """Follow the Bezier curve `(1 - t)^2 a + 2 t (1 - t) control + t^2 b` (Garipov et al., arXiv:1802.10026, equation 4)."""
    return lambda t: blend(((1 - t) ** 2, 2 * t * (1 - t), t**2), (a, control, b))


def blend(weights: Sequence[float], state_dicts: Sequence[StateDict]) -> dict[str, Tensor]:
    """Sum state dicts times weights, in float32 or better, in the dtypes of the first and on its devices.

    Integer and boolean tensors are the first's. Tied tensors are summed once and stay tied.

    Raises:
        UnknownNameError: one has a tensor that the first has not, or the other way round.
        ShapeMismatchError: a tensor has different shapes.
    """
    first = state_dicts[0]
    for other in state_dicts[1:]:
        expect_alike(first, other)
    made: dict[str, Tensor] = {}
    known: dict[tuple[tuple[int, ...], ...], Tensor] = {}
    for name, tensor in first.items():
        parts = [one[name] for one in state_dicts]
        where = tuple((part.data_ptr(), *part.shape, *part.stride()) for part in parts)
        if where not in known or not tensor.numel():
            known[where] = _sum(weights, parts)
        made[name] = known[where]
    return made


def _sum(weights: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    first = parts[0]
    if not (first.is_floating_point() or first.is_complex()):
        return first.clone()  # what is handed out may be written to
    wide = widened(first)
    total = weights[0] * wide
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = total + weight * part.to(wide)
    return total.to(first.dtype)


def expect_alike(a: StateDict, b: StateDict) -> None:
    """Both have the same tensors of the same shapes."""
    for one, other, where in ((a, b, "second"), (b, a, "first")):
        absent = [name for name in one if name not in other]
        if absent:
            raise UnknownNameError(
                f"the {where} state dict has no tensor '{absent[0]}', which the other one has; give two of one architecture"
            )
    for name, tensor in a.items():
        if tensor.shape != b[name].shape:
            raise ShapeMismatchError(
                f"tensor '{name}' has shape {tuple(tensor.shape)} in one state dict but {tuple(b[name].shape)} in the other; "
                "give two of one architecture"
            )
