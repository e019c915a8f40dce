"""Upper bound of the Lipschitz constant."""

import math

from weightspace.analysis.layers import Layer, layers
from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.lipschitz import chain_bound, module_bound
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import AnalysisError, SymmetryError, TaskError
from weightspace.inference import infer_spec
from weightspace.modules import module_for
from weightspace.roles import role_of

_BRANCHING = ("q", "k", "v", "o", "qkv", "gate")  # roles of layers that stand beside others, not after them


@measure("lipschitz", of="model", version="2", reference="Szegedy et al., arXiv:1312.6199, section 4.3; Gouk et al., arXiv:1804.04368")
def lipschitz(checkpoint: Checkpoint, *, build: str | None = None, shape: tuple[int, ...] = (), slope: float = 1.0) -> float:
    """Upper bound of how far the output moves for a move of the input, both in the Euclidean norm.

    What the network does with its layers is read off its module. Without one, it is assumed that dense layers of fitting widths, whose names
    are not those of attention, of gates, of shortcuts or of layers in blocks, are a chain without skip connections, with nothing but
    activations of at most `slope` between them: weights tell neither. Where that is not so, the number is no bound; name the module with
    `build` then. Weights that cannot be such a chain are refused.

    Args:
        checkpoint: opened.
        build: `module:function` that builds the module, where the checkpoint does not say how.
        shape: of one input, without the batch; not needed where the first layer is dense.
        slope: the largest slope of the activations between layers, where there is no module that says it: 1 for ReLU, leaky ReLU, ELU, tanh and
            softplus, 1.13 for GELU, 1.1 for SiLU, 0.25 for sigmoid.
    """
    if not 0 < slope < math.inf:
        raise AnalysisError(f"expected a finite slope above 0, found {slope:g}; give the largest of the activations between layers")
    try:
        module = module_for(checkpoint, build)
    except TaskError:
        if build is not None:
            raise
        return chain_bound([one.matrix(checkpoint[one.name]) for one in _chain(checkpoint)], slope=slope)
    if not shape and (found := layers(checkpoint)) and found[0].kind == "dense":
        shape = (found[0].size[1],)
    if not shape:
        raise AnalysisError(
            "the bound of a convolution depends on the image, expected the shape of one input and found none; set shape, as in [3, 32, 32]"
        )
    return module_bound(module, shape)


def _chain(checkpoint: Checkpoint) -> list[Layer]:
    """The layers of a checkpoint that holds nothing but dense layers, each reading what another gives, and their biases."""
    found = layers(checkpoint, embeddings=True)
    weights = {one.name for one in found}
    reason = next((reason for one in found if (reason := _reason(one))), "")
    if not reason and (other := next((one for one in checkpoint.info.values() if one.name not in weights and not _is_bias(one)), None)):
        reason = f"'{other.name}' is neither the weight nor the bias of a dense layer"
    if not reason:
        try:
            infer_spec(checkpoint)
        except SymmetryError as error:
            reason = str(error).partition(";")[0]
    if reason:
        raise AnalysisError(
            f"{checkpoint.path or 'the checkpoint'} is no plain chain of dense layers ({reason}), so no bound can be stated from its weights "
            "alone; name what builds its module with the setting 'build'"
        )
    return found


def _reason(layer: Layer) -> str:
    """Why a layer may not be one of a chain; empty where nothing speaks against it."""
    if layer.kind != "dense":
        return f"'{layer.name}' is {'an embedding' if layer.kind == 'embedding' else 'a convolution'}"
    if (role := role_of(layer.name)) in _BRANCHING:
        return f"'{layer.name}' has the name of a layer of role '{role}', which branches"
    words = layer.name.split(".")
    is_block = len(words) > 3 or any(letter.isdigit() for word in words[:-2] for letter in word)
    return f"'{layer.name}' stands in a block, across which something may be added" if is_block else ""


def _is_bias(info: TensorInfo) -> bool:
    return info.name.rpartition(".")[2] == "bias" and len(info.shape) == 1
