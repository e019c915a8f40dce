"""Model cards: what the YAML at the top of a README.md declares about a model."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace.errors import RecordError, one_line
from weightspace.zoo.beside.documents import parse_yaml, read_text
from weightspace.zoo.beside.licences import spdx
from weightspace.zoo.metrics import MAX_NAME, Metric, number_in_text

MAX_CARD = 4 << 20
MAX_ENTRIES = 1000

_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*\r?$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class ModelCard:
    """The declarations of a model card; what it does not say is None or empty.

    Attributes:
        licence: SPDX spelling where there is one, else as said; the name of a licence of its own for `other`.
        base_models, datasets, languages, tags: in the card's order, always a tuple, whether it gave one or a list.
        library: `transformers`, `peft`, ...
        task: the pipeline tag.
        metrics: the model-index results; names carry the dataset, `imagenet.accuracy`, when results of several stand there.
    """

    licence: str | None = None
    base_models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    library: str | None = None
    task: str | None = None
    tags: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()


def read_card(path: Path) -> ModelCard | None:
    """Read a model card; None for a README without front matter.

    Raises:
        RecordError: the front matter is no plain YAML mapping, or is too large.
    """
    text = read_text(path, MAX_CARD)
    front = _FRONT_MATTER.match(text)
    if front is None:
        return None
    said = parse_yaml(front.group(1), str(path))
    if said is None:
        return None
    if not isinstance(said, dict):
        raise RecordError(f"{path}: expected a mapping as front matter, found {type(said).__name__}; write 'key: value' lines")
    return card_of(said)


def card_of(said: Mapping[str, Any]) -> ModelCard:
    """What a card's front matter declares."""
    return ModelCard(
        licence=_licence(said),
        base_models=_texts(said.get("base_model")),
        datasets=_texts(said.get("datasets")),
        languages=_texts(said.get("language")),
        library=_text(said.get("library_name")),
        task=_text(said.get("pipeline_tag")),
        tags=_texts(said.get("tags")),
        metrics=tuple(_results(said.get("model-index"))),
    )


def _licence(said: Mapping[str, Any]) -> str | None:
    names = _texts(said.get("license"))
    if names == ("other",):
        names = _texts(said.get("license_name")) or names
    return " OR ".join(map(spdx, names)) or None


def _text(value: object) -> str | None:
    # YAML reads `no` (Norwegian) as false and `1.0` as a number.
    if value is False:
        return "no"
    return one_line(str(value).strip(), MAX_NAME) or None if isinstance(value, str | int | float) and value is not True else None


def _texts(value: object) -> tuple[str, ...]:
    values = value[:MAX_ENTRIES] if isinstance(value, list) else [value]
    return tuple(text for one in values if (text := _text(one)) is not None)


def _results(index: object) -> Iterator[Metric]:
    results = [result for model in _mappings(index) for result in _mappings(model.get("results"))]
    datasets = {_dataset(result) for result in results}
    for result in results:
        dataset = result.get("dataset")
        split = _text(dataset.get("split")) if isinstance(dataset, dict) else None
        for metric in _mappings(result.get("metrics")):
            name, value = _text(metric.get("type")) or _text(metric.get("name")), number_in_text(metric.get("value"))
            if name and value is not None:
                yield Metric(f"{_dataset(result)}.{name}" if len(datasets) > 1 else name, value, split)


def _dataset(result: Mapping[str, Any]) -> str:
    dataset = result.get("dataset")
    names = (_text(dataset.get(key)) for key in ("type", "name")) if isinstance(dataset, dict) else ()
    return next((name for name in names if name), "unknown")


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value[:MAX_ENTRIES] if isinstance(one, dict)] if isinstance(value, list) else []
