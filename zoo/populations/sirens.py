"""Sinusoidal networks, each fitted to one image: implicit neural representations."""

import math
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from weightspace.modules import module_builders, task_builders
from weightspace.zoo.populations import classifiers, population
from weightspace.zoo.populations.family import Family, Network, expect, generator_of, how
from weightspace.zoo.zoo import Added

if TYPE_CHECKING:
    import torch

    from weightspace.modules import Part
    from weightspace.task import Task
    from weightspace.zoo.populations.data import Examples

OFFSET = 0.5
"""What is added to a network's output, so that it begins at middle grey."""

COORDINATES = (-1.0, 1.0)
"""Of the first and the last pixel along each side; the row comes first."""

_SHARED_SEED = 0  # of the one initialisation, where it is shared


@population("sirens")
def sirens(
    *,
    seed: int = 0,
    count: int | None = None,
    data: str = "digits",
    per_image: int = 1,
    width: int = 32,
    depth: int = 2,
    w0: float = 10.0,
    learning_rate: float = 2e-3,
    steps: Sequence[int] = (80,),
    psnr_floor: float = 30.0,
    shared_init: bool = False,
    split_seed: int = 0,
    seeds: Sequence[int] | None = None,
    skip: Container[str] = (),
    jobs: int | None = None,
    backend: str = "local",
) -> Iterator[Added]:
    """Sinusoidal networks (SIREN), each fitted to one image from an initialisation of its own.

    Networks whose fit stays under the floor are catalogued as failed and are in no split. All networks of an image are in the same one,
    whatever the seed of their population.

    Args:
        seed: of the population.
        count: networks; None is `per_image` for each image. Network i is fitted to image `i // per_image`, in the data's own order.
        data: as in `mlps`; inputs are images or signals from 0 to 1.
        per_image: networks of one image.
        width: units of each hidden layer.
        depth: hidden layers.
        w0: frequency of the sines.
        learning_rate: of Adam, on all pixels at every step.
        steps: at which a checkpoint is taken; training ends at the largest.
        psnr_floor: decibels that a fit reaches at the end, or it has failed.
        shared_init: give all networks the same initialisation, which makes telling images apart trivial; it is for comparison alone.
        split_seed: as in `mlps`, like what follows.
        seeds: as in `mlps`.
        skip: as in `mlps`.
        jobs: as in `mlps`.
        backend: as in `mlps`.

    Raises:
        RecordError: a setting cannot be used.
    """
    given = dict(locals())
    from weightspace.zoo.populations import data as sources
    from weightspace.zoo.populations.training import side_by_side, stacks

    examples = sources.load(data)
    classifiers.expect_steps("sirens", steps)
    expect(len(examples.shape) in (1, 2), "sirens", "the shape of an input", examples.shape, "one dimension or two")
    for key in ("per_image", "width", "depth"):
        expect(given[key] >= 1, "sirens", key, given[key], "a whole number from 1 on")
    for key in ("w0", "learning_rate"):
        expect(given[key] > 0, "sirens", key, given[key], "a positive number")
    images = len(examples.source)
    given["count"] = images * per_image if count is None else count
    expect(
        given["count"] <= images * per_image,
        "sirens",
        "count",
        count,
        f"{images * per_image} at most: {per_image} of each of {images} images",
    )
    rendering = {"w0": w0, "offset": OFFSET, "coordinates": list(COORDINATES), "axes": "row, column", "values": [0.0, 1.0]}
    family = Family.of("sirens", given, examples, more={"rendering": rendering, "code": 1})
    networks = (_network(one, given, examples) for one in family.seeds(given))
    work = ((classifiers.built(family.recipe(stack[0])), stack) for stack in stacks(networks, lambda one: None))
    for made in side_by_side(partial(_stack, family, examples, how(given)), work, jobs, backend):
        yield from made


def _network(seed: int, given: Mapping[str, Any], examples: "Examples") -> Network:
    from weightspace.zoo.populations.family import APART

    image = seed % APART // given["per_image"]
    expect(image < len(examples.source), "sirens", "a seed", seed, f"one of image 0 to {len(examples.source) - 1}")
    fixed = {key: given[key] for key in ("width", "depth", "w0", "learning_rate")} | {"steps": max(given["steps"]), "optimizer": "adam"}
    label = int(examples.all_inputs[1][image])
    named = examples.name if "hash" not in examples.described else examples.hash
    init = "shared" if given["shared_init"] else "random"
    return Network(seed, generator_of(seed), fixed | {"image": image, "label": label, "init": init}, f"{named}/{image}")


