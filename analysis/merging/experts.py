"""Soft merging of experts: the parameters of several modules averaged for each input by a router, which learns how."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MergeError
from weightspace.symmetry import StateDict


def merged_experts(experts: Sequence[StateDict], probabilities: Float[Tensor, "*examples experts"]) -> dict[str, Tensor]:
    """Average state dicts by probabilities: `sum_i p_i x_i`, differentiable in both.

    Args:
        experts: of one architecture.
        probabilities: one for each expert; with leading axes, of examples, every tensor of the result has them too.

    Returns:
        Tensors of integers are the first expert's, with no leading axes.

    Raises:
        MergeError: not as many probabilities as experts, or different tensors.

    Example:
        >>> merged_experts([{"w": torch.zeros(2)}, {"w": torch.ones(2)}], torch.tensor([0.25, 0.75]))
        {'w': tensor([0.7500, 0.7500])}
    """
    if not experts or probabilities.shape[-1] != len(experts):
        raise MergeError(f"{probabilities.shape[-1]} probabilities for {len(experts)} experts; give one for each")
    for number, one in enumerate(experts):
        different = sorted(set(one) ^ set(experts[0])) or [name for name in one if one[name].shape != experts[0][name].shape]
        if different:
            raise MergeError(f"tensor '{different[0]}' is missing or of another shape in expert {number}; give experts of one architecture")
    made: dict[str, Tensor] = {}
    for name, first in experts[0].items():
        if first.is_floating_point():
            made[name] = torch.tensordot(probabilities.to(first.dtype), torch.stack([one[name] for one in experts]), dims=1)
        else:
            made[name] = first
    return made


class SoftMergedExperts(nn.Module):
    """Experts of one architecture that act as one: for each example their parameters are averaged as the router says.

    Muqeeth, Liu and Raffel, Soft merging of experts with adaptive routing (SMEAR, arXiv:2306.03745). The input passes once,
    through the averaged expert, whose every parameter gets a gradient, and so does the router: no discrete choice is made. Both
    need training; a router that had none averages at random, however good the experts are.

    Where we depart: the router may be any module of the same input; the paper's is linear, behind a layer norm, on the mean over the
    sequence of the hidden state. Memory is that of one expert for each example of a batch. Experts with batch norms must be in eval mode.

    Shapes:
        - input: (examples, ...), as experts and router take it
        - output: (examples, ...), as experts give it
    """

    def __init__(self, experts: Sequence[nn.Module], router: nn.Module) -> None:
        """Take over the experts and the router.

        Args:
            experts: of one architecture; they become parts of this module and are trained with it.
            router: of the input, (examples, ...) to logits (examples, experts).

        Raises:
            MergeError: no experts.
        """
        super().__init__()
        if not experts:
            raise MergeError("soft merging needs at least one expert, found none; give some")
        self.experts, self.router = nn.ModuleList(experts), router

    def probabilities(self, inputs: Tensor) -> Float[Tensor, "examples experts"]:
        """What share each expert has in each example."""
        return self.router(inputs).softmax(-1)  # type: ignore[no-any-return]

    def forward(self, inputs: Tensor) -> Tensor:
        """Pass each example through its own average of the experts."""
        shares = self.probabilities(inputs)
        merged = merged_experts([dict(expert.named_parameters()) for expert in self.experts], shares)
        # Running statistics are averaged too, but take no gradient: torch refuses them one.
        merged |= merged_experts([dict(expert.named_buffers()) for expert in self.experts], shares.detach())
        own = {name: tensor for name, tensor in merged.items() if tensor.is_floating_point()}
        shared = {name: tensor for name, tensor in merged.items() if name not in own}

        def one(own: dict[str, Tensor], example: Tensor) -> Tensor:
            made: Tensor = torch.func.functional_call(self.experts[0], {**own, **shared}, (example[None],))
            return made.squeeze(0)

        made: Tensor = torch.func.vmap(one, randomness="different")(own, inputs)
        return made


__all__ = ["SoftMergedExperts", "merged_experts"]
