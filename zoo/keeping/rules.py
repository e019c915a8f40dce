"""What must hold between the rows of a catalog, as queries that find what does not, each with the statements that mend it."""

from collections.abc import Iterator
from dataclasses import dataclass

from weightspace.errors import FormatError, one_line
from weightspace.zoo.keeping.findings import Finding
from weightspace.zoo.keeping.statistics import IMPOSSIBLE
from weightspace.zoo.literals import quoted
from weightspace.zoo.write import Connection

MOST = 1000  # findings of one rule that are listed one by one
REMOVED = "the row can be removed"


@dataclass(frozen=True)
class Rule:
    """A query for rows that should not be.

    Attributes:
        kind: of its findings.
        what: what is wrong with a row, `{}` standing for the second column of the query.
        table: that the rows are of.
        find: columns: the row in words, a detail, and the model that it is about or NULL.
        advice: what can be done.
        mend: statements that do it; none where nothing here can.
    """

    kind: str
    what: str
    table: str
    find: str
    advice: str
    mend: tuple[str, ...] = ()


_REFERENCES = (
    # Table, column, what it names, whether it may be NULL. What models are made of is read again from a file instead.
    ("metrics", "model_id", "models", "model_id", True), ("metrics", "run_id", "runs", "run_id", True),
    ("tags", "model_id", "models", "model_id", False), ("edges", "parent_id", "models", "model_id", False),
    ("edges", "child_id", "models", "model_id", False), ("measurements", "model_id", "models", "model_id", True),
    ("measurements", "tensor_id", "tensors", "tensor_id", True), ("pair_measurements", "a_id", "models", "model_id", False),
    ("pair_measurements", "b_id", "models", "model_id", False), ("embeddings", "model_id", "models", "model_id", False),
    ("model_tensors", "model_id", "models", "model_id", False), ("files", "model_id", "models", "model_id", False),
)  # fmt: skip
_OPTIONAL = (("files", "run_id", "runs"), ("models", "recipe_id", "recipes"), ("runs", "recipe_id", "recipes"))
_ROWS = {
    "metrics": "name", "tags": "key", "edges": "kind", "measurements": "measure", "pair_measurements": "measure", "embeddings": "metanet",
    "model_tensors": "name", "files": "path", "models": "name", "runs": "key",
}  # fmt: skip
_KEYS = {
    # What no two rows share, and which of several is kept.
    "meta": ("key", None), "metrics": ("model_id, run_id, name, split, step", "recorded desc"), "tags": ("model_id, key", "rowid desc"),
    "edges": ("parent_id, child_id, kind, evidence", "confidence desc"),
    "measurements": ("model_id, tensor_id, measure, version, parameters, key", "rowid desc"),
    "pair_measurements": ("a_id, b_id, measure, version, parameters, key", "rowid desc"),
    "embeddings": ("model_id, metanet, version", "rowid desc"), "quarantine": ("path", "seen desc"),
    "files": ("path", None), "runs": ("key", None), "recipes": ("hash", None),
}  # fmt: skip
_SURROGATES = {"models": "model_id", "tensors": "tensor_id", "architectures": "architecture_id", "recipes": "recipe_id", "runs": "run_id"}
_REASONS = ", ".join(map(quoted, FormatError.REASONS))


def _dangling() -> Iterator[Rule]:
    for table, column, target, key, is_optional in _REFERENCES:
        gone = f"{column} not in (select {key} from {target})" + (f" and {column} is not null" if is_optional else f" or {column} is null")
        model = column if target == "models" else "null"
        yield Rule(
            "dangling", f"{column} {{}} is in no row of '{target}'", table,
            f"select {_ROWS[table]}, {column}, {model} from {table} where {gone}", REMOVED, (f"delete from {table} where {gone}",),
        )  # fmt: skip
    for table, column, target in _OPTIONAL:
        gone = f"{column} is not null and {column} not in (select {column} from {target})"
        yield Rule(
            "dangling", f"{column} {{}} is in no row of '{target}'", table, f"select {_ROWS[table]}, {column}, null from {table} where {gone}",
            "the reference can be taken out", (f"update {table} set {column} = null where {gone}",),
        )  # fmt: skip
    for table, key, said in (("tensors", "tensor_id", "dtype"), ("architectures", "architecture_id", "family")):
        owner = {"tensors": "model_tensors", "architectures": "models"}[table]
        gone = f"{key} not in (select {key} from {owner} where {key} is not null)"
        yield Rule(
            "dangling", "stands in no model", table, f"select {key}, {said}, null from {table} where {gone}", REMOVED,
            (f"delete from measurements where tensor_id in (select {key} from {table} where {gone})", f"delete from {table} where {gone}")
            if table == "tensors" else (f"delete from {table} where {gone}",),
        )  # fmt: skip


