"""`check` finds every planted corruption, calls a sound zoo sound, mends what it says that it can, and harms nothing."""

import contextlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from safetensors.numpy import save_file

from tests.zoo.keeping.planted import ALL, Corruption, compacted, flip, make_zoo, named, stored, tensors
from tests.zoo.store.files import family, stored_files
from tests.zoo.wholeness import Rows, content_with_keys, faults
from weightspace.errors import WeightSpaceError
from weightspace.zoo import Zoo
from weightspace.zoo.keeping.backup import backup
from weightspace.zoo.keeping.check import check
from weightspace.zoo.keeping.restoring import restore
from weightspace.zoo.store.members import tending


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(tmp_path_factory.mktemp("kept") / "zoo")


@pytest.fixture(scope="session")
def content(pristine: Zoo) -> dict[str, Rows]:
    return content_with_keys(pristine)


@pytest.fixture
def zoo(pristine: Zoo, tmp_path: Path) -> Zoo:
    shutil.copytree(pristine.folder, tmp_path / "zoo", symlinks=True)
    return Zoo(tmp_path / "zoo")


def weights(zoo: Zoo) -> Counter[bytes]:
    """Every file of weights below a zoo's folder, its store and what was moved aside included, by content."""
    left_out = {zoo.catalog.home / "cache"}
    found = [path for path in zoo.folder.rglob("*") if path.is_file() and not left_out & set(path.parents)]
    return Counter(blake3(path.read_bytes()).digest() for path in found if path.suffix in (".safetensors", ".pt", ".npz", ".compact"))


def opened(zoo: Zoo) -> set[str]:
    """Ids of the models whose weights can be had."""
    found = set()
    with zoo.reading():  # once for all of them
        for row in zoo.sql("select name, lower(hex(id)) as id from models where name <> 'lab/far' or name is null").to_pylist():
            with contextlib.suppress(WeightSpaceError):
                if zoo.open(row["name"] or row["id"]).id == row["id"]:
                    found.add(row["id"])
    return found


@pytest.mark.parametrize("quick", [False, True])
def test_a_sound_zoo_is_sound(pristine: Zoo, quick: bool) -> None:
    report = check(pristine, quick=quick, jobs=1, grace=0)
    assert report.findings == [] and report.is_sound
    assert (report.models, report.unread) == (14, 1) and report.files == 14


def test_there_are_a_hundred() -> None:
    assert len(ALL) >= 100 and len({one.name for one in ALL}) == len(ALL)


QUICK = 25  # of how many one is tried each time; the slow tests try all


@pytest.mark.parametrize(
    "one", [pytest.param(one, id=one.name, marks=[] if at % QUICK == 0 else [pytest.mark.slow]) for at, one in enumerate(ALL)]
)
def test_planted(zoo: Zoo, content: dict[str, Rows], one: Corruption) -> None:
    one.plant(zoo.folder)
    before = weights(zoo)
    found = check(zoo, jobs=1, grace=0)
    assert {finding.kind for finding in found.findings} & one.kinds, found.findings
    could = set()
    if found.models:
        could = opened(zoo)
    repaired = check(zoo, jobs=1, grace=0, repair=True)
    again = check(zoo, jobs=1, grace=0)
    assert [finding.row() for finding in again.findings] == [finding.row() for finding in repaired.findings]
    # What it said that it can mend, it mended; and no more is wrong than before.
    promised = {(finding.kind, finding.where) for finding in found.findings if finding.is_mendable}
    left = {(finding.kind, finding.where) for finding in again.findings}
    assert promised & left == set()
    assert left <= {(finding.kind, finding.where) for finding in found.findings} | {("missing", where) for _, where in left}
    assert (again.findings == []) == one.is_mended, again.findings
    # Nothing is lost: every file of weights is there still, perhaps moved aside, and every model that could be had can be had.
    assert before - weights(zoo) == Counter()
    if found.models:
        assert could - opened(zoo) == set()
    if one.is_mended:
        assert faults(zoo) == []
    if one.restores:
        assert content_with_keys(zoo) == content


def test_a_compacted_store_is_checked_and_mended_as_what_it_stands_for(zoo: Zoo) -> None:
    draw = torch.Generator().manual_seed(0)
    parent = {"w": torch.randn(300, 300, generator=draw)}
    zoo.add(parent, name="parent")
    zoo.add({"w": parent["w"] + 1e-4 * torch.randn(300, 300, generator=draw)}, name="child")
    zoo.compact()
    compact = [path for path in (zoo.catalog.home / "store").rglob("*.compact")]
    assert compact and check(zoo, jobs=1, grace=0).is_sound
    before = weights(zoo)
    for path in compact:
        flip(path, 200)
    found = check(zoo, jobs=1, grace=0)
    assert {one.kind for one in found.findings} == {"damaged"}
    check(zoo, jobs=1, grace=0, repair=True)
    assert sum(weights(zoo).values()) == sum(before.values()), "what others may be the difference from is not moved"


