"""What a robust weight signature is worth beside its baselines: patched networks on corrupted data, strengths, transfers, compositions, bits, removal.

Run it with `python -m weightspace.experiments.signatures mnist mnist1d --cache DIR --out DIR`; `--quick` is one seed, hardly trained.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

import weightspace as ws
from weightspace.analysis.signatures import (
    QUANTISERS,
    Signature,
    apply,
    keep,
    open_signature,
    quantise,
    remove,
    transfer,
)
from weightspace.checkpoint import Checkpoint
from weightspace.experiments.signature_bench import NORMS, Bench
from weightspace.experiments.signature_models import accuracy, setting, trained
from weightspace.experiments.tables import Estimate, Row, estimates, report
from weightspace.plotting import BLUE, VERMILION, canvas, note

SEEDS, STEPS, WIDTHS = 3, 400, {"mnist": 32, "mnist1d": 24}
CURVE = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
BITS = (8, 4, 3, 2)


def beside(bench: Bench, corruption: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Everything that a network can be given against one corruption."""
    standard, robust, signature = bench.standard, bench.trained.robust[corruption], bench.signatures[corruption]
    yield "*as it is*", bench.judge(standard, corruption)
    yield "*trained with the corruption*", bench.judge(robust, corruption)
    yield "*WiSE-FT*", bench.best(
        lambda share: {name: torch.lerp(one.float(), robust[name].float(), share) for name, one in standard.items()},
        corruption, strengths=[0.25, 0.5, 0.75],
    )  # fmt: skip
    yield "*norms replaced alone*", bench.judge(bench.patched(signature, corruption, "replaced")(0.0), corruption)
    yield "*norms anew alone*", bench.judge(bench.anew(standard, corruption), corruption)
    for norms in NORMS:
        of: list[tuple[str, Signature]] = [("task vector", bench.unprojected(corruption)), ("chance", bench.chance(signature))]
        for name, other in of:
            yield f"*{name}*, norms {norms}", bench.best(bench.patched(other, corruption, norms), corruption)
        for layers in ("all", "first:2", "energy:.9"):
            own = signature if layers == "all" else bench.signature(corruption, layers)
            name = f"signature {layers}, norms {norms}"
            yield name, bench.best(bench.patched(own, corruption, norms), corruption)


def comparison(benches: Sequence[Bench]) -> list[Row]:
    """Accuracy on each corruption, the mean over all, and on clean data; each corruption with its own patch."""
    found: dict[str, list[dict[str, float]]] = {}
    for bench in benches:
        every: dict[str, dict[str, dict[str, float]]] = {}
        for corruption in bench.setting.corruptions:
            for name, scores in beside(bench, corruption):
                every.setdefault(name, {})[corruption] = scores
        for name, by in every.items():
            row = {corruption: one["corrupted"] for corruption, one in by.items()}
            row |= {key: _mean([one.get(what, torch.nan) for one in by.values()]) for key, what in MEANS.items()}
            found.setdefault(name, []).append(row)
    return [{"network": name, **estimates(rows)} for name, rows in found.items()]


MEANS = {"mean": "corrupted", "clean": "clean", "strength": "strength"}


def curves(benches: Sequence[Bench]) -> list[Row]:
    """Accuracy by strength, means over corruptions."""
    rows: list[Row] = []
    for norms, strength in itertools.product(NORMS, CURVE):
        found: list[dict[str, float]] = []
        for bench in benches:
            scores: dict[str, float] = {}
            for way, of in {"signature": bench.signature, "task vector": bench.unprojected}.items():
                one = [bench.judge(bench.patched(of(name), name, norms)(strength), name) for name in bench.setting.corruptions]
                scores |= {f"{way}: {what}": _mean([each[what] for each in one]) for what in ("corrupted", "clean")}
            found.append(scores)
        rows.append({"norms": norms, "strength": strength, **estimates(found)})
    return rows


