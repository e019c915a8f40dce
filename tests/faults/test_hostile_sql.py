"""SQL of a user reads the catalog and nothing else: no other file, no extension, no environment, nothing is written."""

import hashlib
import socket
from collections.abc import Iterator

import pytest

from weightspace.errors import CatalogError
from weightspace.zoo import Zoo
from weightspace.zoo.query import arrow

SECRET = "a word that stands in no catalog"

READS = [
    f"select * from {function}('secret.csv')"
    for function in (
        *("read_csv", "read_csv_auto", "read_text", "read_blob", "read_json", "read_json_auto", "read_ndjson", "read_json_objects"),
        *(
            "read_parquet",
            "parquet_scan",
            "parquet_metadata",
            "parquet_schema",
            "parquet_kv_metadata",
            "parquet_file_metadata",
            "sniff_csv",
        ),
        *("read_duckdb", "query_table", "glob"),
    )
] + [
    "select * from 'secret.csv'",
    "select * from 'file:secret.csv'",
    "from read_csv(['secret.csv'])",
    "summarize 'secret.csv'",
    "describe select * from read_csv('secret.csv')",
    "from glob('*')",
    "from glob('/etc/*')",
    "select * from read_text('/proc/self/environ')",
    "select (select content from read_text('secret.csv'))",
    "select (select content from read_text('secret.csv')) from models union all select content from read_text('secret.csv')",
    "with a as (select * from read_text('secret.csv')), b as (select * from a) select * from b",
    "with recursive r as (select content from read_text('secret.csv') union all select content from r where false) select * from r",
    "select * from query('select content from read_text(''secret.csv'')')",
    "select * from json_execute_serialized_sql(json_serialize_sql('select content from read_text(''secret.csv'')'))",
    "explain analyze select * from read_text('secret.csv')",
    "select name from models where name in (select content from read_text('secret.csv'))",
    "select * from models order by (select content from read_text('secret.csv'))",
    "select getenv('SECRET')",
    "select current_setting('SECRET')",
    "select * from secret",
    "select * from statement",
    "select * from connection",
    "select * from duckdb_secrets()",
    "select * from http_get('http://127.0.0.1:1/x')",
    "select * from 'http://127.0.0.1:1/x.csv'",
    "select * from 's3://bucket/x.parquet'",
    "select * from sqlite_scan('secret.csv', 't')",
    "select * from postgres_scan('', '', '')",
    "select * from iceberg_scan('x')",
    "select * from delta_scan('x')",
]
WRITES = [
    "copy (select 1) to 'x.csv'",
    "copy models to 'x.parquet'",
    "copy (select 1) to '/dev/stdout'",
    "copy meta from 'secret.csv'",
    "/* a question */ copy (select 1) to 'x'",
    "export database 'x'",
    "import database 'x'",
    "attach 'x.duckdb'",
    "attach 'x.duckdb' (read_only)",
    "attach 'http://127.0.0.1:1/x'",
    "attach or replace 'x' as y (type sqlite)",
    "create table t (a int)",
    "create view v as select 1",
    "create macro m(a) as a",
    "create schema s",
    "create sequence s",
    "create type t as enum ('a')",
    "create secret s (type http)",
    "create persistent secret s (type http, bearer_token 'x')",
    "insert into meta values ('a', 'b')",
    "update meta set value = '9'",
    "delete from meta",
    "truncate meta",
    "drop table models",
    "drop view model_table",
    "alter table meta add column c int",
    "comment on table meta is 'x'",
    "merge into meta using (select 1) s on true when matched then delete",
    "with gone as (delete from meta returning *) select * from gone",
    "select 1; drop table models",
    "call enable_logging(storage = 'file', storage_config = {'path': 'logs'})",
]
BOUNDS = [
    "install httpfs",
    "force install httpfs",
    "install httpfs from 'http://127.0.0.1:1'",
    "load httpfs",
    "load './x.duckdb_extension'",
    *(
        f"set {name} = {value}"
        for name, value in {
            "enable_external_access": "true",
            "lock_configuration": "false",
            "allowed_paths": "['/etc/passwd']",
            "allowed_directories": "['/']",
            "allow_unsigned_extensions": "true",
            "autoinstall_known_extensions": "true",
            "custom_extension_repository": "'http://127.0.0.1:1'",
            "extension_directory": "'.'",
            "temp_directory": "'.'",
            "home_directory": "'.'",
            "secret_directory": "'.'",
            "profiling_output": "'x'",
            "log_query_path": "'x'",
            "memory_limit": "'1TB'",
        }.items()
    ),
    "reset enable_external_access",
    "reset global lock_configuration",
    "pragma enable_profiling",
    "pragma profiling_output = 'x'",
    "call enable_profiling()",
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    made = Zoo(tmp_path_factory.mktemp("zoo"))
    made.create()
    (made.folder / "secret.csv").write_text(f"a,b\n1,{SECRET}\n")
    return made


@pytest.fixture(autouse=True)
def beside_a_secret(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The working folder has a secret in it, and so has the environment; neither is told, and nobody is called."""
    monkeypatch.chdir(zoo.folder)
    monkeypatch.setenv("SECRET", SECRET)

    def called(*arguments: object, **keywords: object) -> None:
        pytest.fail("somebody was called")

    monkeypatch.setattr(socket.socket, "connect", called)
    yield
    assert sorted(path.name for path in zoo.folder.iterdir()) == [".weightspace", "secret.csv"]


def content(zoo: Zoo) -> dict[str, str]:
    """Every file of the zoo's house, by its digest."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in zoo.catalog.home.iterdir()}


@pytest.mark.parametrize("statement", READS)
def test_no_other_file_is_read(zoo: Zoo, statement: str) -> None:
    try:
        said = str(zoo.sql(statement).to_pylist())
    except CatalogError as error:
        said = str(error)
        assert "\n" not in said and "; " in said
        said = said.replace(statement, "")
    assert SECRET not in said and "root:" not in said


@pytest.mark.parametrize("statement", WRITES)
def test_nothing_is_written(zoo: Zoo, statement: str) -> None:
    before = content(zoo)
    with pytest.raises(CatalogError):
        zoo.sql(statement)
    assert content(zoo) == before


@pytest.mark.parametrize("statement", BOUNDS)
def test_no_bound_is_loosened(zoo: Zoo, statement: str) -> None:
    with pytest.raises(CatalogError), zoo.reading() as connection:
        arrow(connection, statement)
        arrow(connection, "select content from read_text('secret.csv')")


@pytest.mark.parametrize(
    "statement", ["create temp table t as select 1", "create temp view models as select 'forged' as name", "set variable x = 1", "begin"]
)
def test_what_a_question_leaves_behind_is_gone_with_it(zoo: Zoo, statement: str) -> None:
    zoo.sql(statement)
    assert zoo.sql("select name from models").num_rows == 0


@pytest.mark.parametrize(
    "where",
    [
        "name in (select content from read_text('secret.csv'))",
        "true) union all select * from read_csv('secret.csv') --",
        "true; drop table models",
        "exists (from glob('*'))",
    ],
)
def test_conditions_are_bounded_too(zoo: Zoo, where: str) -> None:
    with pytest.raises(CatalogError):
        zoo.models(where)
    with pytest.raises(CatalogError):
        zoo.models(order_by=f"({where})")
    with pytest.raises(CatalogError):
        zoo.files(where)


def test_parameters_are_values(zoo: Zoo) -> None:
    assert zoo.sql("select ? as said", ["' union select * from read_text('secret.csv') --"]).num_rows == 1
