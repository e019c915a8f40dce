"""Which way round a dense weight lies: (out, in) as in a Linear, or (in, out) as in the Conv1D of GPT-2."""

from collections.abc import Mapping

from weightspace.checkpoint import TensorInfo


class Layout:
    """What a checkpoint's shapes say of the orientation of its dense weights.

    A bias is as long as its module has outputs, which settles every weight that has one and is not square. A square one lies as
    those beside it: what is known of the nearest module that holds it. PEFT asks the module's class, which a checkpoint has not,
    and the flag in its config is that of whichever module came last.
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
        """Whether a dense weight is (in, out); `default` where no shape tells, as without a bias."""
        shape = self._info[name].shape
        if len(shape) != 2 or self._bias(name) is None:
            return default and len(shape) == 2
        lies = self._by_bias(name, shape)
        if lies is None:
            lies = next((self._known[parent] for parent in _parents(name) if parent in self._known), default)
        return lies

    def _by_bias(self, name: str, shape: tuple[int, ...]) -> bool | None:
        """What the length of the bias beside a weight says of it."""
        bias = self._bias(name)
        if bias is None or len(shape) != 2 or shape[0] == shape[1] or bias not in shape:
            return None
        return bias == shape[1]

    def _bias(self, name: str) -> int | None:
        """How long the bias beside a weight is."""
        bias = self._info.get(f"{name.removesuffix('weight')}bias")
        return bias.numel if bias is not None and name.endswith("weight") else None


def _parents(name: str) -> list[str]:
    """The modules that hold a tensor, the nearest first; the model itself is last.

    Example:
        >>> _parents("h.0.attn.weight")
        ['h.0.attn', 'h.0', 'h', '']
    """
    parts = name.split(".")[:-1]
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
