"""`weightspace unmerge`: a model that went into a merge, got back from it."""

from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import ALIGNMENT, WEIGHTS, Force, Format, Model, OutputFormat, ZooFolder, unwritten, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.errors import MergeError

PLACE = 34


def unmerge(
    merged: Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="The .safetensors file to write.")
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            "--parent", metavar="NAME", show_default=False, help="The model to get back, as the recipe names it; by default the base."
        ),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option("--without", metavar="NAME", show_default=False, help="Make the merge again as if this model had never been in it."),
    ] = None,
    kept: Annotated[
        Path | None,
        typer.Option("--kept", metavar="DIR", show_default=False, help="The folder of what the merge kept, where it lies elsewhere."),
    ] = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Get a parent back from a merge, bit for bit, or take one out of it.

    The recipe has to say 'keep: base' or 'keep: all': then the differences between the parents and the result lie beside it. Without -o, what was kept is listed.

    Examples:
      weightspace unmerge merged/
      weightspace unmerge merged/ -o restored.safetensors
      weightspace unmerge merged/ --parent a.safetensors -o a-again.safetensors
      weightspace unmerge merged/ --without b.safetensors -o without-b.safetensors
    """
    import weightspace
    from weightspace.analysis.merging import merge
    from weightspace.analysis.merging.merge import prepare_given
    from weightspace.analysis.merging.undo import kept as look
    from weightspace.analysis.merging.undo import merge_without, undo_folder
    from weightspace.analysis.merging.undo import unmerge as run

    if parent is not None and without is not None:
        raise typer.BadParameter("give --parent or --without, not both")
    if output is None and (parent is not None or without is not None):
        raise typer.BadParameter("name the file to write with -o FILE")
    here = zoo_at(zoo)
    result = here.checkpoint(merged)
    folder = kept or undo_folder(result)
    found = look(folder)
    if output is None:
        rows = [{"parent": name, "bytes": path.stat().st_size} for name, path in found.files.items()]
        print_data(rows, format, {"parent": Column("parent"), "bytes": Column("kept in", cells.size, right=True)})
        return
    unwritten(output, force, WEIGHTS)
    if output.resolve() in {file.resolve() for file in result.files}:
        raise MergeError(f"{output}: is the merge itself, without which nothing that it kept can be had back; choose another name")
    if without is not None:
        with progress("merging"):
            made = merge_without(result, folder, without, lambda recipe, models: merge(prepare_given(recipe, models), output, force=force))
        what = f"without {without}"
    else:
        name = parent or (None if found.recipe.base_model is None else str(found.recipe.base_model))
        if name is None:
            raise MergeError(f"the merge has no base; name one of {', '.join(found.files)} with --parent")
        with progress("restoring"):
            made = run(result, folder, name)
            weightspace.save(made, output)
        what = name
    print_data([{"model": str(output), "is": what, "id": made.id, "bytes": made.num_bytes}], format, _COLUMNS)
    say(f"wrote {cells.safe(str(output))}")


_COLUMNS = {
    "model": Column("model"),
    "is": Column("is"),
    "id": Column("id", lambda id: id[:12]),
    "bytes": Column("size", cells.size, right=True),
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ALIGNMENT)(unmerge)