def _stack(
    family: Family, examples: "Examples", given: Mapping[str, Any], work: "tuple[torch.nn.Module, Sequence[Network]]"
) -> list[Added]:
    """Fit networks to their images."""
    import torch

    from weightspace.zoo.populations.layers import run
    from weightspace.zoo.populations.training import Adam, Trainee, squared_error, train, whole

    module, networks = work
    trainees = []
    for one in networks:
        _initialise(module, generator_of(_SHARED_SEED) if given["shared_init"] else one.generator, given["w0"])
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        trainees.append(Trainee(state, one.generator, given["learning_rate"]))
    places = coordinates(examples.shape)
    inputs = places.expand(len(networks), *places.shape).contiguous()
    wanted = examples.all_inputs[0][[int(one.hyperparameters["image"]) for one in networks]][..., None]
    taken = []
    for step, weights in train(module, trainees, whole(inputs, wanted), squared_error, Adam(), given["steps"]):
        with torch.no_grad():
            taken.append((step, weights, squared_error(run(module, weights, inputs), wanted).tolist()))
    last = taken[-1][2]
    found = []
    for at, one in enumerate(networks):
        made = family.run(one, "finished" if psnr(last[at]) >= given["psnr_floor"] else "failed")
        for step, weights, errors in taken:
            own = {name: stacked[at].clone() for name, stacked in weights.items()}
            found.append(family.added(one, step, own, {"psnr": psnr(errors[at]), "loss": errors[at]}, run=made))
    return found


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in decibels, of a mean squared error of values from 0 to 1."""
    return math.inf if error == 0 else -10 * math.log10(error) if math.isfinite(error) else math.nan


def coordinates(shape: Sequence[int]) -> "torch.Tensor":
    """Where each pixel is, `(pixels, dimensions)`, in the order of the flattened image."""
    import torch

    sides = [torch.linspace(*COORDINATES, size) for size in shape]
    return torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, -2)


def _initialise(module: "torch.nn.Module", generator: "torch.Generator", w0: float) -> None:
    """Draw weights as Sitzmann et al. do (arXiv:2006.09661, section 3.2 and supplement 1.5)."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 2:
                inputs = parameter.shape[1]
            bound = 1 / math.sqrt(inputs) if parameter.ndim == 1 else 1 / inputs if name == "fc1.weight" else math.sqrt(6 / inputs) / w0
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)


def build(recipe: Mapping[str, Any]) -> "torch.nn.Module":
    """Build the module of a network of this population: from coordinates `(pixels, dimensions)` to values `(pixels, 1)`."""
    from torch import nn

    from weightspace.zoo.populations.layers import Shift, Sine

    known, rendering = recipe["hyperparameters"], recipe["rendering"]
    sizes = [len(recipe["data"]["shape"]), *[known["width"]] * known["depth"]]
    layers: dict[str, nn.Module] = {}
    for at in range(1, known["depth"] + 1):
        layers |= {f"fc{at}": nn.Linear(sizes[at - 1], sizes[at]), f"sine{at}": Sine(rendering["w0"])}
    layers |= {f"fc{known['depth'] + 1}": nn.Linear(known["width"], 1), "offset": Shift(rendering["offset"])}
    return nn.Sequential(OrderedDict(layers))


def build_task(module: "torch.nn.Module", recipe: Mapping[str, Any], part: "Part" = "test") -> "Task":
    """Judge a network by how well it renders its image, all of which it was fitted to.

    Raises:
        RecordError: the data is not there any more.
    """
    from weightspace.task import Task
    from weightspace.zoo.populations.data import load_described

    examples = load_described(recipe["data"])
    image = examples.all_inputs[0][recipe["hyperparameters"]["image"]][:, None]
    batches = [(coordinates(examples.shape), image)]
    return Task(module, batches, _error, {"psnr": _psnr})


def _error(rendered: "torch.Tensor", batch: "Sequence[torch.Tensor]") -> "torch.Tensor":
    """Mean squared error of an image; one function for all, so that the tasks of many networks can be run side by side."""
    from torch.nn.functional import mse_loss

    return mse_loss(rendered, batch[1])


def _psnr(rendered: "torch.Tensor", batch: "Sequence[torch.Tensor]") -> float:
    return psnr(float(_error(rendered, batch)))


module_builders.add("sirens", build)
task_builders.add("sirens", build_task)
