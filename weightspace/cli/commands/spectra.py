"""`weightspace spectra`: what the singular values of each layer say."""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import (
    ANALYSIS,
    PICTURES,
    Backend,
    Force,
    Format,
    Jobs,
    Models,
    OutputFormat,
    Seed,
    Where,
    ZooFolder,
    pairs,
    plot_option,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import Column, print_data, print_figure, say
from weightspace.cli.progress import progress
from weightspace.cli.settings import settings_of
from weightspace.errors import AnalysisError, RecordError

if TYPE_CHECKING:
    from weightspace.analysis.spectra import SpectraTable
    from weightspace.checkpoint import Checkpoint
    from weightspace.zoo.zoo import Zoo

PLACE = 40

_RANDOM = ("traps", "rand_distance")
_FIXED = {
    "model": Column("model", style="bold", whole=False),
    "layer": Column("layer", style="bold", whole=False),
    "tensor": Column("layer", style="bold", whole=False),
    "kind": Column("kind", rank=4),
    "rows": Column("rows", right=True, rank=3),
    "columns": Column("columns", right=True, rank=3),
    "note": Column("note", whole=False, rank=1),
}


def spectra(
    models: Models = None,
    where: Where = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure", metavar="NAME", show_default=False, help="What to measure; `weightspace measure` lists measures of a matrix."
        ),
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option("--layer", metavar="GLOB", show_default=False, help="Only layers whose names fit, as in '*.attn.*'.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="MEASURE.KEY=VALUE", show_default=False, help="A setting of a measure, as in mp_softrank.fit=density."
        ),
    ] = None,
    fourier: Annotated[
        str | None,
        typer.Option("--fourier", metavar="HxW", show_default=False, help="Also the norm of convolutions as maps of images of this size."),
    ] = None,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=0, metavar="N", help="Also intervals of alpha, from N resamples.")] = 0,
    randomize: Annotated[
        bool, typer.Option("--randomize", help="Also what is left when a layer's entries are shuffled: traps, distance.")
    ] = False,
    pooled: Annotated[
        bool, typer.Option("--pooled", help="Take kernels cell by cell and put the values together, as WeightWatcher does.")
    ] = False,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Tables of embeddings, too.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Print means over the layers in place of the layers.")] = False,
    values: Annotated[bool, typer.Option("--values", help="Print the singular values in place of what they say.")] = False,
    plot: Annotated[Path | None, plot_option("the layers")] = None,
    tails: Annotated[
        Path | None,
        typer.Option(
            "--tails", metavar="FILE", show_default=False, help="Draw the eigenvalues of up to twelve layers, with the fitted tails."
        ),
    ] = None,
    jobs: Jobs = None,
    backend: Backend = "local",
    force: Force = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Measure the singular values of each layer: norms, ranks, the tail's exponent, the edge of noise.

    Each distinct tensor is decomposed once, for all measures. In a zoo its singular values are kept, and with --where the results too. A layer that has NaN is reported, and the others go on.

    Examples:
      weightspace spectra base.safetensors --randomize --bootstrap 50 --plot spectra.png
      weightspace spectra base.safetensors tuned.safetensors --measure stable_rank --layer 'fc1*'
      weightspace spectra --where "name like '%base%'" --measure effective_rank
    """
    unwritten(plot, force, PICTURES)
    unwritten(tails, force, PICTURES)
    if (where is None) == (not models):
        raise AnalysisError(f"expected models or --where, found {'neither' if where is None else 'both'}; give one of the two")
    if (plot or tails or values) and (where is not None or len(models or []) != 1):
        raise AnalysisError("--plot, --tails and --values are of one model, found several; name one, without --where")
    names, settings = _asked(measure, option or [], fourier, bootstrap, randomize)
    choice = _Choice(names, layer, embeddings, {"settings": settings, "slices": "pooled" if pooled else "reshaped"}, seed)
    here = zoo_at(zoo)
    if where is not None:
        found_rows = choice.over_query(here, where, jobs, backend)
        shown = _means(found_rows) if summary else found_rows
        print_data(shown, format, _columns(shown))
        for row in found_rows:
            if all(value is None for name, value in row.items() if name not in ("model", "tensor")):
                said = f"{row['model']}: {row['tensor']}: nothing could be measured; weightspace spectra {row['model']} says why"
                say(cells.safe(said), style="yellow")
        return
    with progress("measuring"):
        found = {one: choice.of_model(here, one) for one in models or []}
    rows = [row for one, table in found.items() for row in _rows(one if len(found) > 1 else "", table, summary, values)]
    print_data(rows, format, _columns(rows))
    for one, table in found.items():
        for note in table.notes:
            say(cells.safe(f"{one}: {note}"), style="yellow")
    for file, draw in ((plot, "plot"), (tails, "plot_tails")):
        if file is not None:
            print_figure(getattr(found[(models or [])[0]], draw)(), file)


@dataclass(frozen=True)
class _Choice:
    """What is measured: measures, patterns of layers, whether embeddings too, settings, and the seed."""

    measures: tuple[str, ...]
    layers: list[str] | None
    embeddings: bool
    options: dict[str, Any]
    seed: int

    def of_model(self, here: "Zoo", model: str) -> "SpectraTable":
        """Measure one model."""
        import torch

        from weightspace.analysis.spectra import spectra as run

        generator = torch.Generator().manual_seed(self.seed)
        checkpoint = here.checkpoint(model)
        return run(
            checkpoint, self.measures, self.layers, generator=generator, cache=here.cache, embeddings=self.embeddings, **self.options
        )

    def over_query(self, here: "Zoo", where: str, jobs: int | None, backend: str) -> list[dict[str, Any]]:
        """Measure the models of a query; what is known of a tensor's content is not measured again."""
        from weightspace.analysis.measure import Taking, measures
        from weightspace.analysis.spectra import take
        from weightspace.zoo.mapping import Measure

        slices = {"slices": "pooled"} if self.options["slices"] == "pooled" else {}
        filed = [
            Measure(name, measures[name].version, Taking(name, self.options["settings"].get(name, {}), self.seed).parameters | slices)
            for name in self.measures
        ]
        function = functools.partial(take, **self.options, seed=self.seed, cache=here.cache)
        left_out = LeftOut()
        with progress("measuring"):
            found = here.map_tensors(function, where, measures=filed, choose=self._variants, jobs=jobs, backend=backend, skip=left_out)
        rows: list[dict[str, Any]] = found.to_pylist()
        left_out.report("spectra", is_all=not rows)
        if not rows:
            raise AnalysisError("the query finds no models; widen --where")
        return rows

    def _variants(self, checkpoint: "Checkpoint") -> dict[str, str]:
        """What tells results of one content apart: how each layer lies."""
        from weightspace.analysis.spectra.choice import chosen_layers

        chosen = chosen_layers(checkpoint, self.layers, self.embeddings)
        return {one.name: " ".join([one.kind] * (one.kind != "dense") + ["transposed"] * one.is_transposed) for one in chosen}


