"""The page of formats and of the catalog names all that there are."""

from pathlib import Path

from tests.docs.pages import first_column, section
from weightspace.formats import formats
from weightspace.zoo import Zoo

PAGE = "docs/catalog.md"


def test_formats_table_names_every_format() -> None:
    assert sorted(first_column(section(PAGE, "Formats"))) == sorted(formats)


def test_catalog_table_names_every_table_and_view(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    zoo.create()
    there = zoo.sql("select table_name from information_schema.tables where table_schema = 'main'").column(0).to_pylist()
    assert sorted(first_column(section(PAGE, "The catalog"))) == sorted(there)
