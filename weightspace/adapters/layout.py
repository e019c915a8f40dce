"""Which way round a dense weight lies: (out, in) as in a Linear, or (in, out) as in the Conv1D of GPT-2."""

from collections.abc import Mapping

from weightspace.checkpoint import TensorInfo


class Layout:
    """What a checkpoint's shapes say of the orientation of its dense weights.

    A bias is as long as its module has outputs, which settles every weight that is not square. A square one lies as those
    beside it: what is known of the nearest module that holds it. PEFT asks the module's class, which a checkpoint has not, and
    the flag in its config is that of whichever module came last.
    """

    def __init__(self, info: Mapping[str, TensorInfo]) -> None:
        self._info = info
        self._known: dict[str, bool] = {}
        for name, one in info.items():
            lies = self._by_bias(name, one.shape)
            if lies is not None:
                for parent in _parents(name):
                    self._known.setdefault(parent, lies)

    def is_transposed(self, name: str, default: bool = False) -> bool:
        """Whether a dense weight is (in, out); `default` where no shape tells."""
        shape = self._info[name].shape
        if len(shape) != 2:
            return False
        lies = self._by_bias(name, shape)
        if lies is None:
            lies = next((self._known[parent] for parent in _parents(name) if parent in self._known), default)
        return lies

    def _by_bias(self, name: str, shape: tuple[int, ...]) -> bool | None:
        """What the length of the bias beside a weight says of it."""
        bias = self._info.get(f"{name.removesuffix('weight')}bias")
        if len(shape) != 2 or shape[0] == shape[1] or bias is None or len(bias.shape) != 1 or bias.shape[0] not in shape:
            return None
        return bias.shape[0] == shape[1]


def _parents(name: str) -> list[str]:
    """The modules that hold a tensor, the nearest first; the model itself is last.

    Example:
        >>> _parents("h.0.attn.weight")
        ['h.0.attn', 'h.0', 'h', '']
    """
    parts = name.split(".")[:-1]
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
