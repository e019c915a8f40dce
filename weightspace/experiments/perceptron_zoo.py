"""Zoos of perceptrons of one shape, trained well and badly on the spot, with what metanets tell of them."""

from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import weightspace as ws
from weightspace.metanets import Examples, Predictor, Schedule, WeightBatch, WeightSet, build, train
from weightspace.metanets.families.statistics import statistics
from weightspace.metanets.heads import kendall
from weightspace.zoo.populations import data
from weightspace.zoo.populations.classifiers import built
from weightspace.zoo.populations.mlps import mlps
from weightspace.zoo.populations.sirens import coordinates, sirens

NETWORKS = 400
LEARNED, CHOSEN = 0.6, 0.75
SCHEDULE = Schedule(epochs=30, patience=8, batch_size=32, learning_rate=3e-3)

Parts = tuple[Examples, Examples, Examples]
"""Networks to learn from, to choose the epoch by, and to judge by."""


@lru_cache(maxsize=4)
def perceptrons(seed: int, count: int = NETWORKS) -> Parts:
    """Perceptrons 40-16-16-10 of MNIST-1D, one run each, with their test accuracies."""
    made = list(mlps(seed=seed, count=count, widths=[16], depths=[2], activations=["relu"], jobs=1))
    targets = [one.metrics["test"]["accuracy"] for one in made if one.metrics is not None]
    return _parts(made, torch.tensor(targets), data.load("mnist1d").train[:2], seed)


@lru_cache(maxsize=4)
def implicit(seed: int, count: int = 900, *, shared: bool = False) -> Parts:
    """Sinusoidal networks of digits, one of each image, with the digits; from one initialisation all or each from its own."""
    made = list(sirens(seed=seed, count=count, shared_init=shared, jobs=1))
    labels = [cast(int, one.run.hyperparameters["label"]) for one in made if one.run is not None]
    return _parts(made, torch.tensor(labels, dtype=torch.float32), coordinates((8, 8)), seed)


def _parts(made: list[Any], targets: Tensor, inputs: Tensor, seed: int) -> Parts:
    module = built(made[0].recipe)
    states = [{name: tensor.detach() for name, tensor in one.tensors.items()} for one in made]
    whole = Examples(WeightSet.of(states, ws.trace(module, inputs), modules=[module] * len(made)), targets)
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(seed))
    ends = [round(share * len(made)) for share in (LEARNED, CHOSEN)]
    first, second, third = (whole.take(at) for at in order.tensor_split(ends))
    return first, second, third


def learned(parts: Parts, family: str, seed: int, head: str = "regression", **settings: Any) -> Predictor:
    """A metanet that was trained from scratch on the first part."""
    more = {"classes": 10} if head == "classification" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        predictor = Predictor(build(family, parts[0].networks.batches[0].spec, **settings), head, **more)
        return train(predictor, parts[0], parts[1], replace(SCHEDULE, seed=seed)).predictor


@lru_cache(maxsize=64)
def tau(family: str, seed: int, **settings: Any) -> float:
    """Kendall's tau of accuracies of perceptrons and what a metanet says of them."""
    parts = perceptrons(seed)
    return kendall(learned(parts, family, seed, **settings).predict(parts[2].networks), parts[2].targets)


def boosted(parts: Parts, seed: int) -> Tensor:
    """What gradient-boosted trees say of the last part by statistics of the tensors, seven numbers each."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    known, asked = (statistics(part.networks.batches[0]).numpy() for part in (parts[0], parts[2]))
    trees = HistGradientBoostingRegressor(random_state=seed, max_iter=200, learning_rate=0.05).fit(known, _in_order(parts[0]))
    return parts[2].networks.gather([torch.tensor(np.asarray(trees.predict(asked)))])


def ridge(parts: Parts) -> Tensor:
    """What a linear map of the raw weights says of the last part; its penalty by cross-validation."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, asked = (WeightBatch.flat(part.networks.batches[0]).numpy() for part in (parts[0], parts[2]))
    fitted = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 6, 17))).fit(known, _in_order(parts[0]))
    return parts[2].networks.gather([torch.tensor(np.asarray(fitted.predict(asked)))])


def _in_order(part: Examples) -> "np.ndarray":
    """Targets in the order of the one batch."""
    return part.targets[part.networks.places[0]].numpy()
