"""Arguments and options that commands share, and how `key=value` is read."""

import enum
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.errors import RecordError, one_line

if TYPE_CHECKING:
    from weightspace.checkpoint import Checkpoint
    from weightspace.spec import SymmetrySpec
    from weightspace.zoo.zoo import Zoo

CATALOG = "The catalog"
"""The help panel of the commands that keep and ask the catalog."""

KEEPING = "Keeping"
"""The help panel of the commands that see to it that nothing is lost."""

ALIGNMENT = "Alignment"
"""The help panel of the commands that name axes, align networks and look between them."""

METANETS = "Metanets"
"""The help panel of the commands that train small networks and networks that read them."""

GENERATION = "New weights"
"""The help panel of the commands that make weights."""

ANALYSIS = "Analysis"
"""The help panel of the commands that measure weights."""


class Format(enum.StrEnum):
    """How a command prints its data."""

    table = "table"
    json = "json"
    csv = "csv"


ZooFolder = Annotated[
    Path | None,
    typer.Option(
        "--zoo",
        metavar="DIR",
        show_default=False,
        help="The zoo's folder, or quack:HOST:PORT; else $WEIGHTSPACE_ZOO, else the nearest parent that has one.",
    ),
]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to print: for eyes, or for programs.")]


def model_argument(metavar: str = "MODEL") -> Any:
    """An argument that names a model, under a name of its own where there are several."""
    return typer.Argument(
        metavar=metavar, show_default=False, help="A path, a name in the catalog, the first digits of an id, or hf:org/name."
    )


Model = Annotated[str, model_argument()]
Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", show_default=False, help="Paths, names in the catalog, or first digits of ids."),
]
Where = Annotated[
    str | None, typer.Option("--where", metavar="SQL", show_default=False, help="Take the models that a catalog query finds.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, metavar="N", show_default=False, help="Processes; by default one, or all of a cluster."),
]
Backend = Annotated[
    str, typer.Option("--backend", metavar="local|ray|dask", help="Where they run: here, or on a cluster; see docs/cluster.md.")
]
SpecFile = Annotated[
    Path | None,
    typer.Option(
        "--spec",
        metavar="FILE",
        show_default=False,
        help="A YAML file that names the axes; by default what the catalog or a known architecture says.",
    ),
]
MetanetFile = Annotated[
    str, typer.Option("--metanet", metavar="MODEL", help="A metanet: a path, a name in the catalog, or the first digits of an id.")
]
Colour = Annotated[
    str | None,
    typer.Option("--colour", metavar="COLUMN", show_default=False, help="Colour the picture by a column, as in test_accuracy."),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of everything that is left to chance.")]
All = Annotated[bool, typer.Option("--all", help="Leave nothing out.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]


def plot_option(what: str) -> Any:
    """The option that names the file for a picture of `what`."""
    return typer.Option("--plot", metavar="FILE", show_default=False, help=f"Draw {what} into a PNG, SVG or PDF file.")


def zoo_at(folder: Path | None) -> "Zoo":
    """Open the zoo that `--zoo`, the environment or the working folder name; imported now, since it brings the database."""
    from weightspace.zoo.zoo import Zoo

    return Zoo(folder)


def spec_of(file: Path | None, zoo: "Zoo", model: str, checkpoint: "Checkpoint") -> "SymmetrySpec":
    """Find the names of a model's axes: in a file, in the catalog, or by its architecture."""
    from weightspace.spec import SymmetrySpec

    return zoo.spec(model) if file is None else SymmetrySpec.from_yaml(file, checkpoint)


WEIGHTS, PICTURES = (".safetensors",), (".png", ".svg", ".pdf")
"""Suffixes of the files that commands write."""


def unwritten(file: Path | None, force: bool, suffixes: tuple[str, ...]) -> None:
    """See that a file can be written before work begins.

    Raises:
        RecordError: it has another suffix, is a folder, lies in none, or exists and is not to be replaced.
    """
    if file is None:
        return
    if file.suffix.lower() not in suffixes:
        raise RecordError(f"{file}: has the suffix '{file.suffix}'; name a file that ends in {' or '.join(suffixes)}")
    if file.is_dir():
        raise RecordError(f"{file}: is a folder; name the file to write")
    if not file.parent.is_dir():
        raise RecordError(f"{file}: its folder does not exist; make it first")
    if file.exists() and not force:
        raise RecordError(f"{file}: exists already; choose another name, or replace it with --force")


def expect_apart(output: Path, inputs: "Iterable[Checkpoint]") -> None:
    """See that no input is written over: tensors are read while the result is written, and what it was made from is needed later.

    Args:
        output: the file to write, or the folder to write files into.
        inputs: what is read.

    Raises:
        RecordError: it is the file of an input, or the folder that the file lies in.
    """
    place = output.resolve()
    if any(place in (file.resolve(), file.resolve().parent) for one in inputs for file in one.files):
        raise RecordError(f"{output}: is read for this itself; choose another name for the result")


_UNITS = {
    "": 1,
    "B": 1,
    "K": 10**3,
    "KB": 10**3,
    "M": 10**6,
    "MB": 10**6,
    "G": 10**9,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


def byte_count(text: str) -> int:
    """Read a number of bytes, as in 500MB.

    Raises:
        typer.BadParameter: it is none.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].upper() not in _UNITS or float(found[1]) <= 0:
        raise typer.BadParameter(f"'{one_line(text, 40)}' is no number of bytes; write it as in 5GB or 500MB")
    return max(1, int(float(found[1]) * _UNITS[found[2].upper()]))


def pairs(texts: Iterable[str], what: str) -> dict[str, str]:
    """Read `key=value` arguments; a bare key has an empty value where `what` is a label.

    Raises:
        typer.BadParameter: one has no key.
    """
    read: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key.strip():
            raise typer.BadParameter(f"'{one_line(text, 80)}' is no {what}; write key=value")
        read[key.strip()] = value.strip()
    return read
