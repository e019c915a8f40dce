"""Small transformers that sort sequences."""

from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weightspace.modules import module_builders, task_builders
from weightspace.zoo.populations import classifiers, population
from weightspace.zoo.populations.family import Family, expect, expect_options
from weightspace.zoo.zoo import Added

if TYPE_CHECKING:
    import torch


@population("transformers")
def transformers(
    *,
    seed: int = 0,
    count: int = 64,
    widths: Sequence[int] = (16, 32),
    heads: Sequence[int] = (2, 4),
    depths: Sequence[int] = (1, 2),
    activations: Sequence[str] = ("relu", "gelu"),
    learning_rates: Sequence[float] = (1e-3, 1e-2),
    weight_decays: Sequence[float] = classifiers.WEIGHT_DECAYS,
    init_scales: Sequence[float] = classifiers.INIT_SCALES,
    data_fractions: Sequence[float] = classifiers.DATA_FRACTIONS,
    optimizer: str = "adam",
    batch_size: int = classifiers.BATCH,
    steps: Sequence[int] = (500,),
    split_seed: int = 0,
    seeds: Sequence[int] | None = None,
    skip: Container[str] = (),
    jobs: int | None = None,
    backend: str = "local",
) -> Iterator[Added]:
    """Small transformers that sort eight tokens out of sixteen, of varied width, heads, depth, activation and training.

    Each position says which token stands there once the sequence is sorted; attention sees all positions. Norms come before attention and
    before the feed-forward layers, which are twice as wide.

    Args:
        seed: as in `mlps`, like all that is not named here.
        count: as in `mlps`.
        widths: of the residual stream, chosen from.
        heads: of each attention, chosen from; each width is a multiple of each.
        depths: blocks, chosen from.
        activations: as in `mlps`.
        learning_rates: as in `mlps`.
        weight_decays: as in `mlps`.
        init_scales: as in `mlps`.
        data_fractions: as in `mlps`.
        optimizer: as in `mlps`.
        batch_size: as in `mlps`.
        steps: as in `mlps`.
        split_seed: as in `mlps`.
        seeds: as in `mlps`.
        skip: as in `mlps`.
        jobs: as in `mlps`.
        backend: as in `mlps`.

    Raises:
        RecordError: a setting cannot be used.
    """
    given = dict(locals())
    from weightspace.zoo.populations.data import sorting
    from weightspace.zoo.populations.layers import ACTIVATIONS

    examples = sorting()
    expect_options("transformers", given, {"widths": 1, "heads": 1, "depths": 1, "activations": ACTIVATIONS})
    fits = all(width % one == 0 for width in widths for one in heads)
    expect(fits, "transformers", "widths", widths, f"multiples of the numbers of heads, {heads}")
    architecture = {"width": widths, "heads": heads, "depth": depths, "activation": activations}
    yield from classifiers.trained(Family.of("transformers", given, examples), examples, given, architecture)


def build(recipe: Mapping[str, Any]) -> "torch.nn.Module":
    """Build the module of a transformer of this population, for tokens `(batch, tokens)`."""
    from torch import nn

    from weightspace.zoo.populations.layers import ACTIVATIONS, Attention, Positions, Residual

    known, data = recipe["hyperparameters"], recipe["data"]
    width, kind = known["width"], known["activation"]
    layers: dict[str, nn.Module] = {"embedding": nn.Embedding(data["classes"], width), "positions": Positions(data["shape"][0], width)}
    for at in range(1, known["depth"] + 1):
        attend = Residual(OrderedDict(norm=nn.LayerNorm(width), attention=Attention(width, known["heads"])))
        wide: dict[str, nn.Module] = {"fc1": nn.Linear(width, 2 * width), kind: ACTIVATIONS[kind](), "fc2": nn.Linear(2 * width, width)}
        feed = Residual(OrderedDict({"norm": nn.LayerNorm(width), **wide}))
        layers[f"block{at}"] = nn.Sequential(OrderedDict(attend=attend, feed=feed))
    layers |= {"norm": nn.LayerNorm(width), "head": nn.Linear(width, data["classes"])}
    return nn.Sequential(OrderedDict(layers))


module_builders.add("transformers", build)
task_builders.add("transformers", classifiers.build_task)
