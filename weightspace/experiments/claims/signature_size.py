"""That a signature of the first layers alone, in codes of a few bits, is as good and many times smaller than the network."""

from collections.abc import Iterator, Sequence

from weightspace.analysis.signatures import quantise
from weightspace.experiments.claim import Finding, at_least, claim
from weightspace.experiments.signature_family import CORRUPTIONS, NORMS, family, mean

BITS, LAYERS = 4, "first:2"


@claim(
    "signature-size",
    statement="Signatures of the shallow layers alone, quantised, are up to 13 times smaller than a copy of the network and keep the robustness.",
    source="Cai, Zhang and Wang, Robust weight signatures, arXiv:2302.12480, abstract and section 4.3",
    topic="signatures",
    needs="real checkpoints",
)
def signature_size(seeds: Sequence[int]) -> Iterator[Finding]:
    """Compare whole signatures of floats with those of the first two of four convolutions, and with codes of four bits."""
    gains: dict[str, list[float]] = {"shallow": [], "codes": [], "both": []}
    sizes: list[float] = []
    for bench in family(tuple(seeds)):
        before = mean([bench.judge(bench.patched(bench.signatures[name], name, NORMS)(0.0), name) for name in CORRUPTIONS], "corrupted")
        whole = {name: bench.signatures[name] for name in CORRUPTIONS}
        ways = {
            "whole": whole,
            "shallow": {name: bench.signature(name, LAYERS) for name in CORRUPTIONS},
            "codes": {name: quantise(one, BITS) for name, one in whole.items()},
        }
        ways["both"] = {name: quantise(one, BITS) for name, one in ways["shallow"].items()}
        found = {
            way: mean([bench.best(bench.patched(one, name, NORMS), name) for name, one in own.items()], "corrupted") - before
            for way, own in ways.items()
        }
        for way, own in gains.items():
            own.append(found[way] / found["whole"])
        sizes.append(sum(one.compression for one in ways["both"].values()) / len(CORRUPTIONS))
    yield at_least("gain on corrupted images over that of the whole signature, first two layers", gains["shallow"], 0.9)
    yield at_least("the same, all layers in codes of four bits", gains["codes"], 0.9)
    yield at_least("the same, first two layers in codes", gains["both"], 0.9)
    yield at_least("times that it is smaller than the network, first two layers in codes", sizes, 13.0)
