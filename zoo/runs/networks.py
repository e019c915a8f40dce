"""Networks of a model zoo on their way into the catalog: files where they lie, rows of a larger file as copies in the store.

A row is copied because everything else here (opening, exporting, merging, sharing, working on several processes) takes files, and because
the copy is named by its content: it stays what it is when the matrix it came from is moved or replaced, and importing again writes nothing.
It costs the row's bytes once more.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa

from weightspace.checkpoint import Checkpoint
from weightspace.zoo import reading, store
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.ingest import Report, ingest, stored_path
from weightspace.zoo.readers.model_zoos import Network, Training
from weightspace.zoo.records import Description, ModelRecord
from weightspace.zoo.write import Connection, write_records

ROWS = 256  # networks without a file of their own that are measured at once
WRITERS = 8  # each waits most of its time until the disk has a small file


@dataclass(frozen=True)
class Catalogued:
    """A network that is in the catalog.

    Attributes:
        key: of its run.
        step: within the run.
        file: absolute path, and when it was last written.
        file_id: its row.
        model_id: what is in it.
    """

    key: str
    step: int | None
    file: tuple[Path, datetime]
    file_id: int
    model_id: int


@dataclass
class Batch:
    """What became of a batch.

    Attributes:
        networks: those that are in the catalog now, one a file.
        labels: model, key and value of their labels.
        notes: lines about the others.
    """

    networks: list[Catalogued] = field(default_factory=list)
    labels: list[tuple[int, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def catalogue_networks(catalog: Catalog, trainings: Sequence[Training], base: Path, report: Report) -> Batch:
    """Put the networks of some trainings into the catalog; a damaged or hostile file is quarantined, and the others go on.

    Args:
        catalog: an existing one.
        trainings: with their networks.
        base: the zoo's folder, below which names begin.
        report: is added to.
    """
    batch = Batch()
    files = [network.weights for one in trainings for network in one.networks if isinstance(network.weights, Path)]
    if files:
        _add(report, ingest(catalog, files, base=base))
    places = {
        id(network): stored_path(network.weights, catalog.home.parent)
        for one in trainings
        for network in one.networks
        if isinstance(network.weights, Path)
    }
    rows = [network for one in trainings for network in one.networks if isinstance(network.weights, Checkpoint)]
    if rows:
        places |= _stored(catalog, rows, report)
    with catalog.reading() as connection:
        known = _files(connection, sorted(set(places.values())))
    taken: dict[str, str] = {}
    shared = 0
    for one in trainings:
        for network in one.networks:
            place = places.get(id(network), "")
            if place not in known:
                continue
            file_id, model_id, modified = known[place]
            batch.labels += [(model_id, key, value) for key, value in one.labels.items()]
            if taken.setdefault(place, one.run.key) != one.run.key:
                shared += 1
                continue
            file = catalog.home.parent / place, modified.replace(tzinfo=UTC)
            batch.networks.append(Catalogued(one.run.key, network.step, file, file_id, model_id))
    if shared:
        batch.notes.append(
            f"{shared} networks have the very weights of another run's network; one file stands for both, with the run that came first"
        )
    return batch


def _add(report: Report, more: Report) -> None:
    report.catalogued += more.catalogued
    report.new_models += more.new_models
    report.redescribed += more.redescribed
    report.unchanged += more.unchanged
    report.passed_over += more.passed_over
    report.quarantined += more.quarantined
    report.non_finite += more.non_finite
    report.bytes_read += more.bytes_read
    report.interrupted |= more.interrupted


def _files(connection: Connection, places: list[str]) -> dict[str, tuple[int, int, datetime]]:
    """What the catalog has of paths: file, model, time."""
    connection.register("wanted", pa.table({"path": pa.array(places, pa.string())}))
    rows = connection.execute("select path, file_id, model_id, modified from files semi join wanted using (path)").fetchall()
    connection.unregister("wanted")
    return {path: (file_id, model_id, modified) for path, file_id, model_id, modified in rows}


def _stored(catalog: Catalog, networks: Sequence[Network], report: Report) -> dict[int, str]:
    """Copy networks into the store, a few at a time, and catalogue all of them in one transaction; returns their places."""
    records: list[ModelRecord] = []
    stream = iter(networks)
    with ThreadPoolExecutor(WRITERS) as writers:
        while some := list(itertools.islice(stream, ROWS)):
            checkpoints = [network.weights for network in some if isinstance(network.weights, Checkpoint)]
            rows = reading.measured([(one, tuple(one.info)) for one in checkpoints])
            reads = [reading.finished(one, own) for one, own in zip(checkpoints, rows, strict=True)]
            descriptions = [Description(step=network.step) for network in some]
            names = [network.name for network in some]
            records += writers.map(partial(store.kept, catalog.home), checkpoints, reads, names, descriptions)
    count = "select count(*) from models"
    with catalog.writing() as connection:
        [(before,)] = connection.execute(count).fetchall()
        known = _files(connection, sorted({one.place.path for one in records}))
        fresh = {one.place.path: one for one in records if one.place.path not in known}
        write_records(connection, list(fresh.values()))
        [(after,)] = connection.execute(count).fetchall()
    report.catalogued += len(fresh)
    report.unchanged += len(records) - len(fresh)
    report.new_models += after - before
    report.bytes_read += sum(one.num_bytes for one in records)
    report.non_finite += [one.name for one in fresh.values() if not one.is_finite]
    return {id(network): one.place.path for network, one in zip(networks, records, strict=True)}
