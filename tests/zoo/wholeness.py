"""What must hold of any catalog, and what two catalogs of the same checkpoints have in common."""

from pathlib import Path

from weightspace.formats import open_checkpoint
from weightspace.zoo import Zoo
from weightspace.zoo.zoo import HOUSE

Rows = list[tuple[object, ...]]

# Each finds rows that should not be.
_FAULTS = {
    "models that lack tensors": """
        select models.name, num_tensors, count(position) from models left join model_tensors using (model_id)
        group by all having count(position) <> num_tensors or max(position) <> num_tensors - 1 or count(distinct position) <> num_tensors""",
    "models without a file": "select name from models anti join files using (model_id)",
    "files without a model": "select path from files anti join models using (model_id)",
    "files of a run that is not there": "select path from files anti join runs using (run_id) where run_id is not null",
    "tensors that stand nowhere": "select tensor_id from tensors anti join model_tensors using (tensor_id)",
    "occurrences of no tensor": "select * from model_tensors anti join tensors using (tensor_id)",
    "occurrences in no model": "select * from model_tensors anti join models using (model_id)",
    "models without an architecture": "select name from models anti join architectures using (architecture_id)",
    "architectures of no model": "select * from architectures anti join models using (architecture_id)",
    "metrics of no model": "select * from metrics anti join models using (model_id) where model_id is not null",
    "metrics of no run": "select * from metrics anti join runs using (run_id) where run_id is not null",
    "tags of no model": "select * from tags anti join models using (model_id)",
    "edges from no model": "select * from edges anti join models on parent_id = model_id",
    "edges to no model": "select * from edges anti join models on child_id = model_id",
    "recipes that are not there": "select name from models anti join recipes using (recipe_id) where recipe_id is not null",
    "paths both read and refused": "select path from files semi join quarantine using (path)",
    **{
        f"{table} that share a {column}": f"select {column} from {table} group by {column} having count(*) > 1"
        for table, columns in {
            "models": ("model_id", "id", "name"),
            "tensors": ("tensor_id", "hash"),
            "files": ("file_id", "path"),
            "architectures": ("architecture_id", "fingerprint"),
            "runs": ("run_id", "key"),
            "recipes": ("recipe_id", "hash"),
            "quarantine": ("path",),
            "metrics": ("model_id, run_id, name, split, step",),
            "tags": ("model_id, key",),
        }.items()
        for column in columns
    },
}


def faults(zoo: Zoo) -> list[str]:
    """Everything that is wrong with a zoo's catalog and store; empty for a whole one, and for one that is not there yet."""
    if not zoo.catalog.exists():
        return []
    with zoo.reading() as connection:
        found = {what: connection.execute(sql).fetchall() for what, sql in _FAULTS.items()}
        stored = [path for (path,) in connection.execute(f"select path from files where starts_with(path, '{HOUSE}/store/')").fetchall()]
    wrong = [f"{what}: {rows[:5]}" for what, rows in found.items() if rows]
    wrong += [f"stored file is missing: {path}" for path in stored if not (zoo.folder / path).is_file()]
    wrong += [f"stored file is not what its name says: {path}" for path in _stored(zoo) if open_checkpoint(path).id != path.stem]
    return wrong


def _stored(zoo: Zoo) -> list[Path]:
    return sorted((zoo.catalog.home / "store").glob("*/[0-9a-f]*"))


def leftovers(zoo: Zoo) -> list[str]:
    """Files in a zoo's house that are no part of it, such as those of a process that was killed."""
    house = zoo.catalog.home
    known = {house / name for name in ("catalog.duckdb", "gate", "lock", "tending", "collecting")} | set(_stored(zoo))
    return sorted(str(path.relative_to(house)) for path in house.rglob("*") if path.is_file() and path not in known)


def content_with_keys(zoo: Zoo) -> dict[str, Rows]:
    """The whole catalog without times: equal for runs that write the same things in the same order."""
    times = {"models": "catalogued", "files": "ingested, modified", "quarantine": "seen", "metrics": "recorded"}
    tables = ("models", "tensors", "model_tensors", "files", "architectures", "quarantine", "metrics", "runs", "tags", "edges", "recipes")
    return _rows(zoo, {table: f"select * {f'exclude ({times[table]})' if table in times else ''} from {table}" for table in tables})


def content(zoo: Zoo) -> dict[str, Rows]:
    """What the catalog says, without keys, times, and the names of models, which depend on who came first."""
    model = "(select id from models where models.model_id = t.model_id)"
    run = "(select key from runs where runs.run_id = t.run_id)"
    return _rows(
        zoo,
        {
            "models": """select t.* exclude (model_id, name, architecture_id, recipe_id, catalogued), fingerprint, recipe
                from models t join architectures using (architecture_id) left join recipes using (recipe_id)""",
            "tensors": "select * exclude (tensor_id) from tensors",
            "model_tensors": f"select {model}, position, t.name, alias_of, hash from model_tensors t join tensors using (tensor_id)",
            "files": f"select {model}, {run}, * exclude (file_id, model_id, run_id, ingested, modified) from files t",
            "architectures": "select fingerprint, num_tensors, family from architectures",
            "quarantine": "select * exclude (seen) from quarantine",
            "metrics": f"select {model}, {run}, * exclude (model_id, run_id, recorded) from metrics t",
            "runs": "select * exclude (run_id, recipe_id) from runs",
            "tags": f"select {model}, key, value from tags t",
        },
    )


def _rows(zoo: Zoo, queries: dict[str, str]) -> dict[str, Rows]:
    with zoo.reading() as connection:
        return {name: connection.execute(f"{sql} order by all").fetchall() for name, sql in queries.items()}
