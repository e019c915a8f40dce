"""Real networks of CIFAR-10 stitched: depths of one family into each other, seeds of one architecture at every depth; beside CKA and merging.

Results are kept line by line, so that it may be ended and run again:

    python -m weightspace.experiments.stitching_real --results results.jsonl [--draws 2]
    python -m weightspace.experiments.stitching_real --results results.jsonl --report [--full] [--plot FILE]

There are a hundred images. Each draw halves them anew; stitches are found on one half and judged on the other, both ways round. Controls
are stitches from the raw input, and from a network of the front's architecture that has learned nothing, its batch norms measured on all images.
Agreement is the share of images on which the stitched network names the class that the end, or the front, names.
"""

import argparse
import copy
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

import weightspace as ws
from weightspace.analysis.stitching import Chain, Stitch, stitches
from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.fitting import Gathered, crossing, source_of
from weightspace.experiments.data import real_checkpoints
from weightspace.experiments.merge_seeds import Bench, Fold, aligned, flipped_and_shifted, mended
from weightspace.experiments.real_networks import DEPTHS, Family, blank, images, network
from weightspace.experiments.tables import Cell, Estimate, markdown
from weightspace.task import Task

KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "linear": ("linear", {}),
    "linear, ridge 0.1": ("linear", {"ridge": 0.1}),
    "low rank 16": ("low_rank", {"rank": 16}),
    "low rank 4": ("low_rank", {"rank": 4}),
    "orthogonal": ("orthogonal", {}),
    "permutation, scaled": ("permutation", {"scale": True}),
    "permutation": ("permutation", {}),
    "identity": ("identity", {}),
}
FROM_INPUT, FROM_RANDOM = "linear from the raw input", "linear from a random front"
MERGES = {f"merged, {how} matching": how for how in ("weight", "activation")} | {"merged as they are": "none"}
PAIRS: Mapping[Family, Sequence[tuple[int, int]]] = {
    "depths": tuple(itertools.pairwise(DEPTHS)),
    "tiny10": tuple((at, at + 1) for at in range(0, 12, 2)),
    "resnet20": ((0, 1),),
}


@dataclass(frozen=True)
class Side:
    """A network with all that crosses at its cuts for all images, and what it says."""

    module: nn.Module
    chain: Chain
    features: Mapping[int, Tensor]
    said: Tensor

    @classmethod
    def of(cls, module: nn.Module, inputs: Tensor) -> "Side":
        """Cut a network and run it on all images."""
        chain = Chain.of(module, inputs[:2])
        [features] = crossing(chain, [inputs], range(-1, len(chain.cuts)))
        with torch.no_grad():
            return cls(module, chain, features, module(inputs).argmax(1))


def random_front(family: Family, which: int, inputs: Tensor) -> nn.Module:
    """A network that has learned nothing, whose batch norms give what varies as theirs do that have learned."""
    made = blank(family, which).train()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        made(inputs)
    return made.eval()


def partners(front: Chain, end: Chain) -> list[tuple[int, int]]:
    """For each cut of the front the end's cut as far into the same stage."""
    if [one.name for one in front.cuts] == [one.name for one in end.cuts]:
        return [(at, at) for at in range(len(front.cuts))]
    out = []
    for at, one in enumerate(front.cuts):
        own, other = (
            [place for place, cut in enumerate(chain.cuts) if cut.name.partition(".")[0] == one.name.partition(".")[0]]
            for chain in (front, end)
        )
        done = (own.index(at) + 1) / len(own)
        out.append((at, other[max(1, round(done * len(other))) - 1]))
    return out


