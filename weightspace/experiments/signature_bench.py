"""A bench for signatures: the networks of one seed, patched in any way, and judged on corrupted and clean examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from weightspace.analysis.connectivity import repair_many
from weightspace.analysis.signatures import Signature, apply, extract
from weightspace.experiments.signature_models import Examples, Networks, Setting, Weights, accuracy
from weightspace.task import Task

STRENGTHS = (0.5, 1.0, 1.5, 2.0)
UNLABELLED = 500  # corrupted training examples on which running statistics are measured
Norms = Literal["kept", "replaced", "anew"]
NORMS: tuple[Norms, ...] = get_args(Norms)
Patch = Callable[[float], Weights]


@dataclass(frozen=True)
class Bench:
    """The networks of one seed, and what they are judged by."""

    setting: Setting
    seed: int
    trained: Networks

    @property
    def standard(self) -> Weights:
        """The network that is patched."""
        return self.trained.standard["a"]

    def corrupted(self, corruption: str, examples: Examples, seed: int) -> Examples:
        """Examples as a corruption leaves them, always in the same way."""
        return self.setting.corruptions[corruption](examples[0], torch.Generator().manual_seed(seed)), examples[1]

    def judge(self, weights: Weights, corruption: str, data: str = "a") -> dict[str, float]:
        """Accuracy on test examples, corrupted and clean."""
        test = self.setting.test[data]
        both = {"corrupted": self.corrupted(corruption, test, 1), "clean": test}
        return {name: accuracy(self.setting, weights, examples) for name, examples in both.items()}

    def best(self, patch: Patch, corruption: str, data: str = "a", strengths: Sequence[float] = STRENGTHS) -> dict[str, float]:
        """Choose a strength on examples held out for that, by the mean of both accuracies, and measure what it gives."""
        held = self.setting.tune[data]
        both = (held, self.corrupted(corruption, held, 2))
        scores = {strength: sum(accuracy(self.setting, patch(strength), one) for one in both) for strength in strengths}
        chosen = max(scores, key=lambda strength: scores[strength])
        return {**self.judge(patch(chosen), corruption, data), "strength": chosen}

    def anew(self, weights: Weights, corruption: str, data: str = "a") -> Weights:
        """Measure running statistics anew on corrupted training examples; their classes are not looked at."""
        inputs, classes = self.corrupted(corruption, self.setting.learn[data], 3)
        task = Task.classification(self.setting.module, inputs[:UNLABELLED], classes[:UNLABELLED])
        return repair_many(task, dict(weights), [dict(weights)], mode="reset").state_dict

    def signature(self, corruption: str, layers: str = "all") -> Signature:
        """The signature of a corruption."""
        return extract(self.trained.start, self.standard, self.trained.robust[corruption], layers=layers)

    def patched(self, signatures: Signature | Sequence[Signature], corruption: str, norms: Norms, model: Weights | None = None,
                weights: Sequence[float] | None = None, data: str = "a") -> Patch:  # fmt: skip
        """A network patched with any strength."""
        target = self.standard if model is None else model

        def patch(strength: float) -> Weights:
            buffers = "replace" if norms == "replaced" else "keep"
            made = apply(target, signatures, strength=strength, weights=weights, buffers=buffers).state_dict()
            return self.anew(made, corruption, data) if norms == "anew" else made

        return patch

    def unprojected(self, corruption: str) -> Signature:
        """The task vector of a corruption, as a signature from which nothing was projected off."""
        return extract(self.standard, self.standard, moved_by(self.standard, self.trained.robust[corruption], self.trained.start))

    def chance(self, signature: Signature) -> Signature:
        """A signature of normal numbers, of the same norm in each tensor."""
        generator = torch.Generator().manual_seed(self.seed)
        robust = dict(self.standard) | {name: self.standard[name] + _like(change, generator) for name, change in signature.items()}
        norms = {name: signature.stored[f"norm.{name}"] for name in signature.norms}
        return extract(self.standard, self.standard, robust | norms)

    @cached_property
    def signatures(self) -> Mapping[str, Signature]:
        """Of all corruptions, whole."""
        return {name: self.signature(name) for name in self.setting.corruptions}


def moved_by(weights: Weights, tuned: Weights, start: Weights) -> Weights:
    """Weights plus what a training did; batch norms are those that it ended with."""
    return {name: tensor if "norm" in name else weights[name] + tensor - start[name] for name, tensor in tuned.items()}


def _like(change: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(change.shape, generator=generator)
    return drawn * float(change.norm() / drawn.norm())