def _same_rows(table: str, key: str) -> Iterator[Rule]:
    """Rows that are there twice, which may go, and rows that share a key and differ, of which nobody here knows the right one."""
    every = f"select rowid, row_number() over (partition by t order by rowid) as place from {table} t"
    twice = f"select {key}, {quoted(key)}, null from {table} t group by {key} having count(*) > 1 and count(distinct t)"
    removed = f"delete from {table} where rowid in (select rowid from ({every}) where place > 1)"
    yield Rule("twice", "the same row more than once", table, f"{twice} = 1", "one of them can be removed", (removed,))
    advice = "ingest it again" if table == "files" else "look at them with 'weightspace sql', or restore the catalog from a backup"
    yield Rule("twice", "rows with the same {} that differ", table, f"{twice} > 1", advice)


def _twice() -> Iterator[Rule]:
    for table, (keys, order) in _KEYS.items():
        if order is None:
            yield from _same_rows(table, keys)
            continue
        ranked = f"select rowid, row_number() over (partition by {keys} order by {order}, rowid) as place from {table}"
        yield Rule(
            "twice", "the same {} more than once", table,
            f"select concat_ws(', ', {keys}), {quoted(keys)}, null from {table} group by {keys} having count(*) > 1",
            "one of them can be removed", (f"delete from {table} where rowid in (select rowid from ({ranked}) where place > 1)",),
        )  # fmt: skip
    for table, key in _SURROGATES.items():
        yield from _same_rows(table, key)
    first = "(select hash, min(tensor_id) as tensor_id from tensors group by hash)"
    moved = f"from tensors t join {first} f using (hash) where t.tensor_id <> f.tensor_id and x.tensor_id = t.tensor_id"
    yield Rule(
        "twice", "the same hash more than once", "tensors", "select lower(hex(hash)), null, null from tensors group by hash having count(*) > 1",
        "they can be made one",
        (
            *(f"update {table} x set tensor_id = f.tensor_id {moved}" for table in ("model_tensors", "measurements")),
            "delete from tensors where tensor_id not in (select min(tensor_id) from tensors group by hash)",
        ),
    )  # fmt: skip
    yield Rule(
        "twice", "the same fingerprint more than once", "architectures",
        "select lower(hex(fingerprint)), null, null from architectures group by fingerprint having count(*) > 1", "they can be made one",
        (
            """update models x set architecture_id = f.architecture_id from architectures a
            join (select fingerprint, min(architecture_id) as architecture_id from architectures group by fingerprint) f using (fingerprint)
            where a.architecture_id <> f.architecture_id and x.architecture_id = a.architecture_id""",
            "delete from architectures where architecture_id not in (select min(architecture_id) from architectures group by fingerprint)",
        ),
    )  # fmt: skip
    yield Rule(
        "twice", "several models have this name", "models", "select name, null, null from models group by name having count(*) > 1",
        "the later ones can be told apart by the first digits of their ids",
        (
            "update models set name = name || '@' || left(lower(hex(id)), 8) where rowid in "
            "(select rowid from (select rowid, row_number() over (partition by name order by model_id) as place from models) where place > 1)",
        ),
    )  # fmt: skip
    yield Rule(
        "twice", "several models have this id", "models", "select lower(hex(id)), null, null from models group by id having count(*) > 1",
        "restore the catalog from a backup, or ingest their files again",
    )  # fmt: skip
    yield Rule(
        "twice", "the same file_id more than once", "files", "select path, file_id, null from files where file_id in (select file_id from files group by file_id having count(*) > 1)",
        "all but one can be numbered anew",
        (
            "update files set file_id = x.fresh from (select rowid as r, (select max(file_id) from files) + row_number() over (order by rowid) as fresh from "
            "(select rowid, row_number() over (partition by file_id order by rowid) as place from files) where place > 1) x where files.rowid = x.r",
        ),
    )  # fmt: skip
    yield Rule(
        "twice", "is both read and refused", "quarantine", "select path, null, null from quarantine where path in (select path from files)",
        REMOVED, ("delete from quarantine where path in (select path from files)",),
    )  # fmt: skip


