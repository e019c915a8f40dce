"""Neural collapse of the features before the last layer."""

from weightspace.analysis import functional
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure("neural_collapse", of="task", reference="Papyan et al., arXiv:2008.08186; cdnv: Galanti et al., arXiv:2112.15121")
def neural_collapse(task: Task, checkpoint: Checkpoint, *, layer: str | None = None) -> Values:
    """NC1 to NC4: how far features have fallen onto class means, those onto a simplex, and the classifier onto them.

    Args:
        task: of classification; the paper's numbers are of training data.
        checkpoint: the network.
        layer: the linear layer that gives the logits; by default the last one that runs.

    Returns:
        See `weightspace.analysis.functional.NeuralCollapse`: `nc1` is `Tr(S_W S_B^+) / C`, `nc1_traces` the variant `Tr(S_W) / Tr(S_B)`.
    """
    return functional.neural_collapse(task, checkpoint, layer=layer).values()
