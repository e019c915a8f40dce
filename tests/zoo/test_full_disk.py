"""A disk that fills up during an ingest: one clear line, and the catalog stays what it was at the last batch."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.trees import make_tree
from tests.zoo.wholeness import Rows, content_with_keys, faults, leftovers
from weightspace.errors import FormatError
from weightspace.zoo import Zoo

# A file size limit acts as a full disk does, without any rights; on a real small disk nothing is limited.
INGEST = """
import resource, sys
from weightspace.errors import WeightSpaceError
from weightspace.zoo import Zoo, ingest

ingest.FLUSH_TENSORS, ingest.TASK_FILES = 0, 4
zoo, tree, copy, limit = Zoo(sys.argv[1]), sys.argv[2], sys.argv[3] == "copy", int(sys.argv[4])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    print(zoo.ingest(tree, jobs=1, copy=copy))
except WeightSpaceError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("full") / "tree", small=16, large=1, large_width=300_000)


@pytest.fixture(scope="module")
def whole(tree: Path) -> dict[str, dict[str, Rows]]:
    """What an ingest on a large disk leads to, with and without copies."""
    zoos = {copy: Zoo(tree.parent / copy) for copy in ("leave", "copy")}
    for copy, zoo in zoos.items():
        zoo.ingest(tree, jobs=1, copy=copy == "copy")
    return {copy: content_with_keys(zoo) for copy, zoo in zoos.items()}


def ingest(zoo: Zoo, tree: Path, copy: str, limit: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", INGEST, str(zoo.folder), str(tree), copy, str(limit)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def check(zoo: Zoo, tree: Path, copy: str, done: "subprocess.CompletedProcess[str]", whole: dict[str, dict[str, Rows]]) -> None:
    """It ended in one line; what is in the catalog is whole, and the next run finishes."""
    assert done.returncode == 1, done
    assert done.stderr.startswith("CatalogError: ") and done.stderr.count("\n") == 1
    assert "No space left" in done.stderr or "File too large" in done.stderr
    assert "free" in done.stderr and "space" in done.stderr
    assert faults(zoo) == []
    zoo.ingest(tree, jobs=1, copy=copy == "copy")
    assert faults(zoo) == [] and content_with_keys(zoo) == whole[copy]


@pytest.mark.parametrize(
    "limit", [20_000, 300_000, *(pytest.param(limit, marks=pytest.mark.slow) for limit in range(50_000, 536_000, 50_000))]
)
def test_full_while_the_catalog_is_made(tmp_path: Path, tree: Path, whole: dict[str, dict[str, Rows]], limit: int) -> None:
    zoo = Zoo(tmp_path / "zoo")
    done = ingest(zoo, tree, "leave", limit)
    assert not zoo.catalog.exists() and leftovers(zoo) == []
    check(zoo, tree, "leave", done, whole)


@pytest.mark.parametrize(
    ("copy", "limit"),
    [("leave", 20_000), ("copy", 4_000_000)]
    + [pytest.param("leave", limit, marks=pytest.mark.slow) for limit in range(2_000, 30_000, 3_000)],
)
def test_full_while_the_catalog_or_the_store_grows(
    tmp_path: Path, tree: Path, whole: dict[str, dict[str, Rows]], copy: str, limit: int
) -> None:
    zoo = Zoo(tmp_path / "zoo")
    zoo.create()
    check(zoo, tree, copy, ingest(zoo, tree, copy, limit), whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of two megabytes, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("copy", ["leave", "copy"])
def test_a_real_disk_that_is_full(small_disk: Path, tree: Path, whole: dict[str, dict[str, Rows]], copy: str) -> None:
    zoo = Zoo(small_disk / "zoo")
    done = ingest(zoo, tree, copy, 0)
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    check(zoo, tree, copy, done, whole)


def test_exporting_to_a_full_disk_leaves_no_file(tmp_path: Path, small_disk: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    zoo.ingest(make_tree(tmp_path / "tree", small=1, large=1, large_width=300_000), jobs=1)
    with pytest.raises(
        FormatError, match=r"cannot be written \(No space left on device\); check the folder, its permissions and the free space"
    ):
        zoo.export("group-1/net-0005-large", small_disk / "out.safetensors")
    assert list(small_disk.iterdir()) == []


def test_exporting_below_a_file_is_one_clear_line(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    zoo.ingest(make_tree(tmp_path / "tree", small=1, large=0), jobs=1)
    with pytest.raises(FormatError, match=r"cannot be written \(Not a directory\)"):
        zoo.export("group-0/net-0000", tmp_path / "tree/broken/junk.pth/out.safetensors")
