"""That running networks on learned probes tells more of implicit networks than reading their weights."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.claims.shared_initialisation import accuracy
from weightspace.experiments.perceptron_zoo import implicit, learned


@claim(
    "probing",
    statement="What networks answer to probes of a deep linear generator tells more of them than their weights do, and more than answers to probes of noise.",
    source="Kahana et al., Deep Linear Probe Generators for Weight Space Learning, arXiv:2410.10811, abstract",
    topic="metanets",
)
def probing(seeds: Sequence[int]) -> Iterator[Finding]:
    """Tell the digit of sinusoidal networks with random initialisations: ProbeGen, probes of noise, statistics of the weights."""
    found = {family: [_accuracy(seed, family) for seed in seeds] for family in ("probegen", "probe_noise", "statistics")}
    yield above("accuracy, ProbeGen", found["probegen"], found["statistics"], "statistics of the weights")
    yield above("accuracy, ProbeGen", found["probegen"], found["probe_noise"], "probes that are noise")
    yield at_least("accuracy, ProbeGen", found["probegen"], 0.9)


def _accuracy(seed: int, family: str) -> float:
    parts = implicit(seed)
    return accuracy(learned(parts, family, seed, "classification"), parts[2])
