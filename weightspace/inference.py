"""The symmetry of plain chains (MLPs, convolutional nets that flatten, neural implicit ones) from names and shapes alone.

A chain is a row of linear or convolutional layers, each reading what the one before made, with batch norms in between.
Weights do not tell the activation, nor whether something is added across layers: names that look like blocks or shortcuts
are refused, and what is inferred is only as true as the promise that the network is a chain.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from weightspace.axes import Axis, Fixed, Leaf, Product
from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError, UnknownNameError
from weightspace.spec import NeuronGroup, SymmetrySpec
from weightspace.spec_sizes import Header, headers

if TYPE_CHECKING:
    import torch

Layout = Literal["torch", "keras"]

ACTIVATIONS = {
    **dict.fromkeys(("relu", "leaky_relu", "linear", "identity"), "scale"),
    **dict.fromkeys(("tanh", "sin", "sine", "siren", "softsign", "hardtanh", "erf"), "sign"),
    **dict.fromkeys(("gelu", "silu", "swish", "sigmoid", "softplus", "elu", "selu", "mish", "gaussian", "other"), "none"),
}
"""What may be done to the hidden units of a layer with each activation, beyond reordering."""

_ROLES = {
    "weight": ("weight", "kernel", "w"),
    "bias": ("bias", "b"),
    "gain": ("gamma", "scale"),
    "shift": ("beta",),
    "mean": ("running_mean", "moving_mean", "mean"),
    "variance": ("running_var", "moving_variance", "moving_var", "variance", "var"),
}
_ROLE = {word: role for role, words in _ROLES.items() for word in words}
_NAME = re.compile(
    rf"(?P<stem>.*?)[./_]?(?<![A-Za-z])(?P<word>{'|'.join(sorted(_ROLE, key=len, reverse=True))})[._]?(?P<number>\d*)(?::0)?", re.IGNORECASE
)
_SHORTCUT = re.compile(r"shortcut|downsample|skip|resid|identity", re.IGNORECASE)
_ADVICE = "trace the module with ws.trace, or write a spec"


@dataclass(frozen=True)
class _Layer:
    """The tensors of one layer by role, each with its name and shape."""

    key: str
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its weight, when that is a matrix or a kernel."""
        shape = self.tensors["weight"][1] if "weight" in self.tensors else ()
        return shape if len(shape) > 1 else ()

    @property
    def is_kernel(self) -> bool:
        """Whether it is a convolution."""
        return len(self.shape) > 2


@dataclass
class _Chain:
    """A chain as far as it was followed: rows and groups so far, and what comes out of the last layer."""

    activation: str
    layout: Layout
    tensors: dict[str, tuple[Axis, ...]] = field(default_factory=dict)
    groups: dict[str, NeuronGroup] = field(default_factory=dict)
    statistics: set[str] = field(default_factory=set)
    inputs: int | None = None
    width: int | None = None
    group: str | None = None
    is_spatial: bool = False


def infer_spec(weights: "Checkpoint | Mapping[str, torch.Tensor]", activation: str | None = None) -> SymmetrySpec:
    """Infer the spec of a plain chain from the names and shapes of its tensors.

    Args:
        weights: a checkpoint or state dict.
        activation: of the hidden layers, since weights do not tell: `relu` and `leaky_relu` give scales, `tanh` and `sin` signs
            (of linear layers: max pooling after a convolution would not bear them), `gelu` and others nothing more; None is
            permutations alone.

    Raises:
        SymmetryError: the tensors are no chain, or could be several.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> infer_spec(net.state_dict(), activation="tanh")
        <SymmetrySpec: 4 tensors, 1 neuron group, 2^23.3 permutations, not proved>
        0.weight  h0 2
        0.bias    h0
        2.weight  3 h0'
        2.bias    3
        group  size  kind        symmetry  per
        h0     8     permutable  sign
    """
    return chain(headers(weights), activation)


