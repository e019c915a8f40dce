"""That a signature taken from one network makes another robust that was trained from the same start on other data."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.signature_family import CORRUPTIONS, NORMS, family, mean


@claim(
    "signature-transfer",
    statement="Robust weight signatures carry over: taken on one data set, they make another network of the same pre-trained start robust.",
    source="Cai, Zhang and Wang, Robust weight signatures, arXiv:2302.12480, section 5",
    topic="signatures",
    needs="real checkpoints",
)
def signature_transfer(seeds: Sequence[int]) -> Iterator[Finding]:
    """Patch a network trained on other images of MNIST as it is, its neurons not aligned: both have the same start."""
    found: dict[str, list[float]] = {"before": [], "patched": [], "chance": [], "share": []}
    for bench in family(tuple(seeds)):
        other = bench.trained.standard["b"]
        own_before, before = (
            [bench.judge(bench.patched(bench.signatures[name], name, NORMS, model)(0.0), name) for name in CORRUPTIONS]
            for model in (None, other)
        )
        own, patched = (
            [bench.best(bench.patched(bench.signatures[name], name, NORMS, model), name) for name in CORRUPTIONS] for model in (None, other)
        )
        chance = [bench.best(bench.patched(bench.chance(bench.signatures[name]), name, NORMS, other), name) for name in CORRUPTIONS]
        for key, rows in (("before", before), ("patched", patched), ("chance", chance)):
            found[key].append(mean(rows, "corrupted"))
        gain = mean(own, "corrupted") - mean(own_before, "corrupted")
        found["share"].append((found["patched"][-1] - found["before"][-1]) / gain)
    yield above("accuracy on corrupted images, the other network patched", found["patched"], found["before"], "unpatched")
    yield above("the same", found["patched"], found["chance"], "normal noise of its norm")
    yield at_least("gain in the other network over that in its own", found["share"], 0.5)
