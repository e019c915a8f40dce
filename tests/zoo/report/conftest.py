"""Zoos that all tests of the report read: none of them changes these."""

from pathlib import Path

import pytest

from tests.zoo.report.zoos import everything, many
from weightspace.zoo.report.report import write_report
from weightspace.zoo.zoo import Zoo


@pytest.fixture(scope="package")
def small_zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return everything(tmp_path_factory.mktemp("everything"))


@pytest.fixture(scope="package")
def large_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of five thousand models."""
    folder = tmp_path_factory.mktemp("many")
    return write_report(many(folder, 5000), folder / "report.html")
