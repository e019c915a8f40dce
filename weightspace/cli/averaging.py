"""The demo's last question: can two networks that were trained apart be averaged, and what does aligning them change."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weightspace.zoo import Zoo

_BEST_OF_ONE_SHAPE = """
with finished as (
    select name, num_params, test_accuracy as accuracy, count(*) over (partition by num_params) as alike
    from model_table where starts_with(name, 'digits-mlp-') and step > 0
    qualify step = max(step) over (partition by run)
)
select name from finished where alike > 1 order by num_params desc, accuracy desc, name limit 2
"""


def average(zoo: "Zoo", picture: Path, seed: int, say: Callable[[str], None]) -> None:
    """Align the two best perceptrons of one shape, measure the line between them before and after, and draw it.

    Args:
        zoo: one that the demo has filled.
        picture: the file to draw into.
        seed: of the matching.
        say: told what was found.
    """
    import torch

    from weightspace.analysis.connectivity import barrier
    from weightspace.analysis.connectivity.plot import compared
    from weightspace.analysis.matching import match
    from weightspace.symmetry import act
    from weightspace.task import task_for

    names = [row["name"] for row in zoo.sql(_BEST_OF_ONE_SHAPE).to_pylist()]
    a, b = (zoo.open(name) for name in names)
    spec, task = zoo.spec(names[0]), task_for(a)
    found = match(a, b, spec, restarts=3, generator=torch.Generator().manual_seed(seed))
    curves = {"as trained": barrier(a, b, task), "aligned": barrier(a, act(found.element, b), task)}
    compared(curves).savefig(picture)
    losses = [curve.losses[len(curve.losses) // 2] for curve in curves.values()]
    accuracies = [curve.values["accuracy"][len(curve.ts) // 2] for curve in curves.values()]
    say(f"the average of {names[0]} and {names[1]}: accuracy {accuracies[0]:.1%}, loss {losses[0]:.2f}")
    say(f"the same with the second one's neurons put in the order of the first one's: accuracy {accuracies[1]:.1%}, loss {losses[1]:.2f}")
    say(f"the loss between them is drawn in {picture}")
