"""One unit for each unit, none twice (linear assignment)."""

import torch

from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.layer import Affine, stitching_layer


@stitching_layer("permutation", is_square=True, reference="Li et al., Convergent learning (arXiv:1511.07543), section 3.1")
def permutation(equations: Equations, *, scale: bool = False) -> Affine:
    """The permutation of units with the largest sum of correlations, by linear assignment, with an intercept.

    Where several are as good, as among units that do not vary, units stay where they are.

    Args:
        equations: of what is taken and what is wanted.
        scale: whether each unit has a factor of its own, that of least squares, which may be negative; then squares of correlations are summed,
            which is what the squared error falls by.
    """
    from scipy.optimize import linear_sum_assignment

    correlations = equations.correlations
    gain = correlations.square() if scale else correlations
    stays = 1e-9 * torch.eye(len(gain), dtype=gain.dtype, device=gain.device)
    rows, columns = (torch.as_tensor(one, device=gain.device) for one in linear_sum_assignment((gain + stays).cpu().numpy(), maximize=True))
    weight = torch.zeros_like(gain.T)
    weight[columns, rows] = slopes(equations)[rows, columns] if scale else 1.0
    return Affine(weight, equations.offset(weight))


def slopes(equations: Equations) -> torch.Tensor:
    """The factor by which each unit taken is nearest to each wanted, (taken, wanted); zero for units that do not vary."""
    return (equations.between / equations.x.diag()[:, None]).nan_to_num(posinf=0.0, neginf=0.0)


__all__ = ["permutation", "slopes"]