def chain(known: Mapping[str, Header], activation: str | None = None) -> SymmetrySpec:
    """Infer the spec of a plain chain from what is known of its tensors; see `infer_spec`."""
    if activation is not None and activation.lower() not in ACTIVATIONS:
        raise UnknownNameError.of("activation", activation, ACTIVATIONS)
    symmetry = ACTIVATIONS[activation.lower()] if activation else "none"
    layers = _layers(known)
    found: list[SymmetrySpec] = []
    refusals: list[str] = []
    for order in _orders(layers):
        for layout in _layouts(layers):
            try:
                spec = _followed(order, symmetry, layout)
            except SymmetryError as error:
                refusals.append(str(error))
                continue
            if spec not in found:
                found.append(spec)
    if not found:
        raise SymmetryError(f"the tensors are no plain chain: {refusals[0]}; {_ADVICE}")
    if len(found) > 1:
        one = found[0].diff(found[1])[0]
        raise SymmetryError(f"the tensors fit several chains ({one}); {_ADVICE}")
    return found[0]


def _layers(known: Mapping[str, Header]) -> list[_Layer]:
    """Gather tensors into layers, in file order.

    Raises:
        SymmetryError: a tensor that is none of a chain's, or names of blocks.
    """
    gathered: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
    for name, header in known.items():
        if not header.is_float:
            continue
        if header.alias_of is not None or _SHORTCUT.search(name):
            what = f"is tied to '{header.alias_of}'" if header.alias_of else "has the name of a shortcut"
            raise SymmetryError(f"tensor '{name}' {what}, so the network is no plain chain; {_ADVICE}")
        read = _NAME.fullmatch(name)
        if read is None:
            raise SymmetryError(f"tensor '{name}' is no weight, bias or batch norm of a plain chain by its name; {_ADVICE}")
        roles = gathered.setdefault(read["stem"] + ("." if read["stem"] and read["number"] else "") + read["number"], {})
        role = _ROLE[read["word"].lower()]
        if role in roles:
            raise SymmetryError(f"tensors '{roles[role][0]}' and '{name}' seem to be the same part of one layer; {_ADVICE}")
        roles[role] = name, header.shape
    layers = [_Layer(key, roles) for key, roles in gathered.items()]
    blocks: dict[str, str] = {}
    for layer in layers:
        container = re.split(r"[./]", layer.key)[:-1]
        if layer.shape and any(any(c.isdigit() for c in part) for part in container):
            other = blocks.setdefault(".".join(container), layer.key)
            if other != layer.key:
                raise SymmetryError(
                    f"layers '{other}' and '{layer.key}' stand in one block, across which something may be added; {_ADVICE}"
                )
    return layers


def _orders(layers: Sequence[_Layer]) -> Iterator[list[_Layer]]:
    """Orders in which the layers may follow each other: as in the file, by name, and by number with norms after weights."""

    def natural(text: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text) if part]

    def numbers(layer: _Layer) -> tuple[float, ...]:
        return tuple(map(float, re.findall(r"\d+", layer.key))) or (math.inf,)

    yield list(layers)
    yield sorted(layers, key=lambda layer: natural(layer.key))
    yield sorted(layers, key=lambda layer: (numbers(layer), not layer.shape))


def _layouts(layers: Sequence[_Layer]) -> tuple[Layout, ...]:
    """How weights may lie: (out, in, rows, cols) as torch has them, or (rows, cols, in, out) as Keras and flax do."""
    words = {layer.tensors["weight"][0].lower() for layer in layers if layer.shape}
    if words and all(re.search(r"kernel(:0)?$", word) for word in words):
        return ("keras",)
    if words and all(re.search(r"(^|[./_])weight$", word) for word in words) and any(layer.is_kernel for layer in layers):
        return ("torch",)
    return ("torch", "keras")


def _followed(layers: Sequence[_Layer], symmetry: str, layout: Layout) -> SymmetrySpec:
    """Follow a chain from its first layer to its last."""
    weighty = [layer for layer in layers if layer.shape]
    if not weighty:
        raise SymmetryError("there is no layer with a weight matrix or kernel")
    made = _Chain(symmetry, layout)
    norms_after = _norms_after(layers)
    for at, layer in enumerate(layers):
        if layer.shape:
            _weigh(made, layer, is_last=layer is weighty[-1], is_normed=norms_after[at])
        else:
            _norm(made, layer)
    return SymmetrySpec(made.groups, made.tensors, statistics=frozenset(made.statistics))


