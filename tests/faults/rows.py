"""What a user asks of a hub: the rows of the fault matrix, each with what it leads to when nothing goes wrong."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import weightspace as ws
from tests.hub.loopback_store import Repo, Store
from tests.zoo.wholeness import faults
from weightspace.cli.main import app
from weightspace.errors import WeightSpaceError
from weightspace.zoo import Zoo


@dataclass(frozen=True)
class Ground:
    """Where an operation works.

    Attributes:
        zoo: with models of its own.
        there: a folder for another zoo.
        out: a file to write.
        hub: the folder that the hub keeps its content in.
    """

    zoo: Zoo
    there: Zoo
    out: Path
    hub: Path


@dataclass(frozen=True)
class Outcome:
    """How an operation ended.

    Attributes:
        is_done: whether it did what was asked.
        said: where not, its one line.
        result: what it led to.
    """

    is_done: bool
    said: str
    result: Any = None


@dataclass(frozen=True)
class Row:
    """One operation.

    Attributes:
        name: of the row.
        run: does it.
        targets: kinds of requests that it makes.
    """

    name: str
    run: Callable[[Ground], Outcome]
    targets: tuple[str, ...]


def command(*line: str | Path, quiet: bool = True) -> Outcome:
    """Run a command line; whatever is no user error fails the test, and so does data where nothing was done, if it is to be quiet."""
    done = CliRunner().invoke(app, list(map(str, line)), catch_exceptions=False, env={"COLUMNS": "200"})
    assert done.exit_code in (0, 1), done.output
    if done.exit_code:
        assert (not quiet or done.stdout == "") and "Traceback" not in done.stderr, done.output
    return Outcome(done.exit_code == 0, done.stderr.strip(), done.stdout)


def open_and_read(ground: Ground) -> Outcome:
    try:
        opened = ws.open("hf:lab/toy")
        return Outcome(True, "", (list(opened), opened["fc.bias"].tolist()))
    except WeightSpaceError as error:
        return Outcome(False, f"error: {error}")


def show(ground: Ground) -> Outcome:
    return command("show", "hf:lab/toy", "--zoo", ground.zoo.folder)


def listed(ground: Ground) -> Outcome:
    return command("hub", "ls", "--author", "lab", "--zoo", ground.zoo.folder)


def models(zoo: Zoo) -> list[str]:
    return [f"{row['id']} {row['name']}" for row in zoo.models(order_by="name").to_pylist()] if zoo.catalog.exists() else []


def ingested(ground: Ground) -> Outcome:
    done = command("hub", "ingest", "lab/toy", "--format", "json", "--zoo", ground.there.folder, quiet=False)
    is_done = json.loads(done.result)[0]["refused"] == 0
    assert is_done == done.is_done
    return Outcome(is_done, done.said, models(ground.there))


def tree(hub: Path, repo: Repo) -> list[tuple[str, str]]:
    """What lies in a repository of a hub's folder: each path with its digest."""
    store = Store(hub)
    if not store.exists(repo):
        return []
    found = store.commit(repo, "main")["tree"]
    return sorted((path, entry["oid"]) for path, entry in found.items())


def pushed_model(ground: Ground) -> Outcome:
    done = command("hub", "push", "base", "--to", "lab/base", "--private", "--zoo", ground.zoo.folder)
    return Outcome(done.is_done, done.said, tree(ground.hub, Repo("model", "lab/base")))


def pushed_zoo(ground: Ground) -> Outcome:
    done = command("hub", "push", "--to", "lab/zoo", "--private", "--zoo", ground.zoo.folder)
    return Outcome(done.is_done, done.said, tree(ground.hub, Repo("dataset", "lab/zoo")))


def pulled_model(ground: Ground) -> Outcome:
    done = command("hub", "pull", "lab/toy", "--zoo", ground.there.folder)
    return Outcome(done.is_done, done.said, models(ground.there))


def pulled_zoo(ground: Ground) -> Outcome:
    done = command("hub", "pull", "lab/zoo", "--zoo", ground.there.folder)
    return Outcome(done.is_done, done.said, models(ground.there))


def exported(ground: Ground) -> Outcome:
    done = command("export", "hf:lab/toy", "-o", ground.out, "--force")
    return Outcome(done.is_done, done.said, hashlib.sha256(ground.out.read_bytes()).hexdigest() if ground.out.exists() else None)


ROWS = [
    Row("open and read a tensor", open_and_read, ("talk", "file")),
    Row("show", show, ("talk", "file")),
    Row("hub ls", listed, ("talk",)),
    Row("hub ingest", ingested, ("talk", "file")),
    Row("hub push MODEL", pushed_model, ("talk", "send", "upload", "commit")),
    Row("hub push", pushed_zoo, ("talk", "file", "send", "upload", "commit")),
    Row("hub pull MODEL", pulled_model, ("talk", "file")),
    Row("hub pull", pulled_zoo, ("talk", "file")),
    Row("export", exported, ("talk", "file")),
]


def target(method: str, path: str) -> str:
    """The kind of a request."""
    if "/commit/" in path:
        return "commit"
    if path.startswith("/lfs-store"):
        return "upload"
    if method == "POST":
        return "send"
    return "file" if "/resolve/" in path else "talk"


def wrong(ground: Ground) -> list[str]:
    """Everything that is wrong with what an operation left behind."""
    left = [str(path) for path in ground.out.parent.glob(".*")]
    return faults(ground.zoo) + faults(ground.there) + left


__all__ = ["ROWS", "Ground", "Outcome", "Row", "command", "models", "target", "tree", "wrong"]
