"""Flow matching on whole networks: a velocity field that carries noise to the weights of a zoo along straight lines."""

import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.drawing import conditions_of
from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.latent.minimising import drawn, minimise, noise_like
from weightspace.analysis.generation.latent.principal import Principal
from weightspace.analysis.generation.latent.residual import Residual, two_layers
from weightspace.analysis.generation.latent.standardising import Standard
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError

SOLVERS = ("euler", "heun")
_CODES = 16  # frequencies of the time


@weight_generator("flow", learns=["networks"], takes=["condition"], reference="arXiv:2601.05052")
class Flow(WeightGenerator):
    """Standardised weights at the end of straight lines from normal noise; fit it on aligned networks.

    Gupta et al., DeepWeightFlow (arXiv:2601.05052), on the lines `x_t = (1 - t) x_0 + t x_1` of Lipman et al. (arXiv:2210.02747).
    We depart from it in that weights are standardised, and in that the network tells where a line ends: the velocity
    is `(x_1 - x_t) / (1 - t)` as before, and its squared error weighs `(1 - t)^2`. A network narrower than the weights could not
    tell the velocity itself, of which all of the noise is a part.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        hidden: int = 256,
        blocks: int = 3,
        components: int = 0,
        source: float = 1.0,
        temperature: float = 1.0,
        jitter: float = 0.0,
        steps: int = 2000,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        solver: str = "heun",
        solver_steps: int = 20,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: of conditions, which are laid into a row beside the weights.
            hidden: width of the velocity field.
            blocks: residual ones, of the velocity field.
            components: principal components that weights are reduced to; 0 leaves them whole.
            source: standard deviation of the noise that lines start from, in standard deviations of the weights.
            temperature: what that noise is multiplied by when networks are drawn.
            jitter: standard deviation of noise on the ends of lines, in learning.
            steps: of learning.
            batch_size: lines a step.
            learning_rate: at the start.
            solver: `euler` or `heun`; heun's last step is one of euler's.
            solver_steps: from noise to weights.

        Raises:
            GenerationError: no such solver.
        """
        super().__init__(target, condition_shape)
        if solver not in SOLVERS:
            raise GenerationError(f"generator 'flow' has no solver '{solver}'; expected euler or heun")
        self.source, self.temperature, self.jitter = source, temperature, jitter
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate
        self.solver, self.solver_steps = solver, solver_steps
        self.components = min(components, target.numel)
        self.standard = Standard(target.numel)
        self.principal = Principal(target.numel, self.components) if self.components else None
        known = math.prod(condition_shape) if condition_shape is not None else 0
        self.asked = Standard(known)
        self.field: nn.Module = Ends(self.components or target.numel, known, hidden, blocks)

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Match the flow of lines to all networks.

        Raises:
            GenerationError: fewer networks than components, or the loss is not finite.
        """
        flat = material.flat()
        if self.components > len(flat):
            raise GenerationError(f"{self.components} components were asked for of {len(flat)} networks; ask for at most as many")
        self.standard = Standard.of(flat)
        ends = self.standard.shrink(flat)
        if self.principal is not None:
            self.principal = Principal.of(ends, self.components)
            ends = self.principal.shrink(ends)
        conditions = flat.new_zeros(len(flat), 0) if material.conditions is None else material.conditions.reshape(len(flat), -1).to(flat)
        self.asked = Standard.of(conditions)
        conditions = self.asked.shrink(conditions)

        def loss() -> Tensor:
            at = drawn(len(ends), self.batch_size, generator).to(ends.device)
            end = ends[at] + self.jitter * noise_like(ends[at], generator)
            time = torch.rand(len(at), 1, generator=generator, device=generator.device).to(ends)
            place = (1 - time) * self.source * noise_like(end, generator) + time * end
            told: Tensor = self.field(place, time, conditions[at])
            return (told - end).square().mean()

        minimise(loss, self.field.parameters(), steps=self.steps, learning_rate=self.learning_rate, progress=progress)

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw noise, and follow the flow."""
        like = self.standard.mean
        given = conditions_of(self, count, wish)
        asked = self.asked.shrink(like.new_zeros(count, 0) if given is None else given.reshape(count, -1).to(like))
        place = self.source * self.temperature * noise_like(like.new_empty(count, self.components or self.target.numel), generator)
        for step in range(self.solver_steps):
            place = self._onward(place, step / self.solver_steps, (step + 1) / self.solver_steps, asked)
        return self.target.tensors(self.standard.grow(place if self.principal is None else self.principal.grow(place)))

    def velocity(self, place: Float[Tensor, "lines size"], time: float, asked: Float[Tensor, "lines known"]) -> Tensor:
        """The velocity at a time before 1."""
        told: Tensor = self.field(place, place.new_full((len(place), 1), time), asked)
        return (told - place) / (1 - time)

    def _onward(self, place: Tensor, time: float, then: float, asked: Tensor) -> Tensor:
        """One step of the solver."""
        first = self.velocity(place, time, asked)
        ahead = place + (then - time) * first
        if self.solver == "euler" or then >= 1:
            return ahead
        return place + (then - time) * (first + self.velocity(ahead, then, asked)) / 2


class Ends(Residual):
    """Tells where lines end, from places on them and what `Moment` takes."""

    def __init__(self, size: int, known: int, hidden: int, blocks: int) -> None:
        """Make it.

        Args:
            size: of a place.
            known: numbers of a condition.
            hidden: width of the residual stream.
            blocks: residual ones.
        """
        super().__init__(size, width=hidden, blocks=blocks, tell=partial(Moment, known=known), is_normed=False)
        nn.init.zeros_(self.leave.weight)  # at first every line ends at the mean of all networks
        nn.init.zeros_(self.leave.bias)


class Moment(nn.Module):
    """What is known of a place on a line, as one vector: the time, and what is asked for."""

    def __init__(self, width: int, *, known: int) -> None:
        """Make it for a width; see `Ends`."""
        super().__init__()
        self.layers = two_layers(2 * _CODES + known, width)

    def forward(self, time: Float[Tensor, "lines 1"], asked: Float[Tensor, "lines known"]) -> Float[Tensor, "lines width"]:
        """Encode it."""
        angle = time * torch.linspace(0, math.log(100.0), _CODES, device=time.device, dtype=time.dtype).exp()
        told: Tensor = self.layers(torch.cat([angle.sin(), angle.cos(), asked], -1))
        return told
