"""Changed bits anywhere in the catalog's file: found, or in a place that holds nothing."""

import random
import shutil
from pathlib import Path

import pytest

from tests.zoo.keeping.planted import flip, make_zoo
from tests.zoo.wholeness import content_with_keys
from weightspace.zoo import Zoo
from weightspace.zoo.keeping.check import check

QUICK, ALL = 2, 120


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(tmp_path_factory.mktemp("bits") / "zoo")


@pytest.mark.parametrize("at", [pytest.param(at, marks=[pytest.mark.slow] if at >= QUICK else []) for at in range(ALL)])
def test_a_changed_bit_is_found_or_does_no_harm(pristine: Zoo, tmp_path: Path, at: int) -> None:
    shutil.copytree(pristine.folder, tmp_path / "zoo")
    zoo = Zoo(tmp_path / "zoo")
    size = zoo.catalog.path.stat().st_size
    flip(zoo.catalog.path, random.Random(at).randrange((at * size) // ALL, ((at + 1) * size) // ALL))
    if check(zoo, quick=True, jobs=1).is_sound:
        assert content_with_keys(zoo) == content_with_keys(pristine)
