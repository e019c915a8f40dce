"""The linear assignment problem: send members to members so that the gains add up to the most."""

import torch
from torch import Tensor


def assign(gains: Tensor, *, maximise: bool = True, solver: str = "scipy") -> Tensor:
    """The column of each row in the best assignment."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(gains.detach().double().cpu().numpy(), maximize=maximise)[1])
