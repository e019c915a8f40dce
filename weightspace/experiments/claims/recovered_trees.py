"""That the family trees of fine-tuned networks can be read from their weights alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from weightspace.analysis.lineage import Entry, lineage
from weightspace.checkpoint import Checkpoint
from weightspace.experiments.claim import Finding, at_least, claim
from weightspace.experiments.data import Examples, mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tasks import VARIANTS
from weightspace.experiments.train import train, train_from

SHAPE, WIDTH, BEFORE, TUNING = "mnist1d-mlp", 64, 1000, 200
ROOTS, CHILDREN = 2, 3


@claim(
    "recovered-trees",
    statement="Which network was fine-tuned from which is recovered from weights alone: families, and most of the edges with their direction.",
    source="Horwitz et al., Unsupervised model tree heritage recovery (MoTHer), arXiv:2405.18432, section 6",
    topic="weights",
)
def recovered_trees(seeds: Sequence[int]) -> Iterator[Finding]:
    """Grow two trees of seven perceptrons a seed, three children of a base and a child of each, and recover them; chance draws any other network as parent."""
    examples = mnist1d()
    edges, directed, families = [], [], []
    for seed in seeds:
        truth, models = _grown(examples, seed)
        found = lineage([Entry(name, Checkpoint.of(weights)) for name, weights in models.items()])
        said = {(edge.parent, edge.child) for edge in found.edges}
        edges.append(sum({(a, b), (b, a)} & said != set() for a, b in truth) / len(truth))
        directed.append(sum(pair in said for pair in truth) / len(truth))
        pure = [family for family in found.families if len({name[0] for name in family}) == 1]
        families.append(sum(map(len, pure)) / len(models))
    chance = [1 / (len(models) - 1)] * len(seeds)
    yield at_least("share of networks in a family with none of another tree", families, 1.0)
    yield at_least(
        "share of the edges that were found, in whatever direction", edges, 0.8, baseline=[2 * one for one in chance], against="chance"
    )
    yield at_least("share of the edges that were found with their direction", directed, 0.8, baseline=chance, against="chance")


def _grown(examples: Examples, seed: int) -> tuple[list[tuple[str, str]], dict[str, dict[str, Tensor]]]:
    """Edges from parent to child, and all networks; names begin with their tree's letter."""
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    models = dict(
        zip("ab", train(ARCHITECTURES[SHAPE], WIDTH, examples, [ROOTS * seed + one for one in range(ROOTS)], BEFORE), strict=True)
    )
    truth: list[tuple[str, str]] = []
    for generation in range(2):
        for parent in [name for name in models if len(name) == 1 + generation]:
            for at in range(CHILDREN if generation == 0 else 1):
                variant = VARIANTS[at if generation == 0 else CHILDREN + int(parent[1])]  # of a tree no two have one task
                target = replace(examples, train=variant.inputs(examples.train))
                name = f"{parent}{at}"
                models[name] = train_from(module, [models[parent]], target, [1000 * (generation + 1) + 10 * seed + at], TUNING)[0]
                truth.append((parent, name))
    return truth, models