@pytest.mark.parametrize("quick", [False, True])
def test_both_forms_are_told_at_once_unless_somebody_is_compacting(zoo: Zoo, quick: bool) -> None:
    compacted(stored(zoo.folder, "alone"))
    [found] = check(zoo, jobs=1, quick=quick).findings  # although it is young
    assert (found.kind, found.where) == ("leftover", str(stored(zoo.folder, "alone").with_suffix(".compact").relative_to(zoo.folder)))
    assert found.advice == "'weightspace gc' removes it once it is an hour old"
    with tending(zoo.catalog):
        assert check(zoo, jobs=1, quick=quick).is_sound
    zoo.collect_garbage(spare=-1.0)
    assert check(zoo, jobs=1, grace=0).is_sound and zoo.open("alone").format == "safetensors"


def test_a_backup_of_both_forms_leaves_both_and_check_tells(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    family(zoo, children=1)
    backup(zoo, tmp_path / "kept", weights=True)
    zoo.compact()
    backup(zoo, tmp_path / "kept", weights=True)
    restore(tmp_path / "kept", zoo, force=True)
    found = check(zoo, jobs=1).findings
    assert [one.kind for one in found] == ["leftover"] * 2 and all(one.where.endswith(".safetensors") for one in found)
    zoo.compact()
    assert check(zoo, jobs=1, grace=0).is_sound and {path.suffix for path in stored_files(zoo).values()} == {".compact"}


def test_a_catalog_of_before_a_compaction_names_what_is_there_after_a_repair(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    ids = family(zoo, children=1)
    backup(zoo, tmp_path / "kept")
    zoo.compact()
    restore(tmp_path / "kept", zoo, force=True)
    found = check(zoo, jobs=1).findings
    assert [(one.kind, one.is_mendable) for one in found] == [("form", True)] * 2
    assert found[0].what == "lies in the store in its other form" and found[0].advice.endswith(".compact")
    mended = check(zoo, jobs=1, repair=True)
    assert mended.is_sound and len(mended.mended) == 2 and check(zoo, jobs=1, grace=0).is_sound
    assert zoo.sql("select distinct format from files").to_pylist() == [{"format": "compact"}]
    assert {zoo.open(name).id for name in ids} == set(ids.values())


def test_several_processes_find_the_same(zoo: Zoo) -> None:
    flip(zoo.folder / "wide.npz", 300)
    seen: list[int] = []
    one, two = (check(zoo, jobs=jobs, grace=0, progress=lambda done: seen.append(done.done)) for jobs in (1, 2))
    assert one.findings == two.findings and [finding.kind for finding in two.findings] == ["damaged"]
    assert seen == [*range(1, 15)] * 2


def test_what_is_young_may_belong_to_a_process_at_work(zoo: Zoo) -> None:
    path = zoo.catalog.home / "store/aa" / f"{'a' * 64}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file({"w": np.ones(3, np.float32)}, path)
    assert check(zoo, jobs=1).is_sound and not check(zoo, jobs=1, grace=0).is_sound


def three(folder: Path) -> tuple[Zoo, dict[str, str]]:
    """A zoo with three models of one architecture in its store; ids by name."""
    zoo = Zoo(folder)
    return zoo, {name: zoo.add(tensors(at), name=name) for at, name in enumerate(("e5", "de", "fa"))}


def swap(one: Path, other: Path) -> None:
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def mended(zoo: Zoo, *, quick: bool = False) -> dict[str, tuple[str, str]]:
    """Repair once, see that a second run finds the same and mends no more, and that what was promised was done; what is left by file."""
    promised = {(one.kind, one.where) for one in check(zoo, jobs=1, quick=quick).findings if one.is_mendable}
    first = check(zoo, jobs=1, quick=quick, repair=True)
    second = check(zoo, jobs=1, quick=quick, repair=True)
    assert first.findings == second.findings == check(zoo, jobs=1, quick=quick).findings and second.mended == []
    assert not promised & {(one.kind, one.where) for one in first.findings}
    return {one.where: (one.kind, one.advice) for one in first.findings}


def of_models(zoo: Zoo) -> dict[str, str]:
    """Paths of the store by model, as the catalog says."""
    return {row["name"]: row["path"] for row in zoo.sql("select name, path from files join models using (model_id)").to_pylist()}


@pytest.mark.parametrize("form", [".safetensors", ".compact"])
def test_files_under_each_others_names_get_their_own_again(tmp_path: Path, form: str) -> None:
    zoo, ids = three(tmp_path / "zoo")
    if form == ".compact":
        for name in ids:
            path = stored(zoo.folder, name)
            named(zoo.folder, path, compacted(path))
            path.unlink()
    before, rows = stored_files(zoo), of_models(zoo)
    whole = {path: path.read_bytes() for path in before.values()}
    first, second, third = (stored(zoo.folder, name) for name in ids)
    swap(first, second)
    swap(second, third)
    assert all(one.is_mendable for one in check(zoo, jobs=1).findings)
    assert mended(zoo) == {} and of_models(zoo) == rows
    assert {path: path.read_bytes() for path in stored_files(zoo).values()} == whole
    assert not any((zoo.catalog.home / "damaged").glob("*")) and {name: zoo.open(name).id for name in ids} == ids


def test_compact_files_of_one_family_under_each_others_names_get_their_own_again(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    ids = family(zoo, children=2)
    zoo.compact()
    rows, whole = of_models(zoo), {path: path.read_bytes() for path in stored_files(zoo).values()}
    base, child = (stored_files(zoo)[ids[name]] for name in ("base0", "base0-0"))
    swap(base, child)
    assert mended(zoo) == {} and of_models(zoo) == rows
    assert {path: path.read_bytes() for path in stored_files(zoo).values()} == whole


def test_weights_under_anothers_name_leave_each_row_with_its_own_model(tmp_path: Path) -> None:
    zoo, ids = three(tmp_path / "zoo")
    rows = of_models(zoo)
    shutil.copyfile(stored(zoo.folder, "e5"), stored(zoo.folder, "de"))
    [found] = check(zoo, jobs=1).findings
    assert not found.is_mendable and f"it holds the weights {ids['e5'][:12]}" in found.advice
    assert {where: kind for where, (kind, _) in mended(zoo).items()} == {rows["de"]: "missing"}
    assert of_models(zoo) == rows and zoo.open("e5").id == ids["e5"]


def test_weights_that_took_anothers_name_go_back_and_the_other_is_missing(tmp_path: Path) -> None:
    zoo, ids = three(tmp_path / "zoo")
    rows = of_models(zoo)
    stored(zoo.folder, "e5").replace(stored(zoo.folder, "de"))
    assert {where: kind for where, (kind, _) in mended(zoo).items()} == {rows["de"]: "missing"}
    assert of_models(zoo) == rows and zoo.open("e5").id == ids["e5"]


@pytest.mark.parametrize("place", ["", "00/"])
@pytest.mark.parametrize("form", [".safetensors", ".compact"])
def test_weights_in_a_wrong_place_of_the_store_are_told_and_moved_to_theirs(tmp_path: Path, form: str, place: str) -> None:
    zoo, ids = three(tmp_path / "zoo")
    path = stored(zoo.folder, "fa")
    kept = path if form == ".safetensors" else compacted(path)
    target = zoo.catalog.home / "store" / place / kept.name
    target.parent.mkdir(exist_ok=True)
    kept.rename(target)
    path.unlink(missing_ok=True)
    found = {one.where: one for one in check(zoo, jobs=1, quick=True).findings}
    where = str(target.relative_to(zoo.folder))
    assert found[where].kind == "unknown" and found[where].is_mendable and len(found) == 2
    assert mended(zoo) == {} and {name: zoo.open(name).id for name in ids} == ids


def test_weights_in_a_wrong_place_whose_own_is_taken_or_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    zoo, _ = three(tmp_path / "zoo")
    store = zoo.catalog.home / "store"
    shutil.copyfile(stored(zoo.folder, "fa"), store / "fa.safetensors")
    (store / "junk.compact").write_bytes(b"junk")
    left = mended(zoo)
    assert left[".weightspace/store/fa.safetensors"][1].startswith("its weights have their place")
    assert left[".weightspace/store/junk.compact"][1].startswith("it cannot be read") and len(left) == 2


def test_what_a_lock_barred_is_looked_at_and_mended_in_the_same_run(tmp_path: Path) -> None:
    zoo, ids = three(tmp_path / "zoo")
    swap(stored(zoo.folder, "e5"), stored(zoo.folder, "de"))
    stored(zoo.folder, "fa").unlink()
    (zoo.catalog.home / "lock").unlink()
    (zoo.catalog.home / "lock").mkdir()
    report = check(zoo, jobs=1, repair=True)
    assert [one.kind for one in report.findings] == ["missing"] and (report.models, report.files) == (3, 2)
    assert {one.kind for one in report.mended} == {"lock", "damaged"} and zoo.open("e5").id == ids["e5"]


def test_a_damaged_file_that_stays_is_not_said_to_be_moved(tmp_path: Path) -> None:
    zoo, _ = three(tmp_path / "zoo")
    flip(stored(zoo.folder, "de"), -5)
    [alone] = check(zoo, jobs=1).findings
    assert alone.advice.endswith("--repair moves it aside, to .weightspace/damaged")
    compacted(stored(zoo.folder, "fa"))
    [beside] = [one for one in check(zoo, jobs=1, repair=True).findings if one.kind == "damaged"]
    assert beside.advice.endswith("until then --repair lets it lie, since compact files may need what can still be read of it")
    assert stored(zoo.folder, "de").is_file()
