"""`weightspace spec`: which neuron groups index each axis of a model's tensors."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.options import ALIGNMENT, Format, Model, OutputFormat, SpecFile, ZooFolder, spec_of, zoo_at
from weightspace.cli.output import Column, print_data, print_rich, print_table, say, write
from weightspace.cli.progress import progress

if TYPE_CHECKING:
    import torch

    from weightspace.checkpoint import Checkpoint
    from weightspace.spec import SymmetrySpec

PLACE = 29

_GROUPS = {
    "group": Column("group", cells.plain, whole=False),
    "size": Column("size", right=True),
    "kind": Column("kind", style="dim", rank=2),
    "symmetry": Column("symmetry", style="cyan"),
    "per": Column("per", cells.plain, whole=False, rank=1),
}
_TENSORS = {
    "tensor": Column("tensor", cells.plain, whole=False),
    "axes": Column("axes", cells.plain, whole=False, style="cyan"),
    "note": Column("", style="yellow", rank=1),
}


def _shape(text: str) -> str:
    if not re.fullmatch(r"\d+(x\d+)*(:\d+)?", text):
        raise typer.BadParameter(f"'{text}' is no shape; write 1x3x32x32 for numbers, 2x8:100 for integers below 100")
    return text


def spec(
    model: Model,
    file: SpecFile = None,
    activation: Annotated[
        str | None,
        typer.Option(
            "--activation",
            metavar="NAME",
            show_default=False,
            help="Take the model for a plain chain of layers with this activation: relu, tanh, sin, gelu, ...",
        ),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option("--module", metavar="MODULE:FUNCTION", show_default=False, help="Derive the axes from the module that this builds."),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="SHAPE",
            show_default=False,
            callback=lambda given: [_shape(one) for one in given or []],
            help="An input that the module runs on, such as 1x3x32x32, or 2x8:100 for integers below 100; once for each.",
        ),
    ] = None,
    prove: Annotated[bool, typer.Option("--prove", help="See on random weights that the module's function is preserved.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep it in the catalog for all models of this architecture.")] = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print YAML, to be edited and given back with --spec.")] = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Print the table of axes: which neuron groups index each axis of each tensor.

    By default as the catalog or a known architecture says. With --module it is derived from the module itself, with --activation from names and shapes alone. JSON holds everything, CSV a row for every tensor.

    Examples:
      weightspace spec base
      weightspace spec base --activation relu --keep
      weightspace spec checkpoints/wide.npz --yaml
    """  # fmt: skip
    if sum(given is not None for given in (file, activation, module)) > 1:
        raise typer.BadParameter("--spec, --activation and --module are three sources of a spec; give one")
    if (module is not None or prove) and not input:
        raise typer.BadParameter("--module and --prove run the module; give an example --input, such as --input 1x3x32x32")
    place = zoo_at(zoo)
    with progress("deriving" if module or prove else "reading"):
        checkpoint = place.checkpoint(model)
        if activation is not None:
            from weightspace.inference import infer_spec

            found = infer_spec(checkpoint, activation)
        elif module is None:
            found = spec_of(file, place, model, checkpoint)
        if module is not None or prove:
            found = _run(checkpoint, None if module is not None else found, module, input or [], prove)
        if keep:
            place.set_spec(model, found)
    if yaml:
        write([found.to_yaml()])
    elif format is Format.table:
        _print_tables(found)
    else:
        print_data([found.to_dict()] if format is Format.json else _tensors(found), format)


def _run(checkpoint: "Checkpoint", found: "SymmetrySpec | None", module: str | None, shapes: Sequence[str], prove: bool) -> "SymmetrySpec":
    """Derive a spec from the module where there is none, and prove it where that is asked."""
    import weightspace.proof
    from weightspace.modules import module_for
    from weightspace.tracing import trace

    built, inputs = module_for(checkpoint, module), [_example(shape) for shape in shapes]
    if found is None:
        return trace(built, *inputs, prove=prove)
    return weightspace.proof.prove(found, built, *inputs) if prove else found


def _example(text: str) -> "torch.Tensor":
    """An input of a shape, the same every time."""
    import torch

    shape, _, below = text.partition(":")
    sizes, generator = [int(n) for n in shape.split("x")], torch.Generator().manual_seed(0)
    return torch.randint(max(1, int(below)), sizes, generator=generator) if below else torch.randn(sizes, generator=generator)


def _print_tables(found: "SymmetrySpec") -> None:
    count = len(found.movable)
    state = "proved" if found.proved else "not proved"
    print_rich(f"{cells.counted(count, 'neuron group')}, 2^{found.log2_order:.1f} permutations, {found.dimension:,} dimensions, {state}")
    if found.groups:
        print_rich("")
        print_table(
            [
                {"group": g.name, "size": g.size, "kind": g.kind, "symmetry": "" if g.symmetry == "none" else g.symmetry, "per": g.per}
                for g in found.groups.values()
            ],
            _GROUPS,
        )
    print_rich("")
    print_table(_tensors(found), _TENSORS)
    for note in found.notes:
        say(f"note: {note}", style="dim")


def _tensors(found: "SymmetrySpec") -> list[dict[str, Any]]:
    from weightspace.axes import show

    rows = [
        {"tensor": name, "axes": show(axes), "note": "statistic" if name in found.statistics else ""}
        for name, axes in found.tensors.items()
    ]
    return rows + [{"tensor": name, "axes": show(found.axes(name)), "note": f"= {owner}"} for name, owner in found.aliases.items()]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ALIGNMENT)(spec)
