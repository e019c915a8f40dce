"""Upper bound of the Lipschitz constant."""

import itertools

from weightspace.analysis.layers import Layer, layers
from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.lipschitz import chain_bound, module_bound
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, TaskError
from weightspace.modules import module_for


@measure("lipschitz", of="model", reference="Szegedy et al., arXiv:1312.6199, section 4.3; Gouk et al., arXiv:1804.04368")
def lipschitz(checkpoint: Checkpoint, *, build: str | None = None, shape: tuple[int, ...] = ()) -> float:
    """Upper bound of how far the output moves for a move of the input, both in the Euclidean norm.

    What the network does with its layers is read off its module. Without one, weights that can only be a chain of dense layers are taken for
    that, with activations whose slope is at most one; of everything else no bound can be stated, since names do not tell where a network
    adds or branches.

    Args:
        checkpoint: opened.
        build: `module:function` that builds the module, where the checkpoint does not say how.
        shape: of one input, without the batch; not needed where the first layer is dense.
    """
    try:
        module = module_for(checkpoint, build)
    except TaskError:
        if build is not None:
            raise
        return chain_bound([one.matrix(checkpoint[one.name]) for one in _chain(checkpoint)])
    if not shape and (found := layers(checkpoint)) and found[0].kind == "dense":
        shape = (found[0].size[1],)
    if not shape:
        raise AnalysisError(
            "the bound of a convolution depends on the image, expected the shape of one input and found none; set shape, as in [3, 32, 32]"
        )
    return module_bound(module, shape)


def _chain(checkpoint: Checkpoint) -> list[Layer]:
    """The layers of a checkpoint that holds nothing but dense layers, each reading what the one before it gives, and their biases."""
    found = layers(checkpoint, embeddings=True)
    sizes = [one.size for one in found]
    biases = [info for info in checkpoint.info.values() if info.name not in {one.name for one in found}]
    fits = all(reads == gives for (gives, _), (_, reads) in itertools.pairwise(sizes))
    plain = all(one.kind == "dense" and one.name.count(".") <= 2 for one in found)
    lone = all(info.name.rpartition(".")[2] == "bias" and len(info.shape) == 1 for info in biases)
    if not (found and fits and plain and lone):
        raise AnalysisError(
            f"{checkpoint.path or 'the checkpoint'} is no plain chain of dense layers, so no bound can be stated from its weights alone; "
            "name what builds its module with the setting 'build'"
        )
    return found
