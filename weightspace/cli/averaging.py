"""The demo's last question: can networks that were trained apart be averaged, and what does aligning them change."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightspace.zoo import Zoo

BEST_SHAPE = """
with finished as (
    select name, num_params, test_accuracy as accuracy, count(*) over (partition by num_params) as alike
    from model_table where starts_with(name, 'digits-mlp-') and step > 0
    qualify step = max(step) over (partition by run)
)
select name, accuracy from finished where alike > 1 and num_params = (select max(num_params) from finished where alike > 1)
order by accuracy desc, name
"""
"""The perceptrons of the demo's largest shape that there are several of, best first."""

LEARNED = 0.9
"""Accuracy below which a network's rate was too high or too low."""
_WAYS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "each aligned to the best": {"align": {"method": "weight"}},
    "aligned jointly": {"align": {"method": "weight", "many": True, "options": {"how": "universe", "reference": 0}}},
}
"""What a recipe adds, by what it does."""


def average(zoo: "Zoo", picture: Path, seed: int, say: Callable[[str], None]) -> None:
    """Average perceptrons of one shape, as trained and aligned: the two best, with the loss between them drawn, then all, by recipes.

    Args:
        zoo: one that the demo has filled.
        picture: the file to draw into.
        seed: of the matching.
        say: told what was found.
    """
    rows = zoo.sql(BEST_SHAPE).to_pylist()
    _draw(zoo, [row["name"] for row in rows[:2]], picture, seed, say)
    learned = [row["name"] for row in rows if row["accuracy"] >= LEARNED]
    if len(learned) > 1:
        _merge(zoo, learned, seed, say)


def _draw(zoo: "Zoo", names: Sequence[str], picture: Path, seed: int, say: Callable[[str], None]) -> None:
    """Measure the line between two networks, and draw it."""
    import torch

    from weightspace.analysis.connectivity import barrier
    from weightspace.analysis.connectivity.plot import compared
    from weightspace.analysis.matching import match
    from weightspace.plotting import save
    from weightspace.symmetry import act
    from weightspace.task import task_for

    a, b = (zoo.open(name) for name in names)
    spec, task = zoo.spec(names[0]), task_for(a)
    found = match(a, b, spec, restarts=3, generator=torch.Generator().manual_seed(seed))
    curves = {"as trained": barrier(a, b, task), "aligned": barrier(a, act(found.element, b), task)}
    save(compared(curves), picture)
    losses = [curve.losses[len(curve.losses) // 2] for curve in curves.values()]
    accuracies = [curve.values["accuracy"][len(curve.ts) // 2] for curve in curves.values()]
    say(f"the average of {names[0]} and {names[1]}: accuracy {accuracies[0]:.1%}, loss {losses[0]:.2f}")
    say(f"the same with the second one's neurons put in the order of the first one's: accuracy {accuracies[1]:.1%}, loss {losses[1]:.2f}")
    say(f"the loss between them is drawn in {picture}")


def _merge(zoo: "Zoo", names: Sequence[str], seed: int, say: Callable[[str], None]) -> None:
    """Merge networks by one recipe in several ways, and catalogue what comes of it."""
    from weightspace.analysis.merging import merge
    from weightspace.task import task_for
    from weightspace.zoo import Added

    task, recipe = (
        task_for(zoo.open(names[0])),
        {"merge_method": "linear", "models": list(names), "parameters": {"weight": 1}, "seed": seed},
    )
    said, made = [], []
    for at, (how, more) in enumerate(_WAYS.items()):
        merged = merge({**recipe, **more}, opener=zoo.open, spec_of=zoo.spec)
        accuracy = task.evaluate(merged)["accuracy"]
        said.append(f"{how} {accuracy:.1%}")
        made.append(Added(merged, f"digits-merge-{at}", merged.recipe, merged.parents, metrics={"test_accuracy": accuracy}))
    ids = zoo.add_many(made)
    say(f"the average of the {len(names)} of that shape that learned, by a recipe: accuracy {', '.join(said)}")
    say(f"they are in the catalog with recipe and parents: weightspace show {ids[-1][:12]}")
