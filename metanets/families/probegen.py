"""Probing: networks are run on a set of inputs, and what they answer is read by a perceptron."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import Honours, MetaNet, metanet
from weightspace.metanets.probes import Generator, Noise, input_shape, output_size
from weightspace.metanets.running import run
from weightspace.metanets.standardise import Standardise

EVERY: tuple[Honours, ...] = ("permutation", "sign", "scale", "rotation", "orthogonal", "linear")
"""What leaves the function as it is leaves its values at the probes as they are."""


class Probing(MetaNet):
    """A perceptron on what networks return for some inputs.

    Attributes:
        probes: makes the inputs when called.
        outputs: length of what a network returns for one.
    """

    def __init__(self, probes: nn.Module, count: int, outputs: int, *, dim: int, width: int, layers: int) -> None:
        """Put one together.

        Args:
            probes: a module that returns them, called with nothing.
            count: how many there are.
            outputs: length of what a network returns for one.
            dim: length of the vector.
            width: of hidden layers.
            layers: of the perceptron.
        """
        super().__init__()
        self.dim, self.probes, self.outputs = dim, probes, outputs
        self.standardise = Standardise(outputs)
        sizes = [count * outputs, *[width] * (layers - 1), dim]
        steps = [part for k in range(layers) for part in (nn.ReLU(), nn.Linear(sizes[k], sizes[k + 1]))]
        self.layers = nn.Sequential(*steps[1:])

    @torch.no_grad()
    def fit_inputs(self, networks: WeightSet) -> None:
        """Take mean and deviation of each output, over the networks to be trained on and the probes as they are at first."""
        self.standardise.fit(torch.cat([self.answers(batch).flatten(0, 1) for batch in networks.batches]))

    def answers(self, batch: WeightBatch) -> Float[Tensor, "networks probes outputs"]:
        """What the networks return for each probe, positions averaged.

        Raises:
            MetanetError: the networks came without a module, or return something of another size.
        """
        probes: Tensor = self.probes()
        found = run(batch, probes)
        rest = found.shape[2:]
        if found.shape[1:2] == probes.shape[:1]:
            if rest.numel() == self.outputs:
                return found.reshape(*found.shape[:2], self.outputs)
            if rest[-1:] == (self.outputs,):  # of each position in a sequence
                return found.flatten(2, -2).mean(2)
            if rest[:1] == (self.outputs,):  # of each cell of a map
                return found.flatten(3).mean(3)
        raise MetanetError(
            f"networks returned {list(found.shape[1:])} for {len(probes)} probes, expected {self.outputs} outputs for each; "
            "build a metanet with inputs=... and outputs=... of these networks"
        )

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks by running them."""
        answers = self.answers(batch)
        made: Tensor = self.layers(self.standardise(answers.flatten(0, 1)).reshape(len(answers), -1))
        return made


@metanet("probegen", reference="arXiv:2410.10811", honours=EVERY, reads="function", any_architecture=True)
def probegen(
    layouts: Sequence[Layout],
    *,
    dim: int = 64,
    inputs: Sequence[int] = (),
    outputs: int = 0,
    probes: int = 64,
    latent: int = 32,
    width: int = 128,
    layers: int = 4,
    scale: float = 1.0,
) -> MetaNet:
    """What networks return for learned inputs, made by a deep linear generator, through a perceptron.

    Args:
        layouts: of architectures whose inputs and outputs have one shape.
        dim: length of the vector.
        inputs: shape of one input; by default a vector as long as the first layer says. A module of sequences takes the probes for
            one sequence unless positions are given here.
        outputs: length of what a network returns for one; by default as the last layer says.
        probes: how many.
        latent: length of the latents that they are made of.
        width: of the perceptron's hidden layers.
        layers: of the perceptron.
        scale: of the probes (see `weightspace.metanets.probes.Generator`).

    Raises:
        MetanetError: the shapes are not given, and specs do not tell them.
    """
    shape = input_shape(layouts, "probegen", inputs)
    generator = Generator(probes, shape, latent=latent, scale=scale)
    return Probing(generator, probes, outputs or output_size(layouts, "probegen"), dim=dim, width=width, layers=layers)


@metanet("probe_noise", reference="arXiv:2410.10811", honours=EVERY, reads="function", any_architecture=True)
def probe_noise(
    layouts: Sequence[Layout],
    *,
    dim: int = 64,
    inputs: Sequence[int] = (),
    outputs: int = 0,
    probes: int = 64,
    width: int = 128,
    layers: int = 4,
    scale: float = 1.0,
) -> MetaNet:
    """What networks return for random inputs that are never learned, through a perceptron: the control of `probegen`.

    Args:
        layouts: of architectures whose inputs and outputs have one shape.
        dim: length of the vector.
        inputs: shape of one input; by default a vector as long as the first layer says.
        outputs: length of what a network returns for one; by default as the last layer says.
        probes: how many.
        width: of the perceptron's hidden layers.
        layers: of the perceptron.
        scale: deviation of the probes.

    Raises:
        MetanetError: the shapes are not given, and specs do not tell them.
    """
    shape = input_shape(layouts, "probe_noise", inputs)
    noise = Noise(probes, shape, scale=scale)
    return Probing(noise, probes, outputs or output_size(layouts, "probe_noise"), dim=dim, width=width, layers=layers)


__all__ = ["EVERY", "Probing", "probe_noise", "probegen"]
