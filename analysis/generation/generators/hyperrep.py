"""Hyper-representations: networks drawn in the latent space of an autoencoder of their tokens, by a density of kernels."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.latent.minimising import drawn, minimise, noise_like
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError
from weightspace.metanets.batch import WeightBatch
from weightspace.metanets.families.sane import Sane, nt_xent
from weightspace.metanets.layout import Layout
from weightspace.metanets.tokens import Tokens, detokenise, tokenise
from weightspace.metanets.views import noised

CENTRES = ("dimension", "token", "network")


@weight_generator("hyperrep", learns=["networks"], reference="arXiv:2209.14733, arXiv:2406.09997")
class HyperRepresentation(WeightGenerator):
    """Tokens of networks through an autoencoder; drawn by kernels around the latents of the best networks, and decoded.

    Schürholt et al., hyper-representations (arXiv:2209.14733): the reconstruction is normalised layer by layer, and kernels stand in each
    latent dimension on its own, on the best 30 %; with the tokens and autoencoder of SANE (arXiv:2406.09997, see the metanet `sane`), whose
    kernels hold a token together. We depart from both in the contrast, which has two views of a network by noise alone: permuted ones
    would be told apart from what the decoder has to restore, and `augment` adds them where that is wanted.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        latent: int = 16,
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        gamma: float = 0.05,
        noise: float = 0.05,
        steps: int = 1500,
        batch_size: int = 32,
        learning_rate: float = 2e-3,
        best: float = 0.3,
        centre: str = "network",
        bandwidth: float = 1.0,
        rounds: int = 0,
        candidates: int = 200,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: none.
            latent: numbers of the latent of each token.
            hidden: width of the transformers.
            layers: of the encoder, and of the decoder.
            heads: of attention.
            gamma: share of the contrast in the loss.
            noise: deviation of what each view is multiplied by.
            steps: of learning.
            batch_size: networks a step.
            learning_rate: at the start.
            best: share of the networks, those of the least loss, that kernels stand on; where no task is given, of all.
            centre: what shares one kernel: each `dimension` of each token has its own as in hyper-representations, each `token` as in SANE,
                or all tokens of a `network`. The first two join parts of different networks, which do not work together unless all
                are of one run, even where they are aligned.
            bandwidth: of the kernels, in those of Scott's rule for one dimension.
            rounds: how often networks are drawn, and kernels put on the best of them and of those that they stood on, judged by the tasks, as
                SANE does; not without a task.
            candidates: networks that are drawn in a round.

        Raises:
            GenerationError: the symmetry of the networks is not known, or there is no such centre.
        """
        super().__init__(target, condition_shape)
        if target.spec is None:
            raise GenerationError("generator 'hyperrep' reads networks by their symmetry, which is not known; give checkpoints with a spec")
        if centre not in CENTRES:
            raise GenerationError(f"generator 'hyperrep' was given centre={centre!r}; expected one of {CENTRES}")
        self.gamma, self.noise, self.best, self.centre, self.bandwidth = gamma, noise, best, centre, bandwidth
        self.rounds, self.candidates = rounds, candidates
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate
        self.autoencoder = Sane([Layout.of(target.spec)], dim=latent, width=hidden, layers=layers, heads=heads)
        tokens = tokenise(self._batch(torch.zeros(1, target.numel)), self.autoencoder.token)
        self.centres = nn.Buffer(torch.zeros(*tokens.values.shape[1:]))
        self.scales = nn.Buffer(torch.ones(len(tokens.lengths)))
        self.latents = nn.Buffer(torch.zeros(0, len(tokens.lengths), latent))

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Learn the autoencoder, then keep the latents of the best networks, or of the best that are drawn around them.

        Raises:
            GenerationError: the loss is not finite, or there are rounds without a task.
        """
        assert material.networks is not None
        if self.rounds and not material.tasks:
            raise GenerationError("rounds keep the networks that are best at a task, and none was given; give one, or set rounds=0")
        flat = material.flat()
        tokens = tokenise(self._batch(flat), self.autoencoder.token)
        self.centres = nn.Buffer(tokens.values.mean(0))
        self.scales = nn.Buffer(_scales(tokens, self.centres))
        values = self._shrunk(tokens.values)

        def loss() -> Tensor:
            at = drawn(len(values), self.batch_size, generator).to(values.device)
            errors, seen = [], []
            for _ in range(2):
                latents = self.autoencoder.encode(self._tokens(tokens, noised(values[at], self.noise, generator)))
                errors.append((self.autoencoder.decode(latents, tokens) - values[at]).square()[:, tokens.is_real].mean())
                seen.append(self.autoencoder.projection(latents.mean(1)))
            contrast = nt_xent(seen[0], seen[1], self.autoencoder.temperature)
            return self.gamma * contrast + (1 - self.gamma) * torch.stack(errors).mean()

        minimise(loss, self.autoencoder.parameters(), steps=self.steps, learning_rate=self.learning_rate, progress=progress)
        with torch.no_grad():
            kept = math.ceil(self.best * len(flat)) if material.tasks else len(flat)
            chosen = self._best(material.networks.tensors, material, kept)
            self.latents = nn.Buffer(self.autoencoder.encode(self._tokens(tokens, values))[chosen])
            for _ in range(self.rounds):
                latents = torch.cat([self.latents, self._drawn(self.candidates, generator)])
                self.latents = nn.Buffer(latents[self._best(self._decoded(latents), material, kept)])

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw latents from the kernels, and decode them."""
        return self._decoded(self._drawn(count, generator))

    def _drawn(self, count: int, generator: torch.Generator) -> Float[Tensor, "networks tokens dim"]:
        """Latents from the kernels."""
        many, tokens, dim = self.latents.shape
        shape = {"dimension": (count, tokens, dim), "token": (count, tokens, 1), "network": (count, 1, 1)}[self.centre]
        at = torch.randint(many, shape, generator=generator, device=generator.device).to(self.latents.device)
        centre = self.latents.gather(0, at.expand(count, tokens, dim))
        width = self.bandwidth * self.latents.std(0, correction=0) * many**-0.2
        drawn_latents: Tensor = centre + width * noise_like(centre, generator)
        return drawn_latents

    def restored(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Stacked networks encoded and decoded again: what the autoencoder alone does to them."""
        tokens = tokenise(self._batch(self.target.flat(tensors)), self.autoencoder.token)
        return self._decoded(self.autoencoder.encode(self._tokens(tokens, self._shrunk(tokens.values))))

    def _decoded(self, latents: Float[Tensor, "networks tokens dim"]) -> dict[str, Tensor]:
        like = self._batch(latents.new_zeros(len(latents), self.target.numel))
        tokens = tokenise(like, self.autoencoder.token)
        values = self.autoencoder.decode(latents, tokens)
        return dict(detokenise(values * self.scales[:, None] + self.centres, like).tensors)

    def _shrunk(self, values: Float[Tensor, "networks tokens size"]) -> Float[Tensor, "networks tokens size"]:
        return (values - self.centres) / self.scales[:, None]

    def _batch(self, flat: Float[Tensor, "networks params"]) -> WeightBatch:
        """Rows as networks of the target's tensors alone, always in one order."""
        assert self.target.spec is not None
        return WeightBatch(Layout.of(self.target.spec), self.target.tensors(flat))

    @staticmethod
    def _tokens(tokens: Tokens, values: Tensor) -> Tokens:
        return Tokens(values, tokens.is_real, tokens.positions, tokens.lengths)

    def _best(self, networks: Mapping[str, Tensor], material: Material, count: int) -> Int[Tensor, " best"]:
        """The networks that are best in the mean over the tasks."""
        stacked = self.target.plain(networks)
        total = len(next(iter(stacked.values())))
        if count >= total:
            return torch.arange(total, device=self.centres.device)
        losses = torch.zeros(total, dtype=torch.float64)
        for task in material.tasks:
            losses += torch.tensor([one["loss"] for one in task.evaluate_many(stacked, self.target.whole)])
        return losses.argsort()[:count].to(self.centres.device)


def _scales(tokens: Tokens, centres: Float[Tensor, "tokens size"]) -> Float[Tensor, " tokens"]:
    """For each token the root mean square of its layer's values, its networks' mean taken off: the loss counts all layers alike."""
    layer = tokens.positions[:, 1]
    squares = ((tokens.values - centres).square() * tokens.is_real).sum((0, 2))
    counts = (tokens.is_real.sum(1) * len(tokens.values)).to(squares)
    zero = squares.new_zeros(int(layer.max()) + 1)
    rms = (zero.index_add(0, layer, squares) / zero.index_add(0, layer, counts)).sqrt()[layer]
    return torch.where(rms > 0, rms, 1.0)


__all__ = ["CENTRES", "HyperRepresentation"]
