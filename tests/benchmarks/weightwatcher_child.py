"""Spectra by us or by WeightWatcher in a process of their own, measured from inside; `weightwatcher.py` runs this file in either environment."""

import contextlib
import io
import json
import logging
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

PLAIN = ("alpha", "alpha_hat", "log_alpha_norm", "stable_rank", "log_norm", "log_spectral_norm", "spectral_entropy", "rank_loss")
RANDOM = ("mp_softrank", "marchenko_pastur", "traps", "rand_distance")


def ours(file: Path, slices: str, randomize: bool) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Measure a file of weights."""
    import torch

    from weightspace.analysis.spectra import spectra
    from weightspace.formats import open_checkpoint
    from weightspace.formats.safetensors import save

    warm = file.with_name("warm.safetensors")
    save({"fc.weight": torch.ones(9, 9)}, warm)
    names, settings = (
        PLAIN + (RANDOM if randomize else ()),
        {name: {"fit": "density"} for name in ("mp_softrank", "marchenko_pastur")} if randomize else {},
    )
    generator, options = torch.Generator().manual_seed(0), {"slices": slices, "embeddings": True, "settings": settings}
    spectra(open_checkpoint(warm), names, generator=generator, **options)  # type: ignore[arg-type]  # imports on first use
    started = time.process_time()
    found = spectra(open_checkpoint(file), names, generator=generator, **options)  # type: ignore[arg-type]
    taken = {"run": time.process_time() - started, "all": _cpu()}
    values = {row.layer.name.removesuffix(".weight"): row.flat for row in found.rows}
    if randomize:
        for row in _with_their_circle(file, options).rows:
            values[row.layer.name.removesuffix(".weight")]["mp_softrank"] = row.flat["mp_softrank"]
    return taken, values


def _with_their_circle(file: Path, options: dict[str, Any]) -> Any:
    """Soft ranks by WeightWatcher's quarter circle for square matrices, whose radius is 2 whatever sigma is: the one place where a formula differs."""
    import numpy as np

    from weightspace.analysis.spectra import marchenko_pastur, spectra
    from weightspace.formats import open_checkpoint

    def circle(x: Any, sigma: float) -> tuple[Any, float, float]:
        return np.sqrt(np.clip(4 - x**2, 0, None)) / (np.pi * sigma**2), 0.0, float(x.max())

    marchenko_pastur._quarter_circle = circle
    return spectra(open_checkpoint(file), ["mp_softrank"], **options | {"settings": {"mp_softrank": {"fit": "density"}}})


def weightwatcher(file: Path, randomize: bool) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Measure the same weights, as modules that hold them."""
    import torch
    from safetensors.torch import load_file

    with contextlib.redirect_stdout(io.StringIO()):
        import weightwatcher  # type: ignore[import-not-found]  # in the peer's environment

        logging.disable(logging.CRITICAL)
        module = torch.nn.ModuleDict({name.removesuffix(".weight"): _module(weight) for name, weight in load_file(file).items()})
        watcher = weightwatcher.WeightWatcher(model=module)
        started = time.process_time()
        found = watcher.analyze(randomize=randomize, mp_fit=randomize)
    taken = {"run": time.process_time() - started, "all": _cpu()}
    rows = json.loads(found.to_json(orient="records"))
    return taken, {row["longname"]: row for row in rows}


def _module(weight: Any) -> Any:
    import torch

    if weight.ndim == 4:
        made: Any = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False)
    elif weight.ndim == 2:
        made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    else:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is neither a matrix nor a kernel with rows and columns")
    made.weight = torch.nn.Parameter(weight)
    return made


def _cpu() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def main(tool: str, file: str, slices: str, randomize: str) -> None:
    """Measure a file and print what it took and what was found, as JSON."""
    warnings.simplefilter("ignore")
    path, random = Path(file), randomize == "randomize"
    taken, values = weightwatcher(path, random) if tool == "weightwatcher" else ours(path, slices, random)
    print(json.dumps({"taken": taken, "values": values}))


if __name__ == "__main__":
    main(*sys.argv[1:])
