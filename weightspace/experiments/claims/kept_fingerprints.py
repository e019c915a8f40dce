"""That a fingerprint of the weights stays what it is under symmetries and fine-tuning, and is another for networks of other seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import torch

import weightspace as ws
from weightspace.analysis.fingerprints import fingerprint, similarity
from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tasks import VARIANTS
from weightspace.experiments.train import train, train_from
from weightspace.symmetry import act

SHAPE, WIDTH, BEFORE, TUNING = "mnist1d-mlp", 64, 1000, 300
TARGET = VARIANTS[0]


@claim(
    "kept-fingerprints",
    statement="Invariants of a network's weights identify it: they survive permutation and scaling of units and further training, and differ between networks of other seeds.",
    source="Zeng et al., HuRef: human-readable fingerprint for large language models, arXiv:2312.04828, sections 3 and 5",
    topic="weights",
    seeds=5,
    tries=("measure fingerprint", "measure fingerprint_similarity"),
)
def kept_fingerprints(seeds: Sequence[int]) -> Iterator[Finding]:
    """Compare MNIST-1D perceptrons with themselves moved by a random element, with what was tuned from them, and with all the other seeds."""
    examples = mnist1d()
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    spec = ws.trace(module, examples.test[:4])
    target = replace(examples, train=TARGET.inputs(examples.train))
    bases = train(ARCHITECTURES[SHAPE], WIDTH, examples, seeds, BEFORE)
    tuned = train_from(module, bases, target, [100 + seed for seed in seeds], TUNING)
    prints = [fingerprint(one, spec) for one in bases]
    moved = [
        similarity(own, fingerprint(act(spec.random(torch.Generator().manual_seed(seed)), base), spec))
        for seed, base, own in zip(seeds, bases, prints, strict=True)
    ]
    kin = [similarity(own, fingerprint(one, spec)) for own, one in zip(prints, tuned, strict=True)]
    pairs = {(i, j): similarity(prints[i], prints[j]) for i, j in combinations(range(len(prints)), 2)}
    nearest = [max(value for pair, value in pairs.items() if at in pair) for at in range(len(prints))]
    yield at_least("similarity to itself, permuted and scaled", moved, 1 - 1e-6)
    yield at_least("similarity to what was tuned from it", kin, 0.9, baseline=nearest, against="the nearest of the other seeds")
    yield above("the same", kin, nearest, "the nearest of the other seeds")