def halvings(count: int, draws: int) -> list[tuple[Tensor, Tensor]]:
    """Halves of the images to find stitches on, and to judge them by, both ways round."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(count, generator=generator) for _ in range(draws)]
    return [both for order in orders for both in ((order[: count // 2], order[count // 2 :]), (order[count // 2 :], order[: count // 2]))]


def stitched_rows(
    front: Side, random: Side, end: Side, shown: Tensor, held: Tensor, inputs: Tensor, classes: Tensor
) -> Iterator[dict[str, Any]]:
    """What stitches at each cut reach on the half that is held out."""
    for a, b in partners(front.chain, end.chain):
        linear = KINDS["linear"]
        for side, at, arms in ((front, a, KINDS), (front, -1, {FROM_INPUT: linear}), (random, a, {FROM_RANDOM: linear})):
            bridge = Bridge(source_of(side.chain, at, side.features[at]), end.chain.cuts[b])
            found, judge = Gathered(bridge), Gathered(bridge)
            found.add(side.features[at][shown], end.features[b][shown])
            judge.add(side.features[at][held], end.features[b][held])
            equations = Equations.of(judge.moments, judge.places)
            for name, (kind, settings) in arms.items():
                stitch = found.stitch(stitches[kind], bias="units", generator=None, settings=settings)
                with torch.no_grad():
                    said = end.chain.run((inputs[held],), stitch(side.features[at][held]), start=b).argmax(1)
                yield {
                    "cut": a, "target": b, "name": front.chain.cuts[a].name, "arm": name,
                    "error": equations.error(stitch.weight.detach().double(), stitch.bias.detach().double()),
                    "end": _same(said, end.said[held]), "front": _same(said, front.said[held]), "accuracy": _same(said, classes[held]),
                }  # fmt: skip


def merged_rows(front: Side, end: Side, shown: Tensor, held: Tensor, inputs: Tensor, classes: Tensor) -> Iterator[dict[str, Any]]:
    """The midpoint of two networks in the ways of `MERGES`, its batch norms measured on the half that is shown."""
    module = copy.deepcopy(end.module)
    seen = torch.cat(list(flipped_and_shifted(inputs[shown])))
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    targets = classes[shown].repeat(len(seen) // len(shown))
    statistics = Task.classification(module, seen[order], targets[order], batch_size=300)
    bench = Bench(module, ws.trace(module, inputs[:4]), (Fold(statistics, inputs[held], classes[held]),), {}, ("reset",))
    models = [dict(side.module.state_dict()) for side in (end, front)]
    for name, how in MERGES.items():
        for mend in ("reset", "repair"):
            weights = mended(aligned(bench, models, how, statistics), "reset" if mend == "reset" else "repair", statistics)
            said = bench.logits([weights]).argmax(1)
            yield {
                "arm": f"{name}, {mend}", "end": _same(said, end.said[held]), "front": _same(said, front.said[held]),
                "accuracy": _same(said, classes[held]),
            }  # fmt: skip


def similar_rows(front: Side, end: Side) -> Iterator[dict[str, Any]]:
    """Debiased CKA at each depth, on all images: places as samples, and their means."""
    for a, b in partners(front.chain, end.chain):
        bridge = Bridge(front.chain.cuts[a], end.chain.cuts[b])
        places, pooled = Gathered(bridge), Gathered(bridge)
        places.add(front.features[a], end.features[b])
        pooled.moments.add(*(side.features[at].mean((2, 3)) for side, at in ((front, a), (end, b))))
        yield {"cut": a, "cka": places.moments.cka(debiased=True), "cka pooled": pooled.moments.cka(debiased=True)}


def cutting_row(folder: Path, family: Family, which: int) -> dict[str, Any]:
    """How long it takes to cut a network, whether its parts are the network, and the identity stitch at every cut."""
    module, data = network(folder, family, which), images(folder, family)
    start = time.process_time()
    chain = Chain.of(module, data.inputs[:2])
    seconds = time.process_time() - start
    [features] = crossing(chain, [data.inputs], range(len(chain.cuts)))
    with torch.no_grad():
        wanted = module(data.inputs)
        parted = float((chain(data.inputs) - wanted).abs().max())
    moved, lost = [], []
    for at, one in enumerate(chain.cuts):
        found = Gathered(Bridge(one, one))
        found.add(features[at], features[at])
        stitch: Stitch = found.stitch(stitches["linear"], bias="units", generator=None, settings={"ridge": 0.0})
        with torch.no_grad():
            moved.append(float((chain.run((data.inputs,), stitch(features[at]), start=at) - wanted).abs().max()))
        lost.append(one.units - Equations.of(found.moments).rank)
    accuracy = _same(wanted.argmax(1), data.classes)
    return {"seconds": seconds, "cuts": len(chain.cuts), "parted": parted, "identity": max(moved), "lost": lost, "accuracy": accuracy}


def pair_rows(folder: Path, family: Family, pair: tuple[int, int], draws: int) -> Iterator[dict[str, Any]]:
    """Lines of one pair of networks: the first into the second, and for seeds the second into the first."""
    data = images(folder, family)
    sides = [Side.of(network(folder, family, which), data.inputs) for which in pair]
    random = [Side.of(random_front(family, which, data.inputs), data.inputs) for which in pair]
    for way in (0, 1) if family != "depths" else (0,):
        front, end = sides[way], sides[1 - way]
        cka = list(similar_rows(front, end))
        for split, (shown, held) in enumerate(halvings(len(data.classes), draws)):
            rows = list(stitched_rows(front, random[way], end, shown, held, data.inputs, data.classes))
            # with a weight match the midpoint is the same whichever network is moved: one way is enough
            merged = list(merged_rows(front, end, shown, held, data.inputs, data.classes)) if family != "depths" and not way else []
            parents = _same(front.said[held], end.said[held])
            accuracies = [_same(side.said[held], data.classes[held]) for side in (front, end)]
            yield {"way": way, "split": split, "parents": parents, "accuracies": accuracies, "rows": rows, "merged": merged, "cka": cka}


def run(results: Path, draws: int) -> None:
    """Measure what is not known yet."""
    folder = real_checkpoints()
    networks = [("depths", which) for which in DEPTHS] + [("tiny10", 0), ("resnet20", 0)]
    work: list[dict[str, Any]] = [{"what": "cutting", "family": family, "which": which} for family, which in networks]
    work += [{"what": "pair", "family": family, "pair": list(pair)} for family, pairs in PAIRS.items() for pair in pairs]
    for place in work:
        if any(place.items() <= line.items() for line in known(results)):
            continue
        start = time.process_time()
        if place["what"] == "cutting":
            lines = [place | cutting_row(folder, place["family"], place["which"])]
        else:
            lines = [place | row for row in pair_rows(folder, place["family"], (place["pair"][0], place["pair"][1]), draws)]
        with results.open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        print(*place.values(), f"{time.process_time() - start:.0f} s", flush=True)


def known(results: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def report(results: Path, full: bool) -> Iterator[str]:
    """Markdown tables."""
    lines = known(results)
    yield "\n**Cutting, and the identity stitch at every cut**\n"
    yield markdown([_cutting(line) for line in lines if line["what"] == "cutting"])
    for pair in PAIRS["depths"]:
        own = [line for line in lines if line["what"] == "pair" and line["family"] == "depths" and tuple(line["pair"]) == pair]
        if own:
            yield f"\n**ResNet-{pair[0]} into ResNet-{pair[1]}** (means of {len(own)} halvings; one agreement is uncertain by three to five points){_parents(own)}\n"
            yield markdown(list(_stages(own)))
            if full:
                yield "\n" + markdown(list(_by_cut(own)))
    for family, name in (("tiny10", "Tiny10"), ("resnet20", "ResNet-20")):
        pairs = by_pair(lines, family)
        if pairs:
            yield f"\n**{name}: agreement with the end, by depth** ({len(pairs)} pairs; ± over pairs){_parents([line for pair in pairs for line in pair])}\n"
            yield markdown(list(_depths(pairs)))
            yield f"\n**{name}: the midpoint of the same pairs**\n\n" + markdown(list(_merged(pairs)))
            yield "\n" + _related(pairs)


def by_pair(lines: Sequence[Mapping[str, Any]], family: str) -> list[list[Mapping[str, Any]]]:
    """Lines of each pair of a family."""
    found: dict[tuple[int, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["what"] == "pair" and line["family"] == family:
            found.setdefault(tuple(line["pair"]), []).append(line)
    return list(found.values())


def at_depth(pair: Sequence[Mapping[str, Any]], cut: int, arm: str, value: str) -> float:
    """The mean over ways and halvings of one pair."""
    return _mean([row[value] for line in pair for row in line["rows"] if row["cut"] == cut and row["arm"] == arm])


def _cutting(line: Mapping[str, Any]) -> dict[str, Cell]:
    lost = {at: count for at, count in enumerate(line["lost"]) if count}
    return {
        "network": f"{line['family']} {line['which']}",
        "accuracy on the 100": line["accuracy"],
        "cuts": line["cuts"],
        "CPU s": f"{line['seconds']:.1f}",
        "parts against the network": f"{line['parted']:.0e}",
        "identity stitch, worst logit": f"{line['identity']:.0e}",
        "directions that do not vary": ", ".join(f"{count} at cut {at}" for at, count in lost.items()) or "none",
    }


def _parents(lines: Sequence[Mapping[str, Any]]) -> str:
    front, end = (_mean([line["accuracies"][at] for line in lines]) for at in (0, 1))
    return f"; front and end agree on {_mean([line['parents'] for line in lines]):.3f}, their accuracies are {front:.3f} and {end:.3f}"


def _stages(lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Cell]]:
    stages = dict.fromkeys(row["name"].partition(".")[0] for row in lines[0]["rows"])
    for stage, arm in itertools.product(stages, (*KINDS, FROM_INPUT, FROM_RANDOM)):
        if arm.startswith("low rank") or arm == "identity":
            continue
        found = [[row for row in line["rows"] if row["arm"] == arm and row["name"].partition(".")[0] == stage] for line in lines]
        yield {"stage": stage, "stitch": arm} | {
            label: _mean([row[value] for rows in found for row in rows]) for label, value in _VALUES.items()
        }


def _by_cut(lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Cell]]:
    for cut in dict.fromkeys(row["cut"] for row in lines[0]["rows"]):
        name = next(row["name"] for row in lines[0]["rows"] if row["cut"] == cut)
        linear = {label: at_depth(lines, cut, "linear", value) for label, value in _VALUES.items()}
        controls = {arm: at_depth(lines, cut, arm, "end") for arm in (FROM_INPUT, FROM_RANDOM)}
        yield {"cut": name, **linear, **controls}


_VALUES = {"error held out": "error", "agrees with end": "end", "with front": "front", "accuracy": "accuracy"}


def _depths(pairs: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Cell]]:
    for row in pairs[0][0]["cka"]:
        cut = row["cut"]
        name = next(one["name"] for one in pairs[0][0]["rows"] if one["cut"] == cut)
        arms = {arm: Estimate.of([at_depth(pair, cut, arm, "end") for pair in pairs]) for arm in (*KINDS, FROM_INPUT, FROM_RANDOM)}
        error = Estimate.of([at_depth(pair, cut, "linear", "error") for pair in pairs])
        cka = {told: Estimate.of([_cka(pair, cut, told) for pair in pairs]) for told in ("cka", "cka pooled")}
        yield {"cut": name, **arms, "error of linear": error, **cka}


def _merged(pairs: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Cell]]:
    arms = [row["arm"] for row in pairs[0][0]["merged"]]
    for arm in arms:
        found = [[row for line in pair for row in line["merged"] if row["arm"] == arm] for pair in pairs]
        parents = Estimate.of([_mean([(row["end"] + row["front"]) / 2 for row in rows]) for rows in found])
        yield {
            "midpoint": arm,
            "agrees with a parent": parents,
            "accuracy": Estimate.of([_mean([row["accuracy"] for row in rows]) for rows in found]),
        }


def _related(pairs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Rank correlations over depths, pair by pair, of what similarity says with what stitches reach."""
    cuts, out = [row["cut"] for row in pairs[0][0]["cka"]], []
    for told, arm in itertools.product(("cka", "cka pooled", "error of linear"), ("linear", "permutation")):
        found = []
        for pair in pairs:
            x = [at_depth(pair, cut, "linear", "error") if told.startswith("error") else _cka(pair, cut, told) for cut in cuts]
            found.append(float(stats.spearmanr(x, [at_depth(pair, cut, arm, "end") for cut in cuts]).statistic))
        out.append(f"{told} with agreement of {arm} {Estimate.of(found)}")
    return f"Spearman over depths: {'; '.join(out)}."


