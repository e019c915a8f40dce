"""The spectra of a checkpoint's layers: every measure of a matrix, from one decomposition of each distinct tensor."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from weightspace import linalg
from weightspace.analysis.layers import Layer
from weightspace.analysis.layers import layers as layers_of
from weightspace.analysis.measure import Measure, Values
from weightspace.analysis.spectra.choice import Settings, chosen_layers, chosen_measures
from weightspace.analysis.spectra.spectrum import Slices, Spectrum
from weightspace.analysis.spectra.table import LayerSpectrum, SpectraTable
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, FormatError, UnknownNameError

DEFAULT = (
    "alpha",
    "alpha_hat",
    "stable_rank",
    "effective_rank",
    "spectral_entropy",
    "mp_softrank",
    "log_norm",
    "log_spectral_norm",
    "rank_loss",
)
"""What is measured unless something else is asked for."""

_TOGETHER = 1 << 16  # elements of matrices that are decomposed in one call: what a call costs is nothing beside more than that

_Content = tuple[bytes, bool]
"""A tensor's hash, and whether it is transposed."""


def spectra(
    checkpoint: Checkpoint,
    measures: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    *,
    settings: Settings | None = None,
    slices: Slices = "reshaped",
    generator: torch.Generator | None = None,
    cache: linalg.Cache | None = None,
    embeddings: bool = False,
    device: str = "cpu",
) -> SpectraTable:
    """Measure the layers of a checkpoint one by one.

    A layer that cannot be measured, because it has NaN for instance, is reported in its row, and the others go on. What a measure draws depends on
    the generator and on the tensor's content alone, not on which layers are measured or in which order.

    Args:
        checkpoint: opened.
        measures: registered measures of a matrix; by default `DEFAULT`.
        layers: patterns of names, as in `*.attn.*`; by default all.
        settings: of the measures.
        slices: how kernels are matrices; see `Spectrum`.
        generator: of measures that draw numbers.
        cache: keeps singular values by the content of the tensor.
        embeddings: whether tables of embeddings are layers, too; one that `layers` names in full is.
        device: where it is computed.

    Raises:
        UnknownNameError: there is no such measure, or a measure has no such setting.
        AnalysisError: no layer fits, a measure is not one of matrices, or it draws numbers and there is no generator.

    Example:
        >>> from weightspace.checkpoint import Checkpoint
        >>> spectra(Checkpoint.of({"fc.weight": torch.eye(3)}), ["stable_rank"]).table
        [{'layer': 'fc.weight', 'kind': 'dense', 'rows': 3, 'columns': 3, 'stable_rank': 3.0, 'note': ''}]
    """
    chosen = chosen_measures(DEFAULT if measures is None else measures, settings or {})
    work = _Work(chosen, settings or {}, slices, 0 if generator is None else _drawn(generator), cache, device)
    if work.random and generator is None:
        raise AnalysisError(f"measure '{min(work.random)}' draws numbers, expected a generator and found none; give one")
    return SpectraTable(tuple(_measured(checkpoint, chosen_layers(checkpoint, layers, embeddings), work)), tuple(chosen))


def take(
    checkpoint: Checkpoint,
    tensors: Sequence[str],
    measures: Sequence[str],
    *,
    settings: Settings | None = None,
    slices: Slices = "reshaped",
    seed: int = 0,
    cache: linalg.Cache | None = None,
) -> dict[str, dict[str, Values]]:
    """Measure some tensors of a checkpoint, as `zoo.map_tensors` asks for it: numbers by tensor, measure and key.

    What could not be measured is None under the key ''.

    Args:
        checkpoint: opened.
        tensors: names of layers.
        measures: names of measures.
        settings: of the measures.
        slices: see `Spectrum`.
        seed: of the generator of measures that draw numbers.
        cache: see `spectra`.

    Raises:
        UnknownNameError: there is no such layer or measure.
        AnalysisError: a measure is not one of matrices.
    """
    chosen, known = chosen_measures(measures, settings or {}), {one.name: one for one in layers_of(checkpoint, embeddings=True)}
    unknown = next((name for name in tensors if name not in known), None)
    if unknown is not None:
        raise UnknownNameError.of("layer", unknown, known)
    work = _Work(chosen, settings or {}, slices, _drawn(torch.Generator().manual_seed(seed)), cache)
    found = _measured(checkpoint, [known[name] for name in tensors], work)
    return {one.layer.name: {name: one.values.get(name, {"": None}) for name in chosen} for one in found}


