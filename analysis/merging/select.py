"""Leaving out of a merge the models that make it worse."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from weightspace.analysis.merging.execute import Run
from weightspace.analysis.merging.plan import Plan
from weightspace.analysis.merging.planner import plan
from weightspace.analysis.merging.recipe import Source
from weightspace.analysis.merging.soups import Evaluation, greedy, score_of
from weightspace.checkpoint import Checkpoint
from weightspace.errors import MergeError
from weightspace.symmetry import StateDict


def select(run: Run, evaluate: Callable[[StateDict], Evaluation], stored: Mapping[Source, Checkpoint]) -> Plan:
    """Plan the merge of those models alone that make it better, found one by one from the best on.

    The greedy soup of Wortsman et al. (arXiv:2203.05482), with the recipe's own method in the place of the average. The scores must come from
    data that no model was trained on; what they say of the result is flattering, for it was chosen by them.

    Args:
        run: of all models, aligned if the recipe aligns.
        evaluate: the score of a state dict, or several by name.
        stored: the models as they are stored, which say the dtype of the result.

    Raises:
        MergeError: the recipe has slices, fewer than two models, or the evaluation has no such metric.
    """
    recipe, how = run.plan.recipe, run.plan.recipe.select
    assert how is not None
    candidates = [one.source for one in recipe.slices[0].inputs if one.source != recipe.base_model]
    if len(recipe.slices) != 1 or recipe.slices[0].inputs[0].layers or len(candidates) < 2:
        raise MergeError("select chooses among whole models, and the recipe has slices or fewer than two; list them under models")

    def score(taken: tuple[int, ...]) -> float:
        return score_of(evaluate(replace(run, plan=planned(taken)).lazily().state_dict()), how.metric)

    def planned(taken: tuple[int, ...]) -> Plan:
        kept = {candidates[at] for at in taken} | ({recipe.base_model} if recipe.base_model else set())
        return plan(recipe.only(kept), run.models, stored).expect_possible()

    alone = [score_of(evaluate(run.models[one].state_dict()), how.metric) for one in candidates]
    steps = greedy(alone, score, how.maximize)
    chosen = planned(tuple(sorted(step.candidate for step in steps if step.taken)))
    notes = [
        f"model '{candidates[step.candidate]}': {how.metric} {step.alone:.4g}, with it {step.score:.4g}, {'taken' if step.taken else 'left out'}"
        for step in steps
    ]
    return replace(chosen, recipe=recipe, notes=(*run.plan.notes, *notes))
