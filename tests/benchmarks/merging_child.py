"""One merge in a process of its own, by us or by mergekit, measured from inside; `merging.py` runs this file in either environment."""

import gc
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path


def ours(recipe: Path, out: Path) -> Callable[[], object]:
    """Import our package; returns the merge."""
    merge = importlib.import_module("weightspace.analysis.merging.merge").merge

    return lambda: merge(recipe, out, jobs=1)


def mergekit(recipe: Path, out: Path) -> Callable[[], object]:
    """Import mergekit; returns the merge."""
    import yaml

    config, run, options = (importlib.import_module(f"mergekit.{name}") for name in ("config", "merge", "options"))

    def merge() -> None:
        text = recipe.read_text(encoding="utf-8")
        read = config.MergeConfiguration.model_validate(yaml.safe_load(text))
        run.run_merge(read, str(out), options.MergeOptions(quiet=True, random_seed=0), config_source=text)

    return merge


def measure(merge: Callable[[], object]) -> dict[str, float]:
    """Seconds of processor and wall time that a merge takes, and its memory beyond what the imports left resident, in bytes."""
    gc.collect()
    resting = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak that the imports reached
    cpu, wall = _cpu(), time.perf_counter()
    merge()
    cpu, wall = _cpu() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "resting": resting, "peak": _resident("VmHWM") - resting}


def _cpu() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    tool, recipe, out = sys.argv[1:]
    prepared = {"ours": ours, "mergekit": mergekit}[tool](Path(recipe), Path(out))
    import torch

    torch.set_num_threads(1)
    print(json.dumps(measure(prepared)))