def transfers(benches: Sequence[Bench]) -> list[Row]:
    """The signature of one network in others: same start and other data, another data set, another start; strength 1, corrupted examples."""
    rows: list[Row] = []
    names = [name for name in benches[0].trained.standard]
    spec = ws.trace(benches[0].setting.module.eval(), benches[0].setting.test["a"][0][:2])
    for label in (*names, "other start", "other start, aligned"):
        found: list[dict[str, float]] = []
        for at, bench in enumerate(benches):
            other = benches[(at + 1) % len(benches)].trained if label.startswith("other") else bench.trained
            target = other.standard["a" if label.startswith("other") else label]
            data = label if label in bench.setting.test else "a"
            shared = "b" if label == "b" else data
            scores: dict[str, list[float]] = {}
            for name, own in bench.signatures.items():
                given, whole = own, bench.unprojected(name)
                if label.endswith("aligned"):
                    given, whole = (transfer(one, bench.standard, target, spec) for one in (given, whole))
                test = bench.corrupted(name, bench.setting.test[data], 1)
                made = {
                    "as it is": target,
                    "signature": bench.patched(given, name, "kept", target)(1.0),
                    "norms anew": bench.anew(target, name, shared),
                    "signature, norms anew": bench.patched(given, name, "anew", target, data=shared)(1.0),
                    "task vector, norms anew": bench.patched(whole, name, "anew", target, data=shared)(1.0),
                    "chance, norms anew": bench.patched(bench.chance(own), name, "anew", target, data=shared)(1.0),
                }
                for way, weights in made.items():
                    scores.setdefault(way, []).append(accuracy(bench.setting, weights, test))
            found.append({way: _mean(values) for way, values in scores.items()})
        rows.append({"target": {"a": "itself", "b": "other half of the data"}.get(label, label), **estimates(found)})
    return rows


def compositions(benches: Sequence[Bench]) -> list[Row]:
    """Two signatures in one network, for each corruption with the one after it; strength 1, batch norms replaced by the mean."""
    rows: list[Row] = []
    ways = {"none": (0.0, 0.0), "first": (1.0, 0.0), "second": (0.0, 1.0), "mean": (0.5, 0.5), "sum": (1.0, 1.0)}
    for norms, (way, weights) in itertools.product(NORMS[:2], ways.items()):
        found = []
        for bench in benches:
            names = list(bench.setting.corruptions)
            scores: dict[str, list[float]] = {"on the first": [], "on the second": [], "on clean": []}
            for pair in zip(names, [*names[1:], names[0]], strict=True):
                both = [bench.signatures[name] for name in pair]
                own = {"first": both[:1], "second": both[1:]}.get(way, both)  # whose batch norms replace the network's
                made = bench.patched(own, pair[0], norms, weights=[1.0] if len(own) == 1 else weights)(1.0)
                tests = [bench.corrupted(name, bench.setting.test["a"], 1) for name in pair]
                for key, test in zip(scores, [*tests, bench.setting.test["a"]], strict=True):
                    scores[key].append(accuracy(bench.setting, made, test))
            found.append({key: _mean(values) for key, values in scores.items()})
        rows.append({"norms": norms, "weights": way, **estimates(found)})
    return rows


def storage(benches: Sequence[Bench]) -> list[Row]:
    """Bytes of a file beside those of a full copy, and accuracy, by bits; strength 1, batch norms replaced and brought along as floats."""
    rows: list[Row] = []
    for quantiser, bits in [("floats", 32), *itertools.product(QUANTISERS, BITS)]:
        found = []
        for bench in benches:
            scores: dict[str, list[float]] = {}
            for name in bench.setting.corruptions:
                own = bench.signatures[name]
                small = own if bits == 32 else quantise(own, bits, quantiser)
                with tempfile.TemporaryDirectory() as folder:
                    full = ws.save(dict(bench.trained.robust[name]), Path(folder) / "full.safetensors").stat().st_size
                    size = small.save(Path(folder) / "small.safetensors").stat().st_size
                error = sum(float((small[one] - own[one]).double().square().sum()) for one in own) / own.energy
                for key, value in {"bytes": size, "times smaller": full / size, "error": error**0.5}.items():
                    scores.setdefault(key, []).append(value)
                corrupted = bench.corrupted(name, bench.setting.test["a"], 1)
                scores.setdefault("corrupted", []).append(accuracy(bench.setting, bench.patched(small, name, "replaced")(1.0), corrupted))
            found.append({key: _mean(values) for key, values in scores.items()})
        rows.append({"levels": quantiser, "bits": bits, **estimates(found)})
    return rows


