"""A hypernetwork that reads an image in the tokens of an encoder, and masks the base weights of an implicit representation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weightspace.analysis.generation.drawing import conditions_of
from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.hypernetworks.encoders import encoder_for
from weightspace.analysis.generation.material import Material, tasks_of
from weightspace.analysis.generation.target import Target
from weightspace.analysis.generation.through_tasks import learn_through
from weightspace.analysis.generation.transformer import Transformer
from weightspace.errors import GenerationError, UnknownNameError
from weightspace.modules import tensors_of

FORMS = ("masks", "deltas")
SMALL = 1e-12
"""Rows of norms up to this are rows of zeros."""


@weight_generator("foundation", learns=["tasks"], takes=["condition"], reference="arXiv:2503.00838, with the masks of arXiv:2208.02801")
class Foundation(WeightGenerator):
    """A transformer over an encoder's tokens of an image and learned tokens of the weights, which become masks of shared weights.

    Gu and Yeung-Levy, Foundation Models Secretly Understand Neural Network Weights (arXiv:2503.00838), on the hypernetwork of Chen and
    Wang (arXiv:2208.02801). Each weight token stands for a group of units; a linear head makes of it the mask that their base weights are
    multiplied by, and each unit's weights get the norm of its base weights again. We depart in that norm (1 there), which sinusoidal networks
    depend on; in that each unit of a group has a mask of its own; and in that biases and single rows (an output) are masked without a norm.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        encoder: str = "patches",
        tune_encoder: bool = False,
        patch: int = 2,
        form: str = "masks",
        groups: int = 8,
        dim: int = 64,
        layers: int = 2,
        heads: int = 4,
        steps: int = 1000,
        together: int = 16,
        learning_rate: float = 1e-3,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: of the images or signals.
            encoder: `patches`, `random`, or a `module:function` of one's own; see `encoder_for`.
            tune_encoder: whether the encoder learns too.
            patch: side of the patches of a built-in encoder.
            form: `masks` multiply the base weights, `deltas` are added to them.
            groups: weight tokens of each tensor, no more than it has units.
            dim: size of a token; a built-in encoder's too.
            layers: of the transformer.
            heads: of its attention.
            steps: of Adam.
            together: tasks a step.
            learning_rate: of Adam.

        Raises:
            GenerationError: no conditions, or an encoder that cannot read them.
            UnknownNameError: no such encoder or form.
        """
        super().__init__(target, condition_shape)
        if condition_shape is None:
            raise GenerationError("generator 'foundation' reads an image or signal as its condition; give one with each task")
        if form not in FORMS:
            raise UnknownNameError.of("form of generated weights", form, FORMS)
        self.form, self.steps, self.together, self.learning_rate = form, steps, together, learning_rate
        self.encoder, tokens, size = encoder_for(encoder, tuple(condition_shape), patch=patch, dim=dim)
        self.encoder.requires_grad_(tune_encoder)
        self.read = nn.Linear(size, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, dim))
        self.units = [(shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape)) for shape in target.shapes.values()]
        self.counts = [max(1, min(groups, rows)) for rows, _ in self.units]
        self.tokens = nn.Parameter(0.02 * torch.randn(sum(self.counts), dim))
        self.transformer, self.norm = Transformer(dim, layers=layers, heads=heads), nn.LayerNorm(dim)
        made = [nn.Linear(dim, -(-rows // count) * cells) for (rows, cells), count in zip(self.units, self.counts, strict=True)]
        for head in made:  # every network begins as the base
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.heads = nn.ModuleList(made)
        fans = [target.fan_in(name) if len(shape) > 1 else math.prod(shape) for name, shape in target.shapes.items()]
        self.base = nn.ParameterList(torch.randn(unit) / fan**0.5 for unit, fan in zip(self.units, fans, strict=True))

    def train(self, mode: bool = True) -> "Foundation":
        """As for all modules, but that the encoder stays in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def weights(self, condition: Tensor) -> dict[str, Tensor]:
        """The weights for one image, differentiably."""
        return {name: tensor[0] for name, tensor in self._stacked(condition[None]).items()}

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Learn through the tasks; the base begins as the module of the first.

        Raises:
            GenerationError: there is no task for each condition, or the loss is not finite.
        """
        assert material.conditions is not None
        conditions, tasks = material.conditions.to(self.positions), [task for _, task in tasks_of(material)]
        if len(tasks) != len(conditions):
            raise GenerationError(f"{len(conditions)} conditions for {len(tasks)} tasks; give one condition with each task")
        self._begin_as(tasks[0].module)

        def many_weights(drawn: Sequence[int]) -> list[dict[str, Tensor]]:
            made = self._stacked(conditions[list(drawn)])
            return [self.target.whole({name: tensor[at] for name, tensor in made.items()}) for at in range(len(drawn))]

        learn_through(
            (parameter for parameter in self.parameters() if parameter.requires_grad),
            lambda at: many_weights([at])[0],
            tasks,
            steps=self.steps,
            learning_rate=self.learning_rate,
            together=self.together,
            generator=generator,
            progress=progress,
            many_weights_of=many_weights,
        )

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Make the weights for the conditions; nothing is drawn."""
        conditions = conditions_of(self, count, wish)
        assert conditions is not None
        return self._stacked(conditions.to(self.positions))

    def _stacked(self, conditions: Tensor) -> dict[str, Tensor]:
        """The weights for several images, (images, *shape) by name."""
        told = self.read(self.encoder(conditions)) + self.positions
        asked = self.tokens.expand(len(conditions), *self.tokens.shape)
        found = self.norm(self.transformer(torch.cat([told, asked], 1))[:, told.shape[1] :])
        made = {}
        for at, (part, name) in enumerate(zip(torch.split(found, self.counts, 1), self.target.shapes, strict=True)):
            made[name] = self._weights(at, self.heads[at](part)).reshape(len(conditions), *self.target.shapes[name])
        return made

    def _weights(self, at: int, change: Tensor) -> Tensor:
        """The weights of one tensor, (images, rows, cells), from what its head says of each group."""
        rows, cells = self.units[at]
        base: Tensor = self.base[at]
        change = change.reshape(len(change), -1, cells)[:, :rows]
        if self.form == "deltas":
            return base + change
        masked = base * (1 + change)
        return masked if rows == 1 else masked * _scale(masked, base)

    @torch.no_grad()
    def _begin_as(self, module: nn.Module) -> None:
        """Take a module's weights as the base."""
        state, named = (
            module.state_dict(),
            tensors_of(module, self.target.whole({n: torch.empty(s) for n, s in self.target.shapes.items()})),
        )
        given = {own: state[name] for name, own in named.items()}
        for base, name in zip(self.base, self.target.shapes, strict=True):
            base.copy_(given[name].reshape(base.shape))


def _scale(masked: Tensor, base: Tensor) -> Tensor:
    """What gives the rows of masked weights the norms of their base; 1 for rows of zeros."""
    norm, wanted = (torch.linalg.vector_norm(one, dim=-1, keepdim=True) for one in (masked, base))
    some = (norm > SMALL) & (wanted > SMALL)
    return torch.where(some, wanted / torch.where(some, norm, 1.0), 1.0)
