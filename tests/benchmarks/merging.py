"""Merging beside mergekit: the same recipes, how far the results are apart, and what each takes of processor time and memory.

Run it with `python -m tests.benchmarks.merging --peer DIR`, where DIR is the bin folder of an environment that has mergekit==0.1.5.

Parity is shown on small models whose values are float32, where rounding and equal magnitudes at a threshold play no part; then on the
bfloat16 models that are timed, with float32 inside and as the recipe is written (mergekit then computes most methods in bfloat16).
What chance decides is compared with everything kept, and by the norm of what is added to the base with the recipe's own densities.

Time is processor time of one thread, page cache warm: of the merge alone, imports done; and of the whole command, imports and start-up
included. Memory is the peak beyond what is resident after the imports, mapped files included.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.benchmarks.merging_models import SIZES, make
from tests.benchmarks.merging_parity import Difference, compare
from tests.benchmarks.merging_recipes import PROMISED, RECIPES, Recipe

CHILD = Path(__file__).with_name("merging_child.py")
TOOLS = ("mergekit", "ours")


@dataclass(frozen=True)
class Taken:
    """What merges took: medians.

    Attributes:
        cpu: seconds of the merge alone.
        whole: seconds of the whole command.
        wall: seconds of the merge alone.
        peak: memory beyond the resting import, in bytes.
    """

    cpu: float
    whole: float
    wall: float
    peak: float


@dataclass(frozen=True)
class Merged:
    """One result: its folder, and what was measured inside or how it failed."""

    out: Path
    taken: dict[str, float]
    error: str | None


@dataclass(frozen=True)
class Bench:
    """A folder of models, and the two tools.

    Attributes:
        models: the folder, which recipes are run in.
        peer: the bin folder of mergekit's environment.
    """

    models: Path
    peer: Path

    def merge(self, tool: str, jobs: Sequence[tuple[Recipe, str]]) -> list[Merged]:
        """Carry out recipes one after another in one process, with the text that is given for each."""
        paths = [(self._written(recipe, text), self.out(tool, recipe)) for recipe, text in jobs]
        python = self.peer / "python" if tool == "mergekit" else Path(sys.executable)
        printed, _ = self._run([python, CHILD, tool, *(path for pair in paths for path in pair)])
        taken = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        return [Merged(out, one, one.pop("error", None)) for (_, out), one in zip(paths, taken, strict=True)]

    def command(self, tool: str, recipe: Recipe, text: str) -> float:
        """Seconds of processor time that the command a user types takes."""
        out, written = self.out(tool, recipe), self._written(recipe, text)
        command: list[str | Path] = [self.peer / "mergekit-yaml", written, out, "--quiet", "--num-threads", "1"]
        if tool == "ours":
            command = [sys.executable, "-m", "weightspace", "merge", written, "-o", out, "--jobs", "1"]
        return self._run(command)[1]

    def warm(self, recipe: Recipe) -> None:
        """Read the recipe's models, so that the page cache has them."""
        for path in sorted(file for name in recipe.models for file in (self.models / name).glob("*.safetensors")):
            with path.open("rb") as stream:
                while stream.read(1 << 24):
                    pass

    def out(self, tool: str, recipe: Recipe) -> Path:
        """Where a tool writes its result; nothing is there yet."""
        out = self.models / f"merged-{recipe.name}-{tool}"
        shutil.rmtree(out, ignore_errors=True)
        return out

    def _written(self, recipe: Recipe, text: str) -> Path:
        written = self.models / f"{recipe.name}.yml"  # beside the models, which its paths are relative to
        written.write_text(text, encoding="utf-8")
        return written

    def _run(self, command: Sequence[str | Path]) -> tuple[str, float]:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
        with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+", errors="replace") as said:
            process = subprocess.Popen([str(part) for part in command], cwd=self.models, stdout=printed, stderr=said, env=environment)
            _, status, spent = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            printed.seek(0)
            said.seek(0)
            if process.returncode:
                raise RuntimeError((said.read().strip().splitlines() or ["failed"])[-1][:200])
            return printed.read(), spent.ru_utime + spent.ru_stime


def differences(bench: Bench, recipes: Sequence[Recipe], precision: str, *, certain: bool = False) -> Iterator[Difference | str]:
    """Merge with both tools and compare, or say what went wrong."""
    jobs = [(recipe, recipe.at(precision, certain=certain)) for recipe in recipes]
    for recipe, own, theirs in zip(recipes, bench.merge("ours", jobs), bench.merge("mergekit", jobs), strict=True):
        try:
            if own.error or theirs.error:
                raise ValueError(f"ours: {own.error}" if own.error else f"mergekit: {theirs.error}")
            yield compare(own.out, theirs.out, bench.models / "base" if recipe.needs_chance and not certain else None)
        except ValueError as error:
            yield str(error)
        finally:
            for tool in TOOLS:
                bench.out(tool, recipe)


