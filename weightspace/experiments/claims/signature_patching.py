"""That a robust weight signature makes a clean network robust, and that what was projected off is why it costs so little."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.signature_family import CORRUPTIONS, NORMS, family, mean


@claim(
    "signature-patching",
    statement="Added to a clean network, the part of a robust network's change that is orthogonal to the clean one's makes it robust, and standard accuracy stays.",
    source="Cai, Zhang and Wang, Robust weight signatures, arXiv:2302.12480, section 4",
    topic="signatures",
    needs="real checkpoints",
)
def signature_patching(seeds: Sequence[int]) -> Iterator[Finding]:
    """Patch convolutions of MNIST; strengths are chosen on held-out images, norms are treated alike in all. Chance is noise of the signature's norm."""
    found: dict[str, list[float]] = {
        "robust": [],
        "unpatched": [],
        "patched": [],
        "the whole task vector": [],
        "normal noise of its norm": [],
    }
    kept: list[float] = []
    for bench in family(tuple(seeds)):
        signatures = {name: bench.signatures[name] for name in CORRUPTIONS}
        patches = {
            "patched": signatures,
            "the whole task vector": {name: bench.unprojected(name) for name in signatures},
            "normal noise of its norm": {name: bench.chance(one) for name, one in signatures.items()},
        }
        found["robust"].append(mean([bench.judge(dict(bench.trained.robust[name]), name) for name in signatures], "corrupted"))
        before = [bench.judge(bench.patched(one, name, NORMS)(0.0), name) for name, one in signatures.items()]
        found["unpatched"].append(mean(before, "corrupted"))
        clean = mean([bench.judge(bench.standard, name) for name in signatures], "clean")
        for way, own in patches.items():
            rows = [bench.best(bench.patched(one, name, NORMS), name) for name, one in own.items()]
            found[way].append(mean(rows, "corrupted"))
            if way == "patched":
                kept.append(mean(rows, "clean") / clean)
    yield above("accuracy on corrupted images, trained on them", found["robust"], found["unpatched"], "unpatched")
    for other in ("unpatched", "normal noise of its norm", "the whole task vector"):
        yield above("accuracy on corrupted images, patched", found["patched"], found[other], other)
    yield at_least("share of the accuracy on clean images that is left", kept, 0.9)
