"""The tables of the experiment on families of stitched networks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weightspace.analysis.stitching.family import SHARES
from weightspace.experiments.resumable import Lines
from weightspace.experiments.tables import Estimate, Row, markdown


def tables(rows: Lines) -> Iterator[str]:
    """For each data set: controls, variants, comparisons, and all routes of the default."""
    for name in dict.fromkeys(row["data"] for row in rows):
        here = {(row["variant"], row["seed"]): row for row in rows if row["data"] == name}
        yield f"\n**{name}: {len({seed for _, seed in here})} seeds**"
        for made in (_controls(here), _sharing(here), _variants(here), _comparisons(here), _routes(here)):
            if made:
                yield "\n" + markdown(made)


Known = Mapping[tuple[str, int], Mapping[str, Any]]


def _controls(here: Known) -> list[Row]:
    found = _of(here, "controls")
    random = _of(here, "random stitches")
    if not found:
        return []
    names = ("smaller anchors", "least squares", "random front", "raw input")
    made: list[Row] = [{"without training": name, "accuracy": Estimate.of([row[name] for row in found.values()])} for name in names]
    if random:
        made.append(
            {"without training": "random stitches", "accuracy": Estimate.of([row["zero-shot stitches"] for row in random.values()])}
        )
    return made


def _sharing(here: Known) -> list[Row]:
    found = list(_of(here, "sharing").values())
    if not found:
        return []
    return [
        {
            "layers": f"{share} ({found[0][f'{share} layers']})",
            "stitches, zero-shot": _mean(found, share),
            "beside own, points": Estimate.of([100 * (row[share] - row["own"]) for row in found]),
        }
        for share in SHARES
    ]


def _variants(here: Known) -> list[Row]:
    """One line a variant; differences of anchors are paired, in points."""
    made: list[Row] = []
    for name in dict.fromkeys(variant for (variant, _), row in here.items() if "rows" in row):
        found = list(_of(here, name).values())
        change = [Estimate.of([100 * (row[f"anchor {at}"] - row[f"zero-shot anchor {at}"]) for row in found]) for at in range(3)]
        line: dict[str, Any] = {"variant": name, "layers": found[0]["layers"]}
        line |= {"zero-shot": _mean(found, "zero-shot stitches"), "share of the smaller anchor": _mean(found, "zero-shot ratio")}
        line |= {
            "trained": _mean(found, "stitches"),
            "Spearman before": _mean(found, "zero-shot spearman"),
            "Spearman": _mean(found, "spearman"),
        }
        line |= {f"anchor {at + 1}, points": each for at, each in enumerate(change)}
        line |= {
            "above the line": _mean(found, "above line"),
            "beat both, on the front": " ".join(str(row["beat both on front"]) for row in found),
        }
        made.append(line)
    return made


def _comparisons(here: Known) -> list[Row]:
    """Differences paired over seeds, in points: anchors in the family and alone, stitches and distilled networks."""
    together, apart, small = (_of(here, name) for name in ("default", "alone", "distilled"))
    made: list[Row] = []
    for at in range(3):
        seeds = sorted(set(together) & set(apart))
        if seeds:
            ours, theirs = ([found[seed][f"anchor {at}"] for seed in seeds] for found in (together, apart))
            made.append(_pair(f"anchor {at + 1}: in the family, alone", ours, theirs))
    seeds = sorted(set(together) & set(small))
    for at in range(2 if seeds else 0):
        one = small[seeds[0]]
        scores = {seed: {row[0]: row[5] for row in together[seed]["rows"]} for seed in seeds}
        ours = [scores[seed][small[seed][f"route {at}"]] for seed in seeds]
        sizes = f"{one[f'stitch {at} flops']:,.0f} and {one[f'distilled {at} flops']:,.0f} FLOPs"
        name = f"stitch between {at + 1} and {at + 2}, network distilled from scratch ({sizes})"
        made.append(_pair(name, ours, [small[seed][f"distilled {at}"] for seed in seeds]))
    return made


def _pair(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    difference = Estimate.of([100 * (a - b) for a, b in zip(ours, theirs, strict=True)])
    return {"compared": name, "first": Estimate.of(ours), "second": Estimate.of(theirs), "difference, points": difference}


def _routes(here: Known) -> list[Row]:
    """All routes of the default, means over the seeds."""
    found = list(_of(here, "default").values())
    if not found:
        return []
    made: list[Row] = []
    for rows in zip(*(sorted(row["rows"], key=lambda each: (each[3], each[0])) for row in found), strict=True):
        first = rows[0]
        made.append(
            {
                "route": f"**{first[1]}**" if first[2] else first[1],
                "FLOPs": f"{first[3]:,.0f}",
                "zero-shot": Estimate.of([row[4] for row in rows]),
                "trained": Estimate.of([row[5] for row in rows]),
                "above the better of both anchors, points": ""
                if first[2]
                else Estimate.of([100 * gain(one, row) for one, row in zip(found, rows, strict=True)]),
                "seeds on the front": sum(row[6] for row in rows),
                "seeds above both": sum(row[7] for row in rows),
            }
        )
    return made


def gain(one: Mapping[str, Any], row: Sequence[Any]) -> float:
    """By how much a stitch is better than the networks that it is made of, each as it was or as it is, whichever is better."""
    known = {each[1]: max(each[4], each[5]) for each in one["rows"] if each[2]}
    front, end = (part.strip().partition(":")[0] for part in row[1].split(">"))
    return float(row[5] - max(known[front], known[end]))


def _of(here: Known, variant_name: str) -> dict[int, Mapping[str, Any]]:
    return {seed: row for (name, seed), row in here.items() if name == variant_name}


def _mean(found: Sequence[Mapping[str, Any]], name: str) -> Estimate:
    return Estimate.of([row[name] for row in found])
