"""Set encoders: data sets as vectors, whatever the order of the examples of a class."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightspace.errors import GenerationError

FeatureMap = Callable[[Tensor], Tensor]
"""Makes of examples, (examples, ...), their features, (examples, features)."""


def few_shots(
    inputs: Tensor,
    targets: Int[Tensor, " examples"],
    classes: Sequence[int],
    shots: int,
    *,
    features: FeatureMap = lambda inputs: inputs.flatten(1),
    generator: torch.Generator | None,
) -> Float[Tensor, "classes shots features"]:
    """Describe a data set by a few examples of each class.

    Args:
        inputs: (examples, ...).
        targets: classes.
        classes: that the task is about, in the order of its outputs.
        shots: examples of each, drawn without replacement.
        features: what is taken of each example; the default takes it as it is.
        generator: draws the examples; None takes the first of each class.

    Raises:
        GenerationError: a class has fewer examples.

    Example:
        >>> inputs, targets = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([7, 7, 8])
        >>> few_shots(inputs, targets, [8, 7], 1, generator=torch.Generator()).shape
        torch.Size([2, 1, 1])
    """
    chosen = []
    for one in classes:
        own = torch.nonzero(targets == one)[:, 0]
        if len(own) < shots:
            raise GenerationError(
                f"{len(own)} examples of class {one}, but {shots} shots were asked for; ask for fewer, or take data with more"
            )
        order = torch.arange(len(own)) if generator is None else torch.randperm(len(own), generator=generator, device=generator.device)
        chosen.append(features(inputs[own[order[:shots].to(own.device)]]))
    return torch.stack(chosen)


class AttentionBlock(nn.Module):
    """Attention of a set to another, then a perceptron on each element, both residual: MAB (Lee et al., arXiv:1810.00825, equation 6)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        self.after_attention, self.after_perceptron = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, asking: Float[Tensor, "sets these dim"], asked: Float[Tensor, "sets those dim"]) -> Float[Tensor, "sets these dim"]:
        """Let the elements of one set look at those of another."""
        hidden = self.after_attention(asking + self.attention(asking, asked, asked, need_weights=False)[0])
        looked: Tensor = self.after_perceptron(hidden + self.perceptron(hidden))
        return looked


class InducedBlock(nn.Module):
    """Attention of a set to itself by way of a few learned points: ISAB (arXiv:1810.00825, equations 9 and 10)."""

    def __init__(self, dim: int, heads: int, points: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(points, dim) / dim**0.5)
        self.gather, self.spread = AttentionBlock(dim, heads), AttentionBlock(dim, heads)

    def forward(self, elements: Float[Tensor, "sets elements dim"]) -> Float[Tensor, "sets elements dim"]:
        """Let the elements look at what the points gathered of them."""
        gathered = self.gather(self.points.expand(len(elements), -1, -1), elements)
        looked: Tensor = self.spread(elements, gathered)
        return looked


class Pooling(nn.Module):
    """One vector of a set, by attention of one learned seed: PMA (arXiv:1810.00825, equation 11)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.seed = nn.Parameter(torch.randn(1, dim) / dim**0.5)
        self.before = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        self.block = AttentionBlock(dim, heads)

    def forward(self, elements: Float[Tensor, "sets elements dim"]) -> Float[Tensor, "sets dim"]:
        """Pool each set."""
        pooled: Tensor = self.block(self.seed.expand(len(elements), -1, -1), self.before(elements))
        return pooled[:, 0]


class SetEncoder(nn.Module):
    """A data set as a vector: a set transformer over the examples of each class, then one over the classes (arXiv:2402.18153, section 3.2).

    It makes no difference in which order the examples of a class come. That of the classes does, unlike in the original, since the outputs
    of a classifier follow it: each class is added a learned vector of its place.
    """

    def __init__(self, shape: tuple[int, int, int], *, dim: int = 64, heads: int = 2, points: int = 4, out: int = 64) -> None:
        """Make it.

        Args:
            shape: classes, shots and features; other numbers of shots can be encoded too.
            dim: of all hidden vectors.
            heads: of attention; a divisor of `dim`.
            points: learned ones that the examples of a class look at each other by.
            out: size of the vector.
        """
        super().__init__()
        classes, _, features = shape
        if heads < 1 or dim % heads:
            raise GenerationError(f"{heads} heads of attention do not divide {dim} dimensions; give a divisor")
        self.enter = nn.Linear(features, dim)
        self.places = nn.Parameter(torch.randn(classes, dim) / dim**0.5)
        self.of_examples, self.of_class = InducedBlock(dim, heads, points), Pooling(dim, heads)
        self.of_classes, self.of_all = AttentionBlock(dim, heads), Pooling(dim, heads)
        self.leave = nn.Linear(dim, out)

    def forward(self, examples: Float[Tensor, "sets classes shots features"]) -> Float[Tensor, "sets out"]:
        """Encode data sets."""
        classes = self.of_class(self.of_examples(self.enter(examples.flatten(0, 1)))).unflatten(0, examples.shape[:2])
        classes = classes + self.places
        encoded: Tensor = self.leave(self.of_all(self.of_classes(classes, classes)))
        return encoded


def alignment_loss(encoded: Float[Tensor, "pairs dim"], latents: Float[Tensor, "pairs dim"], temperature: float = 1.0) -> Float[Tensor, ""]:
    """Contrast of data sets and the networks trained on them, symmetric (arXiv:2402.18153; Radford et al., arXiv:2103.00020).

    The right answers are soft, as the vectors of both kinds are alike among themselves: several networks of a batch may be of one data set.

    Args:
        encoded: data sets.
        latents: of the networks trained on them, in the same order.
        temperature: by which similarities are divided; the soft answers are multiplied by it, as in the original's code.
    """
    logits = latents @ encoded.T / temperature
    alike = ((encoded @ encoded.T + latents @ latents.T) / 2 * temperature).detach().softmax(-1)
    return (nn.functional.cross_entropy(logits, alike) + nn.functional.cross_entropy(logits.T, alike.T)) / 2


__all__ = ["FeatureMap", "SetEncoder", "alignment_loss", "few_shots"]
