"""Transfer of a signature to a model whose neurons stand in another order."""

from functools import partial
from typing import Any

import torch

from weightspace.analysis.matching import match
from weightspace.analysis.signatures.signature import CHANGE, NORM, Signature, made
from weightspace.checkpoint import Checkpoint, TensorInfo, tensor_bytes
from weightspace.spec import SymmetrySpec
from weightspace.storage import Produced, Storage
from weightspace.symmetry import StateDict, Symmetry, act_on_tensor


def transfer(
    signature: Signature,
    source: Checkpoint | StateDict,
    target: Checkpoint | StateDict,
    spec: SymmetrySpec,
    *,
    align: str | None = "weight",
    generator: torch.Generator | None = None,
    **options: Any,
) -> Signature:
    """Put a signature into the neuron order of another clean model, so that it can be applied to that.

    A signature says which neurons change how. A model from another start has its neurons in another order, and one from the same start mostly
    has not: there a signature can be applied as it is. In the paper (arXiv:2302.12480) both models come from one pre-trained start; alignment is
    ours. What is left between two models after alignment is not small for narrow networks, and what a signature is then worth is to be measured.

    Args:
        signature: extracted with `source` as the standard model.
        source: whose neurons it speaks of.
        target: the model that it is meant for.
        spec: the symmetry of both.
        align: a matching method; None changes nothing.
        generator: source of chance of the matching.
        options: of the matching method.

    Raises:
        UnknownNameError: no such method.
        SymmetryError, ShapeMismatchError: models that are not of the spec.
    """
    if align is None:
        return signature
    return moved(signature, match(target, source, spec, align, generator=generator, **options).element)


def moved(signature: Signature, element: Symmetry) -> Signature:
    """Let a group element act on a signature, its batch norms too: what it does to the weights it does to their changes."""
    tensors: dict[str, tuple[TensorInfo, Storage]] = {}
    for part in signature.parts.values():
        dtype = "F64" if signature.stored.info[CHANGE + part.name].dtype == "F64" else "F32"
        info = TensorInfo(CHANGE + part.name, dtype, part.shape)
        tensors[info.name] = info, Produced(info.nbytes, partial(_moved_change, signature, element, part.name))
    for name in signature.norms:
        info = signature.stored.info[NORM + name]
        tensors[info.name] = info, Produced(info.nbytes, partial(_moved_norm, signature, element, name))
    known = {key: value for key, value in signature.recipe.items() if key not in ("kind", "tensors", "bits", "quantiser")}
    return made(list(signature.parts.values()), tensors, {**known, "moved": True}, [signature.id])


def _moved_change(signature: Signature, element: Symmetry, name: str) -> memoryview:
    return tensor_bytes(_act(element, name, signature[name]))


def _moved_norm(signature: Signature, element: Symmetry, name: str) -> memoryview:
    return tensor_bytes(_act(element, name, signature.stored[NORM + name]))


def _act(element: Symmetry, name: str, tensor: torch.Tensor) -> torch.Tensor:
    return act_on_tensor(element, name, tensor) if name in element.spec.tensors else tensor