def parity_table(recipes: Sequence[Recipe], exact: Bench, rounded: Bench) -> Iterator[str]:
    """How far apart the results are, with and without the effects of rounding."""
    yield "| recipe | float32 models, float64 inside | of it in | bfloat16 models, float32 inside | as written |\n|---|---|---|---|---|"
    columns = [differences(exact, recipes, "float64 throughout", certain=True)]
    columns += [differences(rounded, recipes, precision) for precision in ("float32 inside", "as written")]
    for recipe, first, *others in zip(recipes, *map(list, columns), strict=True):
        where = first.where if isinstance(first, Difference) else ""
        yield " | ".join([f"| {recipe.name}{' (all kept)' if recipe.needs_chance else ''}", f"{first}", where, *map(str, others)]) + " |"


def speed_table(recipes: Sequence[Recipe], bench: Bench, repetitions: int, tools: Sequence[str]) -> Iterator[str]:
    """What each recipe takes of time and memory, as written."""
    yield "| recipe | CPU s: mergekit | ours | times less | promised | command: mergekit | ours | times less | MB: mergekit | ours | share |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for recipe in recipes:
        try:
            taken = measure(bench, recipe, repetitions, tools)
        except RuntimeError as error:
            yield f"| {recipe.name} | {error} |"
            continue
        cells = [recipe.name, *_pair(taken, "cpu"), f"{PROMISED[recipe.name]}" if recipe.name in PROMISED else "", *_pair(taken, "whole")]
        yield "| " + " | ".join([*cells, *_pair(taken, "peak")]) + " |"


def _pair(taken: dict[str, Taken], field: str) -> list[str]:
    unit, digits = (1e6, 0) if field == "peak" else (1.0, 2)
    values = {tool: getattr(one, field) / unit for tool, one in taken.items()}
    cells = [f"{values[tool]:.{digits}f}" if tool in values else "" for tool in TOOLS]
    if len(values) < len(TOOLS):
        return [*cells, ""]
    theirs, own = values["mergekit"], values["ours"]
    return [*cells, f"{own / theirs:.2f}" if field == "peak" else f"{theirs / own:.1f}"]


def measure(bench: Bench, recipe: Recipe, repetitions: int, tools: Sequence[str]) -> dict[str, Taken]:
    """Merge in turn with each tool, several times; the command once."""
    inside: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools}
    whole = {}
    for repetition in range(repetitions):
        for tool in tools:
            bench.warm(recipe)
            (merged,) = bench.merge(tool, [(recipe, recipe.text)])
            if merged.error:
                raise RuntimeError(f"{tool}: {merged.error}")
            inside[tool].append(merged.taken)
            if not repetition:
                whole[tool] = bench.command(tool, recipe, recipe.text)
            bench.out(tool, recipe)
    return {
        tool: Taken(whole=whole[tool], **{field: statistics.median(one[field] for one in many) for field in ("cpu", "wall", "peak")})
        for tool, many in inside.items()
    }


@contextmanager
def models(folder: Path | None, size: str, recipes: Iterable[Recipe], dtype: torch.dtype = torch.bfloat16) -> Iterator[Path]:
    """The models that recipes read, in a folder that is kept where one is named."""
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as parent:
        place = Path(parent) / f"{size}-{str(dtype).removeprefix('torch.')}"
        make(place, SIZES[size], sorted({"base"}.union(*(recipe.models for recipe in recipes))), dtype)
        yield place


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--tables", nargs="+", choices=["parity", "small", "large"], default=["parity", "small"])
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), help="to time one of them alone")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the models are kept for another time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other are no help while the machine is busy
    recipes, folder, peer = [RECIPES[name] for name in arguments.methods], arguments.folder, arguments.peer.absolute()
    for table in arguments.tables:
        if table == "parity":
            with models(folder, "parity", recipes, torch.float32) as exact, models(folder, "parity", recipes) as rounded:
                _print("How far apart", parity_table(recipes, Bench(exact, peer), Bench(rounded, peer)))
        else:
            with models(folder, table, recipes) as place:
                lines = speed_table(recipes, Bench(place, peer), arguments.repetitions, arguments.tools)
                _print(f"What it takes, {table} models", lines)


def _print(title: str, lines: Iterable[str]) -> None:
    print(f"\n{title}\n", flush=True)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