def _cka(pair: Sequence[Mapping[str, Any]], cut: int, told: str) -> float:
    return _mean([row[told] for line in pair for row in line["cka"] if row["cut"] == cut])


def picture(results: Path, path: Path) -> None:
    """Agreement with the end against depth for Tiny10, with CKA, and what merging the same pairs reaches."""
    from weightspace.plotting import BLUE, GREEN, INK, ORANGE, PURPLE, QUIET, SKY, VERMILION, canvas, name_axis, note, save, style

    pairs = by_pair(known(results), "tiny10")
    rows, merged = list(_depths(pairs)), {str(row["midpoint"]): row for row in _merged(pairs)}
    looks = {
        "linear": BLUE,
        "low rank 4": SKY,
        "orthogonal": GREEN,
        "permutation, scaled": ORANGE,
        "permutation": VERMILION,
        FROM_RANDOM: QUIET,
    }
    with style():
        figure, [[axes]] = canvas(size=(8.6, 3.8))
        places = list(range(len(rows)))
        for arm, color in [*looks.items(), ("cka", PURPLE)]:
            found = [cell for row in rows if isinstance(cell := row[arm], Estimate)]
            means, half = [one.mean for one in found], [one.half for one in found]
            label = {"cka": "CKA (debiased) at this depth"}.get(arm, arm)
            axes.plot(places, means, "o:" if arm == "cka" else "o-", color=color, markersize=3, label=label)
            axes.fill_between(
                places,
                [m - h for m, h in zip(means, half, strict=True)],
                [m + h for m, h in zip(means, half, strict=True)],
                color=color,
                alpha=0.15,
                linewidth=0,
            )
        for arm, line in (("merged, activation matching, repair", "--"), ("merged, weight matching, repair", "-.")):
            cell = merged[arm]["agrees with a parent"]
            if isinstance(cell, Estimate):
                axes.axhline(cell.mean, color=INK, linestyle=line, linewidth=1, label=arm)
        axes.axhline(_mean([line["parents"] for pair in pairs for line in pair]), color=QUIET, linewidth=1, label="the two parents")
        name_axis(axes.xaxis, [str(row["cut"]) for row in rows])
        axes.set(xlabel="stitched behind", ylabel="agreement with the end", ylim=(0, 1))
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
        note(axes, f"Tiny10, {len(pairs)} pairs of seeds; bands are 95 % intervals over pairs")
    save(figure, path)


def _same(a: Tensor, b: Tensor) -> float:
    return (a == b).double().mean().item()


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def main() -> None:
    """Run, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=2, help="random halvings of the images, each judged both ways round")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--full", action="store_true", help="a table by cut for the depths")
    parser.add_argument("--plot", type=Path, help="a picture of Tiny10")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        run(options.results, options.draws)
    print("\n".join(report(options.results, options.full)))
    if options.plot is not None:
        picture(options.results, options.plot)


if __name__ == "__main__":
    main()
