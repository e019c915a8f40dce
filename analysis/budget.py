"""A budget of tensor values: what a stranger's recipe may make before it is stopped."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from weightspace.errors import WeightSpaceError


class Budget(TorchFunctionMode):
    """Counts the values of all tensors that are made in its block, on the meta device too, and stops where they are too many."""

    def __init__(self, values: int, refusal: WeightSpaceError, *, call: int = 1) -> None:
        """Make it.

        Args:
            values: that may be made in all.
            refusal: raised where they are exceeded.
            call: what each call counts besides, so that many small ones end too.
        """
        super().__init__()
        self.left, self.refusal, self.call = values, refusal, call

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, and count what it made."""
        made = function(*args, **(kwargs or {}))
        self.left -= self.call + (made.numel() if isinstance(made, Tensor) else 0)
        if self.left < 0:
            raise self.refusal
        return made


__all__ = ["Budget"]
