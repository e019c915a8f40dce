"""NASWOT: a score of a network that costs one pass over a batch and no training, from which of its units are active on which examples."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from weightspace.analysis.stitching.costs import device_of
from weightspace.errors import AnalysisError
from weightspace.task import Batch, batch_inputs, batch_size, moved

GATES = frozenset(
    "relu relu_ leaky_relu leaky_relu_ hardtanh hardtanh_ gelu gelu_ silu silu_ elu elu_ hardswish hardswish_ mish mish_ _prelu_kernel".split()
)
"""The operators whose outputs are read: rectifiers and their smooth kin, and no others (neither linear layers nor attention, which DeRy's code
reads too). A unit is active where its output is above 0."""


def naswot(module: nn.Module, batch: Batch, *, ridge: float = 1.0) -> float:
    """The log determinant of how many units agree on each two examples.

    Mellor et al., Neural Architecture Search without Training (arXiv:2006.04647), equation 2: with c the binary code of an example over all rectified
    units, at all places, `K_ij = units - hamming(c_i, c_j)`. A ridge is added to its diagonal (an addition): two examples with one code make K singular, which happens in
    small networks. The paper's networks are not trained; ours are, in pieces. Larger networks score higher, so compare within one budget.

    Args:
        module: run in eval mode, with no gradients; its own mode is left as it is.
        batch: of a task, of some tens of examples.
        ridge: added to the diagonal, in units.

    Returns:
        The natural logarithm.

    Raises:
        AnalysisError: fewer than two examples, or a module without rectifiers.
    """
    examples = int(batch_size(batch))
    if examples < 2:
        raise AnalysisError(f"expected two examples or more to tell apart, found {examples}; give a larger batch")
    args, kwargs = batch_inputs(moved(batch, device_of(module)))
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), _Codes(examples) as codes:
            module(*args, **kwargs)
    finally:
        module.train(was_training)
    if codes.agreement is None:
        raise AnalysisError("expected a network with rectifiers such as ReLU or GELU, found none that ran; choose without the proxy")
    kernel = codes.agreement + ridge * torch.eye(examples, dtype=torch.float64, device=codes.agreement.device)
    value = float(torch.linalg.slogdet(kernel).logabsdet)
    return value if math.isfinite(value) else -math.inf


class _Codes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums agreement over the outputs of rectifiers, wherever they are called: parts of a traced network have no modules to hook."""

    def __init__(self, examples: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.examples = examples
        self.agreement: Tensor | None = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in GATES and isinstance(out, Tensor) and out.ndim and len(out) == self.examples:
            active = (out > 0).flatten(1).double()
            agreed = active @ active.T + (1 - active) @ (1 - active).T
            self.agreement = agreed if self.agreement is None else self.agreement + agreed
        return out


__all__ = ["GATES", "naswot"]