def _asked(
    names: list[str] | None, texts: list[str], fourier: str | None, bootstrap: int, randomize: bool
) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """Measures and their settings, those of the short options among them."""
    from weightspace.analysis.measure import measures
    from weightspace.analysis.spectra import DEFAULT
    from weightspace.analysis.spectra.choice import chosen_measures

    asked = list(names or DEFAULT)
    settings: dict[str, dict[str, Any]] = {}
    for key, value in pairs(texts, "option").items():
        measure, dot, setting = key.partition(".")
        if not dot:
            raise RecordError(f"option '{key}' names no measure, expected measure.key=value; write as in mp_softrank.fit=density")
        settings.setdefault(measure, {}).update(settings_of([f"{setting}={value}"], measures[measure].settings, f"measure '{measure}'"))
    if fourier is not None:
        size = re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", fourier)
        if size is None:
            raise RecordError(f"--fourier has the value '{fourier}', expected the size of an image; write as in 32x32")
        settings.setdefault("operator_norm", {})["image"] = tuple(map(int, fourier.split("x")))
    if bootstrap:
        settings.setdefault("alpha_interval", {})["bootstrap"] = bootstrap
    more = ["operator_norm"] * (fourier is not None) + ["alpha_interval"] * bool(bootstrap) + list(_RANDOM) * randomize
    asked = list(dict.fromkeys(asked + more))
    chosen_measures(asked, settings)
    return tuple(asked), {name: found for name, found in settings.items() if name in asked}


def _rows(model: str, table: "SpectraTable", summary: bool, values: bool) -> list[dict[str, Any]]:
    first = {"model": model} if model else {}
    if values:
        return [
            {"layer": row.layer.name, "place": place, "singular_value": float(one) ** 0.5}
            for row in table.rows
            for place, one in enumerate(row.eigenvalues, 1)
        ]
    if summary:
        return [
            first | {"layers": len(table.rows)} | {name: value if math.isfinite(value) else None for name, value in table.summary.items()}
        ]
    return [first | row for row in table.table]


def _means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a model: the means of its layers."""
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        numbers = {
            name: [row[name] for row in own if isinstance(row[name], int | float)] for name in own[0] if name not in ("model", "tensor")
        }
        means = {name: sum(values) / len(values) if values else None for name, values in numbers.items()}
        found.append({"model": model, "layers": len(own)} | means)
    return found


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, Column]:
    """The numbers to four digits; what stands beside a measure's own number goes first on a narrow terminal."""
    names = [name for name in (rows[0] if rows else {}) if name != "note" or any(row["note"] for row in rows)]
    return {name: _FIXED.get(name) or Column(cells.safe(name), cells.number, right=True, rank=2 * ("." in name)) for name in names}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ANALYSIS)(spectra)
