"""`weightspace signature`: what training on corrupted data adds to a model, taken out, put into others, and taken off again."""

from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.evaluation import judge_at, judge_option, values_of
from weightspace.cli.options import (
    ANALYSIS,
    PICTURES,
    WEIGHTS,
    Force,
    Format,
    Model,
    OutputFormat,
    Seed,
    SpecFile,
    ZooFolder,
    expect_apart,
    plot_option,
    spec_of,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.cli.signatures import catalogue, draw, kept_beside, remembered, row_of, signature_at
from weightspace.errors import AnalysisError

PLACE = 43

Signatures = Annotated[
    list[str], typer.Argument(metavar="SIGNATURE...", show_default=False, help="Paths, names in the catalog, or first digits of ids.")
]
One = Annotated[
    str, typer.Argument(metavar="SIGNATURE", show_default=False, help="A path, a name in the catalog, or the first digits of an id.")
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="The .safetensors file to write.")]
Plot = Annotated[Path | None, plot_option("the energy by tensor")]
_MADE = {
    "file": Column("file"),
    "id": Column("id", lambda id: id[:12]),
    "tensors": Column("tensors", cells.count, right=True),
    "bits": Column("bits", lambda bits: f"{bits}" if bits else "floats", right=True),
    "bytes": Column("size", cells.size, right=True),
    "times_smaller": Column("times smaller", cells.number, right=True),
}
_PARTS = {
    "tensor": Column("tensor"),
    "shape": Column("shape", cells.shape, rank=2),
    "energy": Column("energy", lambda share: cells.number(share), right=True),
    "norm": Column("norm", cells.number, right=True, rank=3),
    "ratio": Column("of clean", cells.number, right=True, rank=1),
    "along": Column("along clean", cells.number, right=True, rank=2),
    "bytes": Column("size", cells.size, right=True, rank=1),
}
group = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@group.command()
def extract(
    pretrained: Annotated[
        str, typer.Argument(metavar="PRETRAINED", show_default=False, help="What both were trained from, if only the initialisation.")
    ],
    standard: Annotated[str, typer.Argument(metavar="STANDARD", show_default=False, help="Trained on clean data.")],
    robust: Annotated[str, typer.Argument(metavar="ROBUST", show_default=False, help="Trained on corrupted data.")],
    output: Output,
    layers: Annotated[
        str,
        typer.Option("--layers", metavar="RULE", help="What to keep: all, first:7, energy:.9, ratio:.9, or a pattern as in 'layer1.*'."),
    ] = "all",
    bits: Annotated[
        int | None, typer.Option("--bits", metavar="N", show_default=False, help="Store codes of 2 to 16 bits in place of floats.")
    ] = None,
    quantiser: Annotated[
        str | None,
        typer.Option(
            "--quantiser",
            metavar="NAME",
            show_default=False,
            help="With --bits: what levels are even in: linear (by default), log or tanh.",
        ),
    ] = None,
    batch_norms: Annotated[bool, typer.Option(" /--no-norms", help="Leave out the robust model's batch norms.")] = True,
    plot: Plot = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Take out what training on corrupted data did and training on clean data did not.

    Of each tensor, what is left of ROBUST - PRETRAINED when its part along STANDARD - PRETRAINED is taken off (robust weight signatures, arXiv:2302.12480).

    Examples:
      weightspace signature extract base.safetensors a.safetensors b.safetensors -o noise.safetensors
      weightspace signature extract base.safetensors a.safetensors b.safetensors -o small.safetensors --bits 4 --quantiser log --layers energy:.9
    """
    from weightspace.analysis.signatures import extract as run
    from weightspace.analysis.signatures import quantise

    if quantiser is not None and bits is None:
        raise typer.BadParameter("belongs to --bits N, without which floats are stored; give both", param_hint="--quantiser")
    unwritten(output, force, WEIGHTS)
    unwritten(plot, force, PICTURES)
    here = zoo_at(zoo)
    models = [here.checkpoint(name) for name in (pretrained, standard, robust)]
    expect_apart(output, models)
    with progress("extracting"):
        found = run(*models, layers=layers, batch_norms=batch_norms)
        if bits is not None:
            found = quantise(found, bits, quantiser or "linear")
        found.save(output)
    for name, reason in found.left_out.items():
        say(f"left out '{cells.safe(name)}': it {cells.safe(reason)}")
    if not found.energy:
        say(
            "warning: the signature is all zeros: ROBUST did nothing to these tensors but what STANDARD did; see which models you named",
            style="yellow",
        )
    print_data([row_of(output, found)], format, _MADE)
    draw(found, plot)
    catalogue(here, [*models, found.stored], output)


@group.command()
def apply(
    model: Model,
    signatures: Signatures,
    output: Output,
    strength: Annotated[float, typer.Option("--strength", metavar="ALPHA", help="What the sum of the signatures is multiplied by.")] = 1.0,
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", metavar="W", show_default=False, help="Of each signature, in order; equal shares of one by default."),
    ] = None,
    replace_norms: Annotated[
        bool, typer.Option("--replace-norms", help="Put in the batch norms of the robust models in place of the model's.")
    ] = False,
    evaluation: Annotated[str | None, judge_option("the model before and after")] = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Patch a model with one or more signatures.

    What the patch loses of the model lies beside the result, in a file that ends in .difference, so that `signature remove` gives the model back bit for bit.

    Examples:
      weightspace signature apply a.safetensors noise.safetensors -o patched.safetensors
      weightspace signature apply a.safetensors noise.safetensors blur.safetensors -o patched.safetensors --strength 0.8 --weight 1 --weight 0.5
      weightspace signature apply a.safetensors noise.safetensors -o patched.safetensors --eval tasks:digits --force
    """
    import weightspace
    from weightspace.analysis.signatures import apply as run
    from weightspace.analysis.signatures import keep, made_nonfinite

    unwritten(output, force, WEIGHTS)
    here = zoo_at(zoo)
    clean, given = here.checkpoint(model), [signature_at(here, name) for name in signatures]
    judge = None if evaluation is None else judge_at(evaluation)
    expect_apart(output, [clean, *(one.stored for one in given)])
    buffers = "replace" if replace_norms else "keep"
    with progress("patching"):
        patched = run(clean, given, strength=strength, weights=weight, buffers=buffers)
        weightspace.save(patched, output, {key: str(value) for key, value in patched.metadata.items()})
        keep(clean, patched, given, kept_beside(output))
        broken = made_nonfinite(clean, patched)
    if broken:
        what = f"{cells.counted(sum(broken.values()), 'element')} of {cells.counted(len(broken), 'tensor')} became NaN or infinite"
        advice = f"take a --strength below {strength:g}, or patch a model of a wider dtype"
        say(f"warning: {what}, first in '{cells.safe(next(iter(broken)))}'; {advice}", style="yellow")
    row = {"file": str(output), "id": patched.id, "bytes": patched.num_bytes, "undo": kept_beside(output).stat().st_size}
    found: list[tuple[str, dict[str, float]]] = []
    if judge is not None:
        with progress("evaluating"):
            found = [("before", values_of(judge, clean)), ("after", values_of(judge, patched))]
    values = {f"{name}_{when}": value for when, one in found for name, value in one.items()}
    judged = {name: Column(cells.safe(name.replace("_", " ")), cells.number, right=True) for name in values}
    print_data([{**row, **values}], format, _PATCHED | judged)
    catalogue(here, [clean, *(one.stored for one in given)], output)


@group.command()
def remove(
    patched: Model,
    output: Output,
    signatures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SIGNATURE]...", show_default=False, help="Those that were applied, in order; by default as the catalog has them."
        ),
    ] = None,
    kept: Annotated[
        Path | None, typer.Option("--kept", metavar="FILE", show_default=False, help="The .difference file, where it lies elsewhere.")
    ] = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Take the signatures off a patched model: it comes back bit for bit.

    Examples:
      weightspace signature remove patched.safetensors noise.safetensors -o restored.safetensors
    """
    import weightspace
    from weightspace.analysis.signatures import patch_of
    from weightspace.analysis.signatures import remove as run

    unwritten(output, force, WEIGHTS)
    here = zoo_at(zoo)
    model = here.checkpoint(patched)
    file = kept or (kept_beside(model.path) if model.path is not None else None)
    given = [signature_at(here, name) for name in signatures] if signatures else remembered(here, patch_of(model)["signatures"])
    expect_apart(output, [model, *(one.stored for one in given)])
    if file is None or not file.is_file():
        raise AnalysisError(f"{file}: does not exist, and without it the last bits of the model are lost; name it with --kept FILE")
    with progress("removing"):
        restored = run(model, given, file)
        weightspace.save(restored, output)
    print_data([{"file": str(output), "id": restored.id, "bytes": restored.num_bytes}], format, _RESTORED)
    say(f"wrote {cells.safe(str(output))}")


@group.command()
def transfer(
    signature: One,
    source: Annotated[str, typer.Argument(metavar="STANDARD", show_default=False, help="The clean model that it was extracted with.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", show_default=False, help="The clean model that it is meant for.")],
    output: Output,
    method: Annotated[
        str, typer.Option("--match", metavar="METHOD", help="How TARGET's neurons are found: a method of `match`.")
    ] = "weight",
    spec: SpecFile = None,
    force: Force = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Put a signature into the neuron order of a model from another start.

    Models from one start mostly have their neurons in one order: there a signature is applied as it is.

    Examples:
      weightspace signature transfer noise.safetensors a.safetensors b.safetensors -o moved.safetensors
    """
    import torch

    from weightspace.analysis.signatures import transfer as run

    unwritten(output, force, WEIGHTS)
    here = zoo_at(zoo)
    found, left, right = signature_at(here, signature), here.checkpoint(source), here.checkpoint(target)
    expect_apart(output, [found.stored, left, right])
    with progress("matching"):
        moved = run(found, left, right, spec_of(spec, here, target, right), align=method, generator=torch.Generator().manual_seed(seed))
        moved.save(output)
    print_data([row_of(output, moved)], format, _MADE)
    catalogue(here, [found.stored], output)


@group.command()
def show(
    signature: One,
    plot: Plot = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Show what a signature is made of: energy, size beside what clean training did, and bytes by tensor.

    Examples:
      weightspace signature show noise.safetensors
      weightspace signature show noise.safetensors --plot energy.png
    """
    unwritten(plot, force, PICTURES)
    found = signature_at(zoo_at(zoo), signature)
    print_data(found.table(), format, _PARTS)
    norms = f", with {cells.counted(len(found.norms), 'tensor')} of batch norms" if found.norms else ""
    kept = f"{found.bits} bits, {found.quantiser}" if found.bits else "floats"
    say(f"{kept}: {cells.size(found.num_bytes)}, {found.compression:.1f} times less than the model{norms}")
    draw(found, plot)


_PATCHED = {
    "file": Column("file"),
    "id": Column("id", lambda id: id[:12]),
    "bytes": Column("size", cells.size, right=True),
    "undo": Column("kept to undo", cells.size, right=True),
}
_RESTORED = {key: _PATCHED[key] for key in ("file", "id", "bytes")}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(
        group, name="signature", rich_help_panel=ANALYSIS,
        help="Take out, store, apply and remove what training on corrupted data adds to a model.",
    )  # fmt: skip