_VALUES = (
    # Table, what is wrong, condition, detail, whether the row can go.
    ("metrics", "its value is {}, expected a finite number", "value is null or not isfinite(value)", "value", True),
    ("metrics", "it has no name", "name is null", "null", True),
    ("metrics", "it is of no model and no run", "model_id is null and run_id is null", "null", True),
    ("tags", "it has no label", "key is null or key = ''", "null", True),
    ("edges", "its confidence is {}, expected a probability", "confidence is null or not (confidence between 0 and 1)", "confidence", True),
    ("edges", "its kind or its evidence is missing", "kind is null or evidence is null", "null", True),
    ("measurements", "it is of no model and no tensor", "model_id is null and tensor_id is null", "null", True),
    ("measurements", "its measure, version, parameters or key is missing", "measure is null or version is null or parameters is null or key is null", "null", True),
    ("measurements", "its parameters are no JSON", "parameters is not null and not json_valid(parameters)", "null", True),
    ("measurements", "its value is {}", "value is not null and not isfinite(value)", "value", True),
    ("pair_measurements", "its measure, version, parameters or key is missing", "measure is null or version is null or parameters is null or key is null", "null", True),
    ("pair_measurements", "its parameters are no JSON", "parameters is not null and not json_valid(parameters)", "null", True),
    ("pair_measurements", "its value is {}", "value is not null and not isfinite(value)", "value", True),
    ("embeddings", "its vector is missing, empty or not finite", "coalesce(len(vector), 0) = 0 or list_bool_or(list_transform(vector, lambda v: v is null or not isfinite(v)))", "null", True),
    ("embeddings", "its vector has {} numbers, others of the metanet another count",
     "(metanet, version, len(vector)) not in (select metanet, version, mode(len(vector)) from embeddings group by all)", "len(vector)", True),
    ("embeddings", "its metanet or version is missing", "metanet is null or version is null", "null", True),
    ("files", "its path is missing", "path is null or path = ''", "null", True),
    ("files", "its size is {}", "size < 0 or num_files < 0", "size", False),
    ("files", "its sha256 is no hash", "sha256 is not null and octet_length(sha256) <> 32", "null", False),
    ("files", "its stamp is missing", "stamp is null", "null", False),
    ("files", "its metadata are no JSON", "metadata is not null and not json_valid(metadata::varchar)", "null", False),
    ("runs", "its key is missing", "key is null or key = ''", "name", False),
    ("runs", "its hyperparameters or tags are no JSON",
     "not json_valid(coalesce(hyperparameters::varchar, '{}')) or not json_valid(coalesce(tags::varchar, '{}'))", "null", False),
    ("quarantine", "its path is missing", "path is null or path = ''", "null", True),
    ("quarantine", "its reason is '{}', which is none", f"reason is null or reason not in ({_REASONS})", "reason", True),
    ("models", "its name is missing", "name is null or name = ''", "null", False),
    ("models", "its kind is missing", "kind is null or kind = ''", "null", False),
    ("recipes", "its kind is '{}', its recipe says another",
     "kind is distinct from coalesce(recipe->>'$.kind', 'recipe')", "kind", False),
)  # fmt: skip
_MENDS = {
    "its size is {}": "update files set size = null, num_files = null where {0}",
    "its sha256 is no hash": "update files set sha256 = null where {0}",
    "its name is missing": "update models set name = left(lower(hex(id)), 12) where {0}",
    "its kind is missing": "update models set kind = 'full' where {0}",
    "its kind is '{}', its recipe says another": "update recipes set kind = coalesce(recipe->>'$.kind', 'recipe') where {0}",
}


def _values() -> Iterator[Rule]:
    shown = _ROWS | {"quarantine": "path", "recipes": "lower(hex(hash))"}
    for table, what, condition, detail, can_go in _VALUES:
        own = {"models": "model_id", "files": "model_id"}.get(table, "null")
        by_name = _MENDS.get(what, "").format(condition) if not can_go else f"delete from {table} where {condition}"
        advice = REMOVED if can_go else "it can be set right" if by_name else "ingest it again, or restore the catalog from a backup"
        yield Rule(
            "value",
            what,
            table,
            f"select {shown[table]}, {detail}, {own} from {table} where {condition}",
            advice,
            (by_name,) if by_name else (),
        )
    yield Rule(
        "statistics", "{}", "tensors",
        f"select tensor_id, why, null from (select *, {IMPOSSIBLE} as why from tensors) where why is not null",
        "they can be taken again where a file that holds it is sound",
    )  # fmt: skip


RULES: tuple[Rule, ...] = (*_dangling(), *_twice(), *_values())


def broken(connection: Connection) -> Iterator[Finding]:
    """Find every row that breaks a rule."""
    for rule in RULES:
        rows = connection.execute(f"{rule.find} limit {MOST + 1}").fetchall()
        for place, detail, model in rows[:MOST]:
            where = f"{rule.table}: {one_line(str(place), 200)}"
            # Brackets of names are no places to fill in.
            what = rule.what.replace("{}", one_line(str(detail), 120))
            yield Finding(rule.kind, what, where, rule.advice, bool(rule.mend), (model,) if model is not None else ())
        if len(rows) > MOST:
            yield Finding(rule.kind, f"further rows of which {rule.what}", f"{rule.table}: more than {MOST}", rule.advice, bool(rule.mend))


def mend_rows(connection: Connection) -> None:
    """Mend what statements can, in the order of the rules."""
    for rule in RULES:
        for statement in rule.mend:
            connection.execute(statement)