def _norms_after(layers: Sequence[_Layer]) -> list[bool]:
    return [at + 1 < len(layers) and not layers[at + 1].shape for at in range(len(layers))]


def _weigh(made: _Chain, layer: _Layer, *, is_last: bool, is_normed: bool) -> None:
    """Add one linear or convolutional layer."""
    shape = layer.shape
    reads, makes = (shape[1], shape[0]) if made.layout == "torch" else (shape[-2], shape[-1])
    cells: tuple[Axis, ...] = tuple(map(Fixed, shape[2:] if made.layout == "torch" else shape[:-2]))
    name = layer.tensors["weight"][0]
    if set(layer.tensors) - {"weight", "bias"}:
        raise SymmetryError(f"layer '{layer.key}' has more than a weight and a bias")
    if layer.is_kernel and made.width is not None and not made.is_spatial:
        raise SymmetryError(f"tensor '{name}' is a kernel after a matrix")
    before = _read_axis(made, name, reads, is_kernel=layer.is_kernel)
    out: Axis = Fixed(makes)
    made.group = None
    if not is_last:
        symmetry = "none" if made.activation == "sign" and layer.is_kernel else made.activation
        made.group = re.sub(r"[^\w.]", "_", layer.key) or "h"
        made.group = made.group if re.match(r"[A-Za-z_]", made.group) else f"h{made.group}"
        made.groups[made.group] = NeuronGroup(made.group, makes, symmetry=symmetry)  # type: ignore[arg-type]
        # A batch norm divides by its own statistics, plus a little: nothing but its gain and shift can be scaled exactly.
        out = Leaf(made.group, power=0 if is_normed and symmetry != "none" else 1)
    made.tensors[name] = (out, before, *cells) if made.layout == "torch" else (*cells, before, out)
    if "bias" in layer.tensors:
        bias, found = layer.tensors["bias"]
        if found != (makes,):
            raise SymmetryError(f"tensor '{bias}' has shape {list(found)}, expected [{makes}] as '{name}' of shape {list(shape)} makes")
        made.tensors[bias] = (out,)
    made.width, made.is_spatial = makes, layer.is_kernel


def _read_axis(made: _Chain, name: str, reads: int, *, is_kernel: bool) -> Axis:
    """The axis by which a layer reads what the one before made, flattened where there are several positions."""
    if made.width is None:
        if made.inputs not in (None, reads):
            raise SymmetryError(f"tensor '{name}' reads {reads} values where the norm before has {made.inputs}")
        return Fixed(reads)
    places, rest = divmod(reads, made.width) if made.is_spatial and not is_kernel else (1, reads - made.width)
    if rest or not places:
        raise SymmetryError(f"tensor '{name}' reads {reads} values where the layer before makes {made.width}")
    if made.group is None:
        return Fixed(reads)
    leaf = Leaf(made.group, dual=True)
    if places == 1:
        return leaf
    return Product((leaf, Fixed(places)) if made.layout == "torch" else (Fixed(places), leaf))


def _norm(made: _Chain, layer: _Layer) -> None:
    """Add one batch norm; without running statistics it might be a group norm, whose groups shapes do not tell."""
    name, (width, *_) = next((name, shape or (0,)) for name, shape in layer.tensors.values())
    if not {"mean", "variance"} <= set(layer.tensors):
        raise SymmetryError(f"tensor '{name}' belongs to no weight matrix, kernel or batch norm")
    if made.width is not None and width != made.width:
        raise SymmetryError(f"tensor '{name}' has {width} channels where the layer before makes {made.width}")
    if made.width is None:
        made.inputs = width
    for role, (tensor, shape) in layer.tensors.items():
        if shape != (width,):
            raise SymmetryError(f"tensor '{tensor}' has shape {list(shape)}, expected [{width}]")
        is_statistic = role in ("mean", "variance")
        if is_statistic:
            made.statistics.add(tensor)
        still = is_statistic and made.group is not None and made.groups[made.group].symmetry != "none"
        made.tensors[tensor] = (Fixed(width) if made.group is None else Leaf(made.group, power=0 if still else 1),)


__all__ = ["ACTIVATIONS", "chain", "infer_spec"]