def _drawn(generator: torch.Generator) -> int:
    return int(torch.randint(1 << 62, (1,), generator=generator, device=generator.device))


@dataclass(frozen=True)
class _Work:
    """What is to be done to each layer; see `spectra`."""

    measures: Mapping[str, Measure]
    settings: Settings
    slices: Slices
    seed: int
    cache: linalg.Cache | None = None
    device: str = "cpu"

    @cached_property
    def random(self) -> frozenset[str]:
        """The measures that draw numbers."""
        return frozenset(name for name, one in self.measures.items() if one.is_random)


def _measured(checkpoint: Checkpoint, layers: Sequence[Layer], work: _Work) -> Iterator[LayerSpectrum]:
    """One row a layer, in their order; what is the same content in the same layout is measured once."""
    contents = {layer.name: (checkpoint.tensor_hash(layer.name), layer.is_transposed) for layer in layers}
    done: dict[_Content, LayerSpectrum] = {}
    for group in _groups({contents[layer.name]: layer for layer in layers}):
        opened = {content: _opened(checkpoint, layer, work) for content, layer in group.items()}
        ready = opened | _with_values({content: one for content, one in opened.items() if isinstance(one, Spectrum)}, work.cache)
        for content, layer in group.items():
            one = ready[content]
            done[content] = _row(one, content, work) if isinstance(one, Spectrum) else LayerSpectrum(layer, note=one)
    for layer in layers:
        yield replace(done[contents[layer.name]], layer=layer)


def _groups(layers: Mapping[_Content, Layer]) -> Iterator[dict[_Content, Layer]]:
    """Layers of one size together, as many as may be held at once."""
    sizes = {content: layer.size for content, layer in layers.items()}
    for (rows, columns), alike in itertools.groupby(sorted(sizes, key=lambda one: sizes[one]), key=lambda one: sizes[one]):
        contents, step = list(alike), max(1, _TOGETHER // (rows * columns))
        for at in range(0, len(contents), step):
            yield {content: layers[content] for content in contents[at : at + step]}


def _opened(checkpoint: Checkpoint, layer: Layer, work: _Work) -> Spectrum | str:
    """A layer's spectrum, or why it has none."""
    try:
        return Spectrum.of(layer, checkpoint[layer.name].to(work.device), slices=work.slices)
    except (AnalysisError, FormatError) as error:
        return str(error)


def _with_values(spectra: Mapping[_Content, Spectrum], cache: linalg.Cache | None) -> dict[_Content, Spectrum | str]:
    """The spectra with their singular values, those that a cache lacks taken together; or why one has none."""
    keys = {content: _key(content, one) for content, one in spectra.items()}
    try:
        values = linalg.cached_singular_values({keys[content]: one.matrices for content, one in spectra.items()}, cache)
    except AnalysisError as error:  # of one of them: the others go on without it
        if len(spectra) == 1:
            return dict.fromkeys(spectra, str(error))
        return {content: found for one in spectra for content, found in _with_values({one: spectra[one]}, cache).items()}
    return {content: replace(one, known=values[keys[content]]) for content, one in spectra.items()}


def _key(content: _Content, spectrum: Spectrum) -> str:
    layout = ("/transposed" if content[1] else "") + ("/pooled" if spectrum.slices == "pooled" and spectrum.cells > 1 else "")
    return f"{content[0].hex()}{layout}"


def _row(spectrum: Spectrum, content: _Content, work: _Work) -> LayerSpectrum:
    """All measures of one layer; one that refuses it is noted, and the others go on."""
    values, notes = {}, []
    for name, one in work.measures.items():
        chance = {}
        if name in work.random:  # every measure starts from the same state, so that those that shuffle share one decomposition
            chance["generator"] = torch.Generator().manual_seed(work.seed ^ int.from_bytes(content[0][:7], "big"))
        try:
            values[name] = one(spectrum, **work.settings.get(name, {}), **chance)
        except AnalysisError as error:
            notes.append(f"{name}: {error}")
    return LayerSpectrum(spectrum.layer, values, "; ".join(notes), spectrum.eigenvalues.cpu().numpy(), spectrum.size)
