"""trackio: one SQLite file a project, with a row of JSON a logged step."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from weightspace.errors import RecordError
from weightspace.zoo.beside.documents import parse_json
from weightspace.zoo.metrics import History, flat, whole
from weightspace.zoo.readers import tracker_reader
from weightspace.zoo.readers.sqlite_files import columns_of, has_tables, open_sqlite
from weightspace.zoo.runs.run import Run, plain_values, seed_of, utc_text

_TABLES = {"metrics": frozenset({"timestamp", "run_name", "step", "metrics"})}


def _databases(source: str) -> list[Path]:
    """The file itself, or those of a trackio folder."""
    path = Path(source)
    if "://" in source:
        return []
    candidates = sorted(path.glob("*.db")) if path.is_dir() else [path]
    return [one for one in candidates if has_tables(one, _TABLES)]


def sniff(source: str) -> bool:
    """A SQLite file with trackio's table of metrics, or a folder with such files."""
    return bool(_databases(source))


@tracker_reader("trackio", sniff=sniff)
def read(source: str) -> Iterator[Run]:
    """Yield the runs of one project or of all projects of a folder, in the order in which they first logged."""
    found = _databases(source)
    if not found:
        raise RecordError(f"{source}: no trackio database there; name a project's .db file or the folder of them")
    for path in found:
        with open_sqlite(path) as connection:
            # Runs got ids of their own in later versions; before, the name alone told them apart.
            ident = "run_id" if "run_id" in columns_of(connection, "metrics") else "run_name"
            configs = _configs(connection)
            query = f"select {ident} as ident, min(run_name) as run_name, min(id) as first from metrics group by 1 order by 3"
            for row in connection.execute(query):
                yield _run(connection, path, ident, str(row["ident"]), str(row["run_name"]), configs)


def _configs(connection: sqlite3.Connection) -> dict[str, object]:
    columns = columns_of(connection, "configs")
    if not {"run_name", "config"} <= columns:
        return {}
    ident = "run_id" if "run_id" in columns else "run_name"
    return {str(row["ident"]): row["config"] for row in connection.execute(f"select {ident} as ident, config from configs")}


def _run(connection: sqlite3.Connection, path: Path, ident: str, run_id: str, name: str, configs: dict[str, object]) -> Run:
    history, times = History(), []
    notes: list[str] = []
    query = f"select timestamp, step, metrics from metrics where {ident} = ? order by step, id"
    for row in connection.execute(query, (run_id,)):
        time = utc_text(row["timestamp"])
        times += [time] if time else []
        said = _json(row["metrics"], f"{path} run '{name}'", notes)
        for key, value in flat(said):
            history.add(key, value, whole(row["step"]), time)
    config = _json(configs.get(run_id, "{}"), f"{path} run '{name}'", notes)
    created = utc_text(config.get("_Created"))
    settings = plain_values({key: value for key, value in config.items() if not key.startswith("_")})
    group = config.get("_Group")
    return Run(
        key=f"trackio:{path.stem}/{run_id}",
        name=name,
        source="trackio",
        seed=seed_of(settings),
        hyperparameters=settings,
        tags={"project": path.stem, **({"group": group} if isinstance(group, str) else {})},
        started=created or min(times, default=None),
        ended=max(times, default=None),
        metrics=history.metrics(),
        notes=(*dict.fromkeys(notes), *history.notes()),
    )


def _json(raw: object, where: str, notes: list[str]) -> dict[str, object]:
    """Parse a row, text or bytes by version; what is no object becomes a note, the same once."""
    try:
        said = parse_json(raw, where) if isinstance(raw, str | bytes) else None
    except RecordError:
        said = None
    if not isinstance(said, dict):
        notes.append(f"{where}: a row that is no JSON object was left out")
        return {}
    return said
