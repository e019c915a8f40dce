"""That making intruder dimensions smaller takes back forgetting and costs little of what was learnt."""

from collections.abc import Iterator, Sequence

from weightspace.analysis.intruders import mitigate
from weightspace.experiments.claim import Finding, at_least, at_most, below, claim
from weightspace.experiments.lora_tuning import tuned

LAMBDA, RANK = 0.7, 1


@claim(
    "intruder-scaling",
    statement="Scaling the first intruder dimension of each matrix down makes a tuned network forget less at hardly any cost on its task; scaling a neighbour does not.",
    source="Shuttleworth et al., LoRA vs full fine-tuning: an illusion of equivalence, arXiv:2410.21228, section 5 and table 1",
    topic="weights",
    seeds=5,
)
def intruder_scaling(seeds: Sequence[int]) -> Iterator[Finding]:
    """Scale by 0.7 in perceptrons tuned by LoRA of rank one, and measure losses on both tasks of MNIST-1D; the control takes as much from the rest of the update."""
    taken: dict[str | None, list[float]] = {None: [], "neighbour": [], "energy": []}
    kept: list[float] = []
    for one in tuned(tuple(seeds)):
        lora = one.tuned[RANK]
        forgot = one.before.evaluate(lora)["loss"] - one.before.evaluate(one.base)["loss"]
        for control, own in taken.items():
            made = mitigate(one.base, lora, LAMBDA, control=control, layers="fc*").state_dict()
            own.append(1 - (one.before.evaluate(made)["loss"] - one.before.evaluate(one.base)["loss"]) / forgot)
            if control is None:
                kept.append(one.target.evaluate(made)["accuracy"] / one.target.evaluate(lora)["accuracy"])
    yield at_least(
        "share of the forgetting taken back", taken[None], 0.1, baseline=taken["energy"], against="as much from the rest of the update"
    )
    yield below("the same, of a neighbouring vector", taken["neighbour"], taken[None], "of the intruder")
    yield at_most("share of the accuracy on the task that it costs", [1 - share for share in kept], 0.03)
