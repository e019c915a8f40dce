"""Merges by us or by mergekit in a process of their own, measured from inside; `merging.py` runs this file in either environment."""

import gc
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

Merge = Callable[[Path, Path], object]


def ours() -> Merge:
    """Import our package, with what it would import at the first use; returns what merges."""
    from weightspace.analysis.merging import merge, methods
    from weightspace.formats import formats

    assert len(methods) and len(formats)  # both come in when they are first asked for
    return merge


def mergekit() -> Merge:
    """Import mergekit; returns what merges."""
    import yaml

    config, run, options = (importlib.import_module(f"mergekit.{name}") for name in ("config", "merge", "options"))

    def merge(recipe: Path, out: Path) -> None:
        text = recipe.read_text(encoding="utf-8")
        read = config.MergeConfiguration.model_validate(yaml.safe_load(text))
        run.run_merge(read, str(out), options.MergeOptions(quiet=True, random_seed=0), config_source=text)

    return merge


def measure(merge: Merge, recipe: Path, out: Path) -> dict[str, float]:
    """Seconds of processor and wall time that a merge takes, and its memory beyond what the imports left resident, in bytes."""
    gc.collect()
    resting = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak that the imports reached
    cpu, wall = _cpu(), time.perf_counter()
    merge(recipe, out)
    cpu, wall = _cpu() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "resting": resting, "peak": _resident("VmHWM") - resting}


def _cpu() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main(tool: str, *paths: str) -> None:
    """Carry out recipes, each followed by the folder for its result, and print what each took or how it failed."""
    merge = {"ours": ours, "mergekit": mergekit}[tool]()
    import torch

    torch.set_num_threads(1)
    for recipe, out in zip(paths[::2], paths[1::2], strict=True):
        try:
            taken: dict[str, float | str] = {**measure(merge, Path(recipe), Path(out))}
        except Exception as error:  # one that fails is a line in a table, not the end of it
            taken = {"error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
