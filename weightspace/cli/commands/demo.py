"""`weightspace demo`: a zoo filled, asked and reported on, without a network."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import Backend, zoo_at
from weightspace.cli.output import say, write

if TYPE_CHECKING:
    from weightspace.zoo.demo.questions import Answer

PLACE = 90


def demo(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", show_default=False, help="Checkpoints of yours to catalogue as well.")
    ] = None,
    zoo: Annotated[Path, typer.Option("--zoo", metavar="DIR", help="The folder to make the zoo in.")] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the networks that are trained.")] = 0,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, metavar="N", show_default=False, help="Processes that read; by default one a core.")
    ] = None,
    backend: Backend = "local",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="The report; by default report.html in DIR.")
    ] = None,
) -> None:
    """Fill a zoo, ask it five questions, write a report.

    Trains 60 small networks on scikit-learn's digits, catalogues them together with checkpoints that installed packages ship (lpips, DISTS-pytorch, silero-vad, facenet-pytorch), and asks the catalog in SQL. Two of the networks are averaged, as they are and aligned, then all of one shape by a recipe; and one is made by a generator, with its evaluation card. The report is one HTML page that opens offline. Nothing is downloaded.

    Examples:
      weightspace demo
      weightspace demo --zoo tour --seed 1 -o tour.html
    """
    from weightspace.cli.averaging import average
    from weightspace.cli.new_network import new_network
    from weightspace.zoo.demo.demo import demo as run
    from weightspace.zoo.report.report import write_report

    here = zoo_at(zoo)
    made = run(here, seed=seed, jobs=jobs, backend=backend, paths=paths or [], report=output, say=say)
    for answer in made.answers:
        _tell(answer)
    say("\nCan two networks that were trained apart be averaged?", style="bold cyan")
    average(here, here.folder / "averaging.png", seed, say)
    say("\nCan a network be made without training?", style="bold cyan")
    new_network(here, here.folder / "card.html", seed, say)
    write_report(here, made.report, made.answers)  # once more: the networks just made have pages, too
    say(f"open the report in a browser; the zoo is in {cells.safe(str(zoo))}: weightspace ls --zoo {cells.safe(str(zoo))}")
    write([f"{cells.safe(str(made.report))}\n"])


def _tell(answer: "Answer") -> None:
    """Show a question, its SQL and its answer on stderr, as the talk around the one result: the report."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True)
    console.print(Text(f"\n{cells.safe(answer.question.text)}", style="bold cyan"))
    console.print(Text(textwrap.indent(answer.question.sql, "  "), style="dim"))
    rows = answer.table.to_pylist()
    if rows:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name, value in rows[0].items():
            table.add_column(Text(name), justify="right" if isinstance(value, int | float) else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cells.short(value)) for value in row.values()))
        console.print(table)
    console.print(Text(cells.safe(answer.sentence), style="bold"))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)