def removals(benches: Sequence[Bench]) -> list[Row]:
    """Networks patched, saved, opened, and their patch removed: how many came back bit for bit, and what had to be kept for that."""
    rows: list[Row] = []
    for label, bits in (("floats", 0), ("4 bits, log", 4)):
        exact, count, shares, subtracted = 0, 0, [], 0
        for bench, name, strength in itertools.product(benches, benches[0].signatures, (0.5, 1.0, 1.7)):
            own = quantise(bench.signatures[name], bits, "log") if bits else bench.signatures[name]
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                own.save(folder / "signature.safetensors")
                patched = apply(dict(bench.standard), own, strength=strength, buffers="replace")
                path = ws.save(patched, folder / "patched.safetensors", {key: str(value) for key, value in patched.metadata.items()})
                kept = keep(dict(bench.standard), patched, own, folder / "patched.difference")
                opened, read = ws.open(path), open_signature(folder / "signature.safetensors")
                back, model = remove(opened, read, kept), Checkpoint.of(dict(bench.standard))
                exact += all(back.raw(one) == model.raw(one) for one in model) and list(back) == list(model)
                rough = apply(opened, read, strength=-strength)
                subtracted += all(rough.raw(one) == model.raw(one) for one in read)
                shares.append(kept.stat().st_size / path.stat().st_size)
                count += 1
        rows.append({"signature": label, "patched": count, "back bit for bit": exact, "patched tensors back by subtraction": subtracted,
                     "kept, of the model's bytes": Estimate.of(shares)})  # fmt: skip
    return rows


def drawn(name: str, rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy by strength, a panel for each treatment of batch norms."""
    figure, [panels] = canvas(1, 3, size=(3.2, 2.6), sharex=True, sharey=True)
    for axes, norms in zip(panels, NORMS, strict=True):
        own = [row for row in rows if row["norms"] == norms]
        strengths = [_number(row["strength"]) for row in own]
        for (way, colour), (what, line) in itertools.product((("signature", BLUE), ("task vector", VERMILION)), _LINES.items()):
            means = [_number(row[f"{way}: {what}"]) for row in own]
            axes.plot(strengths, means, line, color=colour, label=f"{way}, {what}", linewidth=1.4)
        note(axes, f"{name}, norms {norms}")
        axes.set(ylim=(0, 1), xlabel="strength")
    panels[0].set_ylabel("accuracy")
    panels[-1].legend(fontsize=7)
    figure.savefig(path, dpi=150)


_LINES = {"corrupted": "-", "clean": ":"}
TABLES: Mapping[str, Callable[[Sequence[Bench]], list[Row]]] = {
    "comparison": comparison, "curves": curves, "transfers": transfers, "compositions": compositions, "storage": storage, "removals": removals,
}  # fmt: skip


def _number(cell: object) -> float:
    return cell.mean if isinstance(cell, Estimate) else float(str(cell))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Print all tables of one or more kinds of data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(WIDTHS), metavar="NAME", help="mnist, mnist1d")
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="two seeds, twenty steps, two corruptions, of the smallest tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names:
        started = time.perf_counter()
        given = setting(name, 8 if arguments.quick else WIDTHS[name])
        if arguments.quick:
            given = replace(given, corruptions=dict(itertools.islice(given.corruptions.items(), 2)))
        steps = 20 if arguments.quick else arguments.steps * (2 if name == "mnist1d" else 1)
        benches = [
            Bench(given, seed, trained(given, seed, steps, arguments.cache)) for seed in range(2 if arguments.quick else arguments.seeds)
        ]
        for table in arguments.tables:
            rows = TABLES[table](benches)
            report(rows, f"signatures-{name}-{table}", arguments.out)
            if table == "curves" and arguments.out is not None:
                drawn(name, rows, arguments.out / f"signatures-{name}-strength.png")
        print(f"\n{time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
