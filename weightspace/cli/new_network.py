"""The demo's last step: a network that was never trained, from a generator fitted on networks that were, with its card."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from weightspace.cli.averaging import BEST_SHAPE, LEARNED
from weightspace.cli.generated import fit_and_keep, make, write_card
from weightspace.cli.generating import material_of
from weightspace.cli.left_out import LeftOut

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

_STEPS = 600


def new_network(zoo: "Zoo", page: Path, seed: int, say: Callable[[str], None]) -> None:
    """Fit flow matching on the perceptrons of one shape that learned, aligned, draw one network, and judge it.

    Args:
        zoo: one that the demo has filled.
        page: the card to write.
        seed: of everything that is left to chance.
        say: told what was found.
    """
    from weightspace.analysis.generation import Wish, generators

    names = [row["name"] for row in zoo.sql(BEST_SHAPE).to_pylist() if row["accuracy"] >= LEARNED]
    if len(names) < 2:
        return
    quoted = ", ".join(f"'{name}'" for name in names)
    found = material_of(zoo, f"name in ({quoted})", generators["flow"], (), LeftOut())
    kept = fit_and_keep(zoo, "flow", found, (), "digits-flow", seed, lambda done, total: None, align="universe", steps=_STEPS)
    [made] = make(zoo, kept, 1, Wish(), seed, None)
    verdict = write_card(zoo, kept, Wish(), None, page, seed, lambda done, total: None)
    say(f"a network drawn by flow matching on the {len(names)} of that shape that learned, aligned: accuracy {made['accuracy']:.1%}")
    say(f"{verdict} The card is {page}; weightspace generate {kept.name} draws more")


__all__ = ["new_network"]
