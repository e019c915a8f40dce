"""The tables of a catalog without its own surrogate keys: models and tensors by their hashes, runs by their keys."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from weightspace.errors import CatalogError
from weightspace.zoo.exchange.checking import check_places, check_tables
from weightspace.zoo.model_table import refresh_model_table
from weightspace.zoo.write import Connection

_MODEL, _PARENT, _CHILD = "lower(hex(m.id))", "lower(hex(p.id))", "lower(hex(c.id))"
_STATISTICS = "num_zero, num_nan, num_inf, minimum, maximum, mean, std, l1, l2, skewness, kurtosis"


@dataclass(frozen=True)
class Exchanged:
    """One table of those that catalogs exchange.

    Attributes:
        select: its rows for the models in `chosen` (model_id).
        insert: what of its rows, in `given`, the catalog does not have is written.
    """

    select: str
    insert: str


TABLES: Mapping[str, Exchanged] = {
    "models": Exchanged(
        f"""select {_MODEL} as id, lower(hex(m.weights_id)) as weights_id, m.name, lower(hex(a.fingerprint)) as architecture, a.family, a.spec, m.kind,
            m.num_params, m.num_bytes, m.num_tensors, m.is_finite, m.licence, m.base_model, m.datasets, m.languages, m.library, m.task,
            lower(hex(r.hash)) as recipe_hash, r.kind as recipe_kind, r.recipe::varchar as recipe, m.catalogued
            from models m semi join chosen using (model_id) left join architectures a using (architecture_id) left join recipes r using (recipe_id)
            order by id""",
        """insert into recipes by name select (select coalesce(max(recipe_id), 0) from recipes) + row_number() over (order by hash) as recipe_id, hash, kind, recipe
            from (select distinct unhex(recipe_hash) as hash, any_value(recipe_kind) as kind, any_value(recipe) as recipe from given
                  where recipe_hash is not null group by all) anti join recipes using (hash);
        insert into architectures by name select (select coalesce(max(architecture_id), 0) from architectures) + row_number() over (order by fingerprint)
            as architecture_id, fingerprint, num_tensors, family, spec
            from (select unhex(architecture) as fingerprint, any_value(num_tensors) as num_tensors, any_value(family) as family, any_value(spec) as spec
                  from given group by fingerprint) anti join architectures using (fingerprint);
        insert into models by name select (select coalesce(max(model_id), 0) from models) + row_number() over (order by g.id) as model_id, unhex(g.id) as id,
            unhex(g.weights_id) as weights_id,
            case when exists (select 1 from models k where k.name = g.name) or count(*) over (partition by g.name) > 1
                 then g.name || '@' || left(g.id, 8) else g.name end as name,
            a.architecture_id, g.kind, g.num_params, g.num_bytes, g.num_tensors, g.is_finite, g.licence, g.base_model, g.datasets, g.languages, g.library,
            g.task, r.recipe_id, now()::timestamp as catalogued
            from given g join architectures a on a.fingerprint = unhex(g.architecture) left join recipes r on r.hash = unhex(g.recipe_hash)
            where unhex(g.id) not in (select id from models)""",
    ),
    "tensors": Exchanged(
        f"""select lower(hex(hash)) as hash, dtype, shape, numel, nbytes, {_STATISTICS} from tensors
            semi join (select tensor_id from model_tensors semi join chosen using (model_id)) using (tensor_id) order by hash""",
        f"""insert into tensors by name select (select coalesce(max(tensor_id), 0) from tensors) + row_number() over (order by g.hash) as tensor_id,
            unhex(g.hash) as hash, dtype, shape, numel, nbytes, {_STATISTICS} from given g where unhex(g.hash) not in (select hash from tensors)""",
    ),
    "model_tensors": Exchanged(
        f"""select {_MODEL} as model, position, o.name, lower(hex(t.hash)) as tensor, alias_of from model_tensors o semi join chosen using (model_id)
            join models m using (model_id) join tensors t using (tensor_id) order by model, position""",
        """insert into model_tensors by name select m.model_id, g.position, g.name, t.tensor_id, g.alias_of from given g
            join models m on m.id = unhex(g.model) join tensors t on t.hash = unhex(g.tensor)
            where m.model_id not in (select model_id from model_tensors)""",
    ),
    "runs": Exchanged(
        """select key, name, source, seed, hyperparameters::varchar as hyperparameters, source_item, split, status, started, ended, tags::varchar as tags
            from runs semi join (select run_id from files semi join chosen using (model_id) union select run_id from metrics semi join chosen using (model_id))
            using (run_id) order by key""",
        """insert into runs by name select (select coalesce(max(run_id), 0) from runs) + row_number() over (order by g.key) as run_id, g.* from given g
            where g.key not in (select key from runs)""",
    ),
    "files": Exchanged(
        f"""select {_MODEL} as model, path, format, num_files, size, modified, stamp, sidecar_stamp, lower(hex(sha256)) as sha256, r.key as run, step,
            metadata::varchar as metadata, ingested from files f semi join chosen using (model_id) join models m using (model_id)
            left join runs r using (run_id) order by path""",
        """insert into files by name select (select coalesce(max(file_id), 0) from files) + row_number() over (order by g.path) as file_id, m.model_id, g.path,
            g.format, g.num_files, g.size, g.modified, g.stamp, g.sidecar_stamp, unhex(g.sha256) as sha256, r.run_id, g.step, g.metadata, g.ingested
            from given g join models m on m.id = unhex(g.model) left join runs r on r.key = g.run where g.path not in (select path from files)""",
    ),
    "metrics": Exchanged(
        f"""select {_MODEL} as model, r.key as run, x.name, x.split, x.step, x.value, x.source, x.time, x.recorded from metrics x
            left join models m using (model_id) left join runs r using (run_id)
            where model_id in (select model_id from chosen)
               or (model_id is null and run_id in (select run_id from files semi join chosen using (model_id))) order by all""",
        """insert into metrics by name select m.model_id, r.run_id, g.name, g.split, g.step, g.value, g.source, g.time, g.recorded from given g
            left join models m on m.id = unhex(g.model) left join runs r on r.key = g.run
            where not exists (select 1 from metrics k where k.model_id is not distinct from m.model_id and k.run_id is not distinct from r.run_id
                and k.name = g.name and k.split is not distinct from g.split and k.step is not distinct from g.step)""",
    ),
    "tags": Exchanged(
        f"select {_MODEL} as model, key, value from tags semi join chosen using (model_id) join models m using (model_id) order by all",
        """insert into tags by name select m.model_id, g.key, g.value from given g join models m on m.id = unhex(g.model)
            where not exists (select 1 from tags k where k.model_id = m.model_id and k.key = g.key)""",
    ),
    "edges": Exchanged(
        f"""select {_PARENT} as parent, {_CHILD} as child, e.kind, evidence, confidence from edges e join models p on p.model_id = parent_id
            join models c on c.model_id = child_id where child_id in (select model_id from chosen) and parent_id in (select model_id from chosen) order by all""",
        """insert into edges by name select p.model_id as parent_id, c.model_id as child_id, g.kind, g.evidence, g.confidence from given g
            join models p on p.id = unhex(g.parent) join models c on c.id = unhex(g.child)
            where not exists (select 1 from edges k where k.parent_id = p.model_id and k.child_id = c.model_id)""",
    ),
    "measurements": Exchanged(
        f"""select {_MODEL} as model, lower(hex(t.hash)) as tensor, measure, version, parameters, key, value, text from measurements x
            left join models m using (model_id) left join tensors t using (tensor_id) where model_id in (select model_id from chosen)
            or tensor_id in (select tensor_id from model_tensors semi join chosen using (model_id)) order by all""",
        """insert into measurements by name select m.model_id, t.tensor_id, g.measure, g.version, g.parameters, g.key, g.value, g.text from given g
            left join models m on m.id = unhex(g.model) left join tensors t on t.hash = unhex(g.tensor)
            where not exists (select 1 from measurements k where k.model_id is not distinct from m.model_id and k.tensor_id is not distinct from t.tensor_id
                and k.measure = g.measure and k.version = g.version and k.parameters = g.parameters and k.key is not distinct from g.key)""",
    ),
    "pair_measurements": Exchanged(
        f"""select {_PARENT} as a, {_CHILD} as b, measure, version, parameters, key, value from pair_measurements x join models p on p.model_id = a_id
            join models c on c.model_id = b_id where a_id in (select model_id from chosen) and b_id in (select model_id from chosen) order by all""",
        """insert into pair_measurements by name select p.model_id as a_id, c.model_id as b_id, g.measure, g.version, g.parameters, g.key, g.value
            from given g join models p on p.id = unhex(g.a) join models c on c.id = unhex(g.b)
            where not exists (select 1 from pair_measurements k where k.a_id = p.model_id and k.b_id = c.model_id and k.measure = g.measure
                and k.version = g.version and k.parameters = g.parameters and k.key is not distinct from g.key)""",
    ),
    "embeddings": Exchanged(
        f"""select {_MODEL} as model, metanet, version, vector from embeddings x semi join chosen using (model_id) join models m using (model_id)
            order by model, metanet, version""",
        """insert into embeddings by name select m.model_id, g.metanet, g.version, g.vector from given g join models m on m.id = unhex(g.model)
            where not exists (select 1 from embeddings k where k.model_id = m.model_id and k.metanet = g.metanet and k.version = g.version)""",
    ),
}
"""In the order in which they are written."""

KEYS: Mapping[str, str] = {
    "models": "id", "tensors": "hash", "model_tensors": "model", "files": "model", "metrics": "model", "tags": "model", "edges": "child",
    "measurements": "model", "pair_measurements": "a", "embeddings": "model",
}  # fmt: skip
"""The columns of hashes by which tables are cut where they are large."""


def export_tables(
    connection: Connection, model_ids: Sequence[int] | None = None, *, part_rows: int | None = None
) -> Iterator[tuple[str, pa.Table]]:
    """Yield each table with its rows about some models, keyed by content.

    Args:
        connection: open for reading.
        model_ids: surrogate ids; all by default.
        part_rows: where a table has more rows than this, it comes in sixteen parts by the first digit of its key, or in as many more by
            further digits as are needed, so that no more than a part need fit into memory.
    """
    source = "select model_id from models" if model_ids is None else "select unnest(?::integer[]) as model_id"
    connection.execute(f"create or replace temp table chosen as {source}", *([] if model_ids is None else [[list(model_ids)]]))
    for name, table in TABLES.items():
        for condition in _parts(connection, name, part_rows):
            yield name, connection.sql(f"select * from ({table.select}){condition}").to_arrow_table()


def _parts(connection: Connection, name: str, part_rows: int | None) -> Iterator[str]:
    """Conditions that cut a table by the first digits of its key."""
    digits = 0
    if part_rows is not None and name in KEYS:
        [(rows,)] = connection.execute(f"select count(*) from ({TABLES[name].select})").fetchall()
        while rows > part_rows * 16**digits and digits < 4:
            digits += 1
    for number in range(16**digits):
        yield f" where starts_with(coalesce({KEYS[name]}, '0000'), '{number:0{digits}x}')" if digits else ""


def import_tables(connection: Connection, tables: Mapping[str, pa.Table]) -> int:
    """Take in what the catalog does not have yet; what it has stays as it is.

    Args:
        connection: an open write transaction.
        tables: as `export_tables` gives them; those that are missing are passed over.

    Returns:
        How many models are new.

    Raises:
        CatalogError: a table lacks a column, or what stands in it cannot be, such as an id that is no hash.
    """
    given = {name: tables[name] for name in TABLES if name in tables}
    check_tables(given)
    if "files" in given:
        check_places(given["files"])
    [(before,)] = connection.execute("select count(*) from models").fetchall()
    for name, table in given.items():
        connection.register("given", table)
        try:
            connection.execute(TABLES[name].insert)
        except (duckdb.ProgrammingError, duckdb.DataError) as error:
            raise CatalogError(f"table '{name}' does not fit ({str(error).splitlines()[0]}); export it again") from None
        connection.unregister("given")
    refresh_model_table(connection)
    [(after,)] = connection.execute("select count(*) from models").fetchall()
    return int(after - before)


__all__ = ["KEYS", "TABLES", "Exchanged", "export_tables", "import_tables"]
