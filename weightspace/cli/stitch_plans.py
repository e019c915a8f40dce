"""Plans of what to stitch, as a user asks for them: proposed, told of, written and read."""

import contextlib
import enum
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightspace.cli import cells
from weightspace.cli.left_out import LeftOut
from weightspace.cli.output import Column, say
from weightspace.cli.progress import progress
from weightspace.cli.settings import settings_of
from weightspace.cli.stitched import chance
from weightspace.cli.stitching import Material, Network, cut_pair, material_of, named_by
from weightspace.errors import AnalysisError, UnknownNameError, one_line

if TYPE_CHECKING:
    from weightspace.analysis.stitching.plan import Plan, Planned, Way
    from weightspace.zoo.zoo import Zoo

CUTS = {
    "cut": Column("cut", cells.safe, style="bold"),
    "units": Column("units", cells.count, right=True),
    "shape": Column("shape", cells.shape),
    "group": Column("group", cells.safe, whole=False, rank=1),
}
WAYS = {
    "route": Column("route", right=True),
    "network": Column("runs through", cells.safe, style="bold", whole=False),
    "shapes": Column("shapes", cells.safe, rank=3),
    "error": Column("error", cells.number, right=True),
    "cka": Column("CKA", cells.number, right=True, rank=1),
    "flops": Column("FLOPs", cells.count, right=True),
    "parameters": Column("parameters", cells.count, right=True),
    "stitch_flops": Column("of stitches", cells.count, right=True, rank=2),
    "stitch_parameters": Column("and", cells.count, right=True, rank=2),
}


class Purpose(enum.StrEnum):
    """What networks are stitched into."""

    pairs = "pairs"
    family = "family"
    reassembly = "reassembly"


@dataclass(frozen=True)
class Asked:
    """What a user asks for, as options have it; see `weightspace stitch plan --help`."""

    models: Sequence[str]
    where: str | None
    evaluation: str | None
    modules: Sequence[str]
    purpose: Purpose | None
    at: str | None
    kind: str
    options: Sequence[str]
    bias: str
    share: str
    max_flops: int | None
    max_params: int | None
    blocks: int
    seed: int


def proposed(here: "Zoo", asked: Asked) -> "tuple[Material, Plan | None]":
    """The networks and a plan for them; none for one network alone.

    Raises:
        AnalysisError: they cannot be stitched as asked.
        UnknownNameError: there is no such kind, setting or cut.
    """
    from weightspace.analysis.stitching import stitches
    from weightspace.analysis.stitching.family import SHARES
    from weightspace.analysis.stitching.fitting import expect_bias
    from weightspace.analysis.stitching.plan import Plan, Planned
    from weightspace.analysis.stitching.proposing import Wish, propose

    settings = settings_of(asked.options, stitches[asked.kind].settings, f"stitch '{asked.kind}'")
    expect_bias(asked.bias)
    if asked.share not in SHARES:
        raise UnknownNameError.of("way to share", asked.share, SHARES)
    models = named_by(here, asked.models, asked.where)
    if asked.at is not None and (len(models) != 2 or asked.purpose not in (None, Purpose.pairs)):
        what = f" --as {asked.purpose}" if asked.purpose else ""
        raise AnalysisError(f"--at joins two models at one place each, found {len(models)} models{what}; leave it out")
    found = material_of(here, [Planned(one) for one in models], asked.modules, asked.evaluation, None if asked.where is None else LeftOut())
    if len(found.networks) == 1:
        return found, None
    chosen = asked.purpose or (Purpose.pairs if len(found.networks) == 2 else Purpose.family)
    if chosen is Purpose.pairs and len(found.networks) != 2:
        raise AnalysisError(f"pairs are of two models, found {len(found.networks)}; take --as family or --as reassembly")
    joint = None if asked.at is None else cut_pair(asked.at, *found.networks)
    wish = Wish(
        asked.kind, settings, asked.bias, asked.share,
        blocks=asked.blocks, max_flops=asked.max_flops, max_parameters=asked.max_params,
    )  # fmt: skip
    with progress("measuring", "pairs of networks") as bar:
        ways = propose(chosen.value, found.chains, found.fitting, wish, at=joint, generator=chance(asked.seed), progress=bar.count)
    planned = tuple(map(_planned, found.networks))
    return found, Plan(chosen.value, planned, ways, asked.kind, settings, asked.bias, asked.share, asked.evaluation, asked.seed)


def _planned(network: Network) -> "Planned":
    from weightspace.analysis.stitching.plan import Planned

    return Planned(network.name, network.checkpoint.id, network.build, {cut.name: list(cut.shape) for cut in network.chain.cuts})


def joined_only(plan: "Plan") -> "Plan":
    """A plan of pairs without the networks as they are: what is made of it holds what its one route runs."""
    return replace(plan, routes=tuple(way for way in plan.routes if way.at)) if plan.purpose == "pairs" else plan


def way_told(number: int, way: "Way", networks: Sequence[Network]) -> dict[str, Any]:
    """A route of a plan as it is printed."""
    names = [networks[at].name for at in way.networks]
    chains = [networks[at].chain for at in way.networks]
    joints = [
        (f"{names[at]}:{left} > {names[at + 1]}:{right}", _crossing(chains[at], left), _crossing(chains[at + 1], right))
        for at, (left, right) in enumerate(way.at)
    ]
    return {
        "route": number,
        "network": ", ".join(one for one, _, _ in joints) or names[0],
        "shapes": ", ".join(f"{left} > {right}" for _, left, right in joints),
        "networks": names,
        "at": [list(pair) for pair in way.at],
        "error": way.error if way.at else None,
        "cka": way.cka if way.at else None,
        "flops": round(way.flops),
        "parameters": way.parameters,
        "stitch_flops": round(way.stitch_flops),
        "stitch_parameters": way.stitch_parameters,
    }


def _crossing(chain: Any, cut: str | int) -> str:
    at = chain.index(cut)
    return "input" if at < 0 else "x".join(map(str, chain.cuts[at].shape))


def write_plan(plan: "Plan", file: Path) -> None:
    """Write a plan; the file appears under its name only when it is complete."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(plan.to_yaml(), "utf-8")
        temporary.replace(file)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    allowing = "".join(f" --allow {name}" for name in plan.code)
    say(f"wrote {cells.safe(str(file))}; weightspace stitch build {cells.safe(f'{file}{allowing}')} makes it")


def read_plan(file: Path) -> "Plan":
    """Read a plan.

    Raises:
        AnalysisError: there is none.
    """
    from weightspace.analysis.stitching.plan import Plan

    try:
        text = file.read_text("utf-8")
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or "not UTF-8 text"
        raise AnalysisError(f"{file}: cannot be read as a plan ({said}); write one with 'weightspace stitch plan ... -o FILE'") from None
    return Plan.from_text(text, str(file))


def expect_allowed(plan: "Plan", file: str, allowed: Collection[str | None]) -> None:
    """See that a plan runs no code but what its user allows: plans are handed around.

    Raises:
        AnalysisError: it names other code.
    """
    asked = [one_line(name, 120) for name in plan.code if name not in allowed]
    if asked:
        raise AnalysisError(
            f"the plan '{file}' names code, {', '.join(map(repr, asked))}; look at it, and allow it by name if it is yours: "
            f"{' '.join(f'--allow {name}' for name in asked)}"
        )


__all__ = ["CUTS", "WAYS", "Asked", "Purpose", "expect_allowed", "joined_only", "proposed", "read_plan", "way_told", "write_plan"]
