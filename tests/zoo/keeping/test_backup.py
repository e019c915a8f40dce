"""Backup and restore: the same zoo again; nothing copied twice; whatever breaks off, is full or damaged leaves the target whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.keeping.planted import cut, flip, make_zoo, stored, tensors
from tests.zoo.keeping.test_migrations import GOLDEN
from tests.zoo.wholeness import content_with_keys
from weightspace.errors import CatalogError
from weightspace.zoo import Zoo
from weightspace.zoo.keeping import backup as backing
from weightspace.zoo.keeping.backup import backup
from weightspace.zoo.keeping.check import check
from weightspace.zoo.keeping.restoring import restore


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(tmp_path_factory.mktemp("backed-up") / "zoo")


@pytest.fixture
def zoo(pristine: Zoo, tmp_path: Path) -> Zoo:
    shutil.copytree(pristine.folder, tmp_path / "zoo", symlinks=True)
    return Zoo(tmp_path / "zoo")


def store_of(zoo: Zoo) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (zoo.catalog.home / "store").rglob("*") if path.is_file()}


def house(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["kept", "kept.tar"])
def test_a_zoo_comes_back_the_same(zoo: Zoo, tmp_path: Path, name: str) -> None:
    said = backup(zoo, tmp_path / name, weights=True)
    assert (said.models, said.stored, said.files, said.copied) == (14, 7, 7, 7)
    again = Zoo(tmp_path / "again")
    back = restore(tmp_path / name, again)
    assert (back.models, back.files, back.copied, back.kept_aside) == (14, 7, 7, None)
    assert content_with_keys(again) == content_with_keys(zoo) and store_of(again) == store_of(zoo)
    assert again.sql("from meta order by key").to_pylist() == zoo.sql("from meta order by key").to_pylist()
    assert {one.kind for one in check(again, jobs=1).findings} == {"missing"}  # files that lay outside of the house
    assert again.open("alone").id == zoo.open("alone").id
    restore(tmp_path / name, Zoo(tmp_path / "zoo"), force=True)
    assert check(zoo, jobs=1).is_sound


def test_a_second_backup_copies_what_is_new_and_no_more(zoo: Zoo, tmp_path: Path) -> None:
    backup(zoo, tmp_path / "kept", weights=True)
    there = {path.name: path.stat().st_ino for path in (tmp_path / "kept/store").rglob("*.safetensors")}
    assert backup(zoo, tmp_path / "kept", weights=True).copied == 0
    zoo.add(tensors(50), name="fresh")
    assert backup(zoo, tmp_path / "kept", weights=True).copied == 1
    assert there.items() <= {path.name: path.stat().st_ino for path in (tmp_path / "kept/store").rglob("*.safetensors")}.items()
    plain = backup(zoo, tmp_path / "kept")
    assert plain.copied == 0 and plain.files == 8  # what is there stays
    assert len(list((tmp_path / "kept").glob("catalog-*"))) == 1
    again = Zoo(tmp_path / "again")
    restore(tmp_path / "kept", again)
    assert store_of(again) == store_of(zoo) and content_with_keys(again) == content_with_keys(zoo)


def test_damaged_weights_do_not_take_the_place_of_sound_ones(zoo: Zoo, tmp_path: Path) -> None:
    backup(zoo, tmp_path / "kept", weights=True)
    torn, turned, touched = (stored(zoo.folder, name) for name in ("alone", "first", "second"))
    whole = store_of(zoo)
    cut(torn, 100)
    flip(turned, -5)
    touched.touch()
    assert backup(zoo, tmp_path / "kept", weights=True).copied == 1
    restore(tmp_path / "kept", zoo, force=True)
    assert store_of(zoo) == whole
    # What was damaged when it was copied first gives way to what is sound.
    flip(turned, -5)
    backup(zoo, tmp_path / "late", weights=True)
    turned.write_bytes(whole[turned.name])
    assert backup(zoo, tmp_path / "late", weights=True).copied == 1


def test_the_catalog_alone(zoo: Zoo, tmp_path: Path) -> None:
    said = backup(zoo, tmp_path / "kept")
    assert (said.files, said.stored) == (0, 0) and house(tmp_path / "kept")[0] == "backup.json"
    again = Zoo(tmp_path / "again")
    restore(tmp_path / "kept", again)
    assert content_with_keys(again) == content_with_keys(zoo) and store_of(again) == {}


def test_a_zoo_that_is_there_is_replaced_only_when_asked(zoo: Zoo, tmp_path: Path) -> None:
    backup(zoo, tmp_path / "kept", weights=True)
    before = content_with_keys(zoo)
    zoo.add(tensors(50), name="fresh")
    after, weights = content_with_keys(zoo), store_of(zoo)
    with pytest.raises(CatalogError, match=r"has a zoo already; name another folder, or let the backup take its place with --force"):
        restore(tmp_path / "kept", zoo)
    assert content_with_keys(zoo) == after
    back = restore(tmp_path / "kept", zoo, force=True)
    assert back.copied == 0 and content_with_keys(zoo) == before
    assert store_of(zoo) == weights, "weights that the backup does not know stay"
    assert back.kept_aside == zoo.catalog.home / "catalog.before-restore.duckdb"
    second = restore(tmp_path / "kept", zoo, force=True)
    assert second.kept_aside == zoo.catalog.home / "catalog.before-restore-2.duckdb", "the first one is not lost"
    shutil.copyfile(back.kept_aside, zoo.catalog.path)
    assert content_with_keys(zoo) == after


def test_weights_that_are_damaged_come_back(zoo: Zoo, tmp_path: Path) -> None:
    backup(zoo, tmp_path / "kept", weights=True)
    flip(stored(zoo.folder, "alone"), -5)
    stored(zoo.folder, "first").unlink()
    assert restore(tmp_path / "kept", zoo, force=True).copied == 2
    assert check(zoo, jobs=1).is_sound


def damage(kept: Path, how: str, name: str) -> None:
    """Do something to a backup that is a folder, or to one file of weights in it."""
    [weights] = kept.rglob(name)
    [catalog] = kept.glob("catalog-*")
    manifest = kept / "backup.json"
    said = json.loads(manifest.read_text())
    if how == "a bit of weights":
        flip(weights, -3)
    elif how == "weights cut short":
        cut(weights, 50)
    elif how == "weights gone":
        weights.unlink()
    elif how == "weights of another size":
        said["weights"][str(weights.relative_to(kept))]["size"] += 1
        manifest.write_text(json.dumps(said))
    elif how == "a catalog of another size":
        said["catalog"]["size"] -= 1
        manifest.write_text(json.dumps(said))
    elif how == "a bit of the catalog":
        flip(catalog, catalog.stat().st_size // 2)
    elif how == "catalog gone":
        catalog.unlink()
    elif how == "no manifest":
        manifest.unlink()
    elif how == "half a manifest":
        cut(manifest, 100)
    elif how == "no JSON":
        manifest.write_text("nothing")
    elif how == "a list":
        manifest.write_text("[]")
    elif how == "another format":
        manifest.write_text(json.dumps({**said, "weightspace backup": 2}))
    elif how == "a newer schema":
        manifest.write_text(json.dumps({**said, "schema_version": "99"}))
    elif how == "a name that leads out":
        name, one = next(iter(said["weights"].items()))
        manifest.write_text(json.dumps({**said, "weights": {f"store/../../{name}": one}}))
    elif how == "another catalog":
        manifest.write_text(json.dumps({**said, "catalog": {**said["catalog"], "name": "../../etc/passwd"}}))


DAMAGES = {
    "a bit of weights": r"\.safetensors is damaged \(its hash is [0-9a-f]{12}, expected [0-9a-f]{12}\); nothing of the zoo was changed",
    "weights cut short": r"is damaged \(it has 50 bytes, expected \d+\); nothing of the zoo was changed",
    "weights of another size": r"is damaged \(it has \d+ bytes, expected \d+\); nothing of the zoo was changed",
    "a catalog of another size": r"is damaged \(it has more than the \d+ bytes that it should have\); nothing of the zoo was changed",
    "weights gone": r"lacks store/.*; nothing of the zoo was changed, use another backup",
    "a bit of the catalog": r"catalog-[0-9a-f]{16}.duckdb is damaged",
    "catalog gone": r"lacks catalog-",
    "no manifest": r"kept: holds no backup.json; name a folder or file that 'backup' wrote",
    "half a manifest": r"is no backup of a zoo, or damaged",
    "no JSON": r"is no backup of a zoo, or damaged",
    "a list": r"is no backup of a zoo, or damaged",
    "another format": r"is a backup of format 2, expected 1; use a newer weightspace",
    "a newer schema": r"has schema version 99, expected \d+ at most; use a newer weightspace",
    "a name that leads out": r"is no backup of a zoo, or damaged \(the name",
    "another catalog": r"is no backup of a zoo, or damaged \(the name",
}


QUICK = ("a bit of weights", "weights of another size", "catalog gone", "a name that leads out")


@pytest.mark.parametrize("how", [pytest.param(how, marks=[] if how in QUICK else [pytest.mark.slow]) for how in DAMAGES])
def test_a_damaged_backup_changes_nothing(zoo: Zoo, tmp_path: Path, how: str) -> None:
    kept = tmp_path / "kept"
    backup(zoo, kept, weights=True)
    damage(kept, how, stored(zoo.folder, "alone").name)
    stored(zoo.folder, "alone").unlink()
    before = {path: (zoo.catalog.home / path).read_bytes() for path in house(zoo.catalog.home) if not path.startswith("store")}
    for target in (Zoo(tmp_path / "again"), zoo):
        with pytest.raises(CatalogError, match=DAMAGES[how]) as caught:
            restore(kept, target, force=True)
        assert "\n" not in str(caught.value)
    assert not Zoo(tmp_path / "again").catalog.exists()
    assert {path: (zoo.catalog.home / path).read_bytes() for path in before} == before
    assert not [path for path in house(tmp_path) if path.endswith(".new")]


@pytest.mark.parametrize("force", [False, True])
def test_a_backup_is_not_restored_onto_itself(zoo: Zoo, tmp_path: Path, force: bool) -> None:
    backup(zoo, tmp_path / "kept", weights=True)
    before = house(tmp_path)
    for source, target in ((tmp_path / "kept", tmp_path / "kept"), (zoo.folder, zoo.folder), (zoo.catalog.home, zoo.folder)):
        with pytest.raises(CatalogError, match=r"is the folder that it would be restored into; name another one with --zoo$"):
            restore(source, Zoo(target), force=force)
    assert house(tmp_path) == before


def test_a_tar_that_is_cut_short_is_one_clear_line(zoo: Zoo, tmp_path: Path) -> None:
    kept = tmp_path / "kept.tar"
    backup(zoo, kept, weights=True)
    for size in (100, 1500, 400_000, kept.stat().st_size - 12_000):  # the end of a tar file may be zeros alone
        shutil.copyfile(kept, tmp_path / "cut.tar")
        cut(tmp_path / "cut.tar", size)
        with pytest.raises(CatalogError) as caught:
            restore(tmp_path / "cut.tar", Zoo(tmp_path / "again"))
        assert "\n" not in str(caught.value) and not Zoo(tmp_path / "again").catalog.exists()


def test_links_in_a_tar_are_not_followed(zoo: Zoo, tmp_path: Path) -> None:
    backup(zoo, tmp_path / "kept")
    [catalog] = (tmp_path / "kept").glob("catalog-*")
    with tarfile.open(tmp_path / "kept.tar", "w") as archive:
        archive.add(tmp_path / "kept/backup.json", "backup.json")
        link = tarfile.TarInfo(catalog.name)
        link.type, link.linkname = tarfile.SYMTYPE, str(catalog)
        archive.addfile(link)
    with pytest.raises(CatalogError, match="lacks catalog-"):
        restore(tmp_path / "kept.tar", Zoo(tmp_path / "again"))


@pytest.mark.parametrize("name", ["kept", "kept.tar"])
def test_another_zoos_backup_keeps_its_place(zoo: Zoo, tmp_path: Path, name: str) -> None:
    backup(zoo, tmp_path / name)
    other = Zoo(tmp_path / "other")
    other.add(tensors(3), name="only")
    with pytest.raises(CatalogError, match="is the backup of another zoo; choose another place, or take its place with --force"):
        backup(other, tmp_path / name)
    assert backup(other, tmp_path / name, force=True).models == 1


@pytest.mark.parametrize("place", ["kept", "kept.tar", ".weightspace/kept", ".weightspace/store"])
def test_a_backup_does_not_lie_in_what_it_is_of(zoo: Zoo, place: str) -> None:
    before = house(zoo.folder)
    for force in (False, True)[: 1 + place.startswith(".")]:
        with pytest.raises(CatalogError, match=r"lies in the zoo's own folder; keep a backup elsewhere"):
            backup(zoo, zoo.folder / place, weights=True, force=force)
    assert house(zoo.folder) == before


def test_a_list_of_contents_without_end_and_a_pipe_are_one_clear_line(zoo: Zoo, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "backup.json").write_text("[" * 100_000)
    with pytest.raises(CatalogError, match="is no backup of a zoo, or damaged"):
        restore(deep, Zoo(tmp_path / "again"))
    backup(zoo, tmp_path / "kept", weights=True)
    weights = next((tmp_path / "kept/store").rglob("*.safetensors"))
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(CatalogError, match=rf"is damaged \({weights.name} is no plain file\); nothing of the zoo was changed"):
        restore(tmp_path / "kept", Zoo(tmp_path / "again"))


def test_what_is_no_backup_keeps_its_place(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter").write_text("dear")
    (tmp_path / "mine.tar").write_text("dear")
    for name in ("mine", "mine.tar"):
        with pytest.raises(CatalogError, match="exists, and is no backup of a zoo; choose another name, or take its place with --force"):
            backup(zoo, tmp_path / name)
    (tmp_path / "plain").write_text("dear")
    with pytest.raises(CatalogError, match=r"is a file; name a folder for a backup, or a file that ends in \.tar"):
        backup(zoo, tmp_path / "plain")
    assert (tmp_path / "mine.tar").read_text() == "dear"


def test_a_damaged_catalog_does_not_take_the_place_of_a_sound_one(zoo: Zoo, tmp_path: Path) -> None:
    backup(zoo, tmp_path / "kept")
    before = house(tmp_path / "kept")
    data = zoo.catalog.path.read_bytes()
    flip(zoo.catalog.path, data.rindex(b"fc1.bias"))
    with pytest.raises(CatalogError, match=r"is damaged .*, and is not copied; 'weightspace check' tells more|cannot be opened"):
        backup(zoo, tmp_path / "kept")
    assert house(tmp_path / "kept") == before
    restore(tmp_path / "kept", zoo, force=True)
    assert check(zoo, quick=True, jobs=1).is_sound


def test_without_a_zoo_there_is_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="has no zoo yet"):
        backup(Zoo(tmp_path / "none"), tmp_path / "kept", weights=True)


def test_an_old_catalog_is_copied_as_it_is_and_brought_forward_later(tmp_path: Path) -> None:
    import zstandard

    old = Zoo(tmp_path / "old")
    old.catalog.home.mkdir(parents=True)
    old.catalog.path.write_bytes(zstandard.ZstdDecompressor().decompress(GOLDEN.read_bytes()))
    backup(old, tmp_path / "kept")
    again = Zoo(tmp_path / "again")
    assert restore(tmp_path / "kept", again).models == 5
    again.record("base", tags={"fresh": "yes"})
    assert again.sql("select count(*) as n from tags").to_pylist() == [{"n": 4}]


def test_what_a_killed_writer_left_in_the_log_is_in_the_copy(zoo: Zoo, tmp_path: Path) -> None:
    script = """
import os, signal, sys, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("insert into tags values (1, 'late', 'yes')")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script, str(zoo.catalog.path)], timeout=100)
    assert (zoo.catalog.home / "catalog.duckdb.wal").exists()
    backup(zoo, tmp_path / "kept")
    again = Zoo(tmp_path / "again")
    restore(tmp_path / "kept", again)
    assert again.sql("select count(*) as n from tags where key = 'late'").to_pylist() == [{"n": 1}]
    # And the log of a catalog that is replaced is not taken for that of the new one.
    shutil.copyfile(zoo.catalog.path, tmp_path / "before.duckdb")
    restore(tmp_path / "kept", zoo, force=True)
    assert (
        zoo.sql("select count(*) as n from tags where key = 'late'").to_pylist() == [{"n": 1}] and check(zoo, quick=True, jobs=1).is_sound
    )


def test_readers_go_on_and_a_writer_waits(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, go_on = threading.Event(), threading.Event()
    real = backing._Backup._copy_catalog

    def slow(self: backing._Backup) -> object:
        at_work.set()
        assert go_on.wait(60)
        return real(self)

    monkeypatch.setattr(backing._Backup, "_copy_catalog", slow)
    written: list[float] = []

    def write() -> None:
        zoo.record("base", tags={"late": "yes"})
        written.append(time.monotonic())

    copying = threading.Thread(target=backup, args=(zoo, tmp_path / "kept"))
    copying.start()
    assert at_work.wait(60)
    assert zoo.sql("select count(*) as n from models").to_pylist() == [{"n": 14}]
    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.3)
    assert not written
    released = time.monotonic()
    go_on.set()
    copying.join(60)
    writer.join(60)
    assert written and written[0] > released
    again = Zoo(tmp_path / "again")
    restore(tmp_path / "kept", again)
    assert again.sql("select count(*) as n from tags where key = 'late'").to_pylist() == [{"n": 0}]


KILLED = """
import os, signal, sys
from pathlib import Path
from weightspace.zoo import Zoo
from weightspace.zoo.keeping import backup, copying, restoring

what, step, zoo, kept = sys.argv[1], int(sys.argv[2]), Zoo(sys.argv[3]), Path(sys.argv[4])
real, left = Path.replace, [step]
def replace(self, target):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
Path.replace = replace
if what == "backup":
    backup.backup(zoo, kept, weights=True)
else:
    restoring.restore(kept, zoo, force=True)
"""


@pytest.mark.parametrize("name", ["kept", "kept.tar"])
@pytest.mark.parametrize("step", [9, *(pytest.param(step, marks=pytest.mark.slow) for step in (0, 2, 4, 7, 8, 10, 11))])
def test_a_backup_that_is_killed_is_the_one_before(zoo: Zoo, tmp_path: Path, step: int, name: str) -> None:
    kept = tmp_path / name
    backup(zoo, kept, weights=True)
    before = content_with_keys(zoo)
    for seed in range(60, 68):
        zoo.add(tensors(seed), name=f"fresh-{seed}")
    done = subprocess.run([sys.executable, "-c", KILLED, "backup", str(step), str(zoo.folder), str(kept)], timeout=100)
    again = Zoo(tmp_path / "again")
    restore(kept, again)
    if done.returncode == -signal.SIGKILL:
        assert content_with_keys(again) == before
    backup(zoo, kept, weights=True)
    restore(kept, again, force=True)
    assert content_with_keys(again) == content_with_keys(zoo) and store_of(again) == store_of(zoo)
    assert not [path for path in house(tmp_path / "kept") if path.endswith(".new")]


@pytest.mark.parametrize("step", [0, 8, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 3, 7, 9))])
def test_a_restore_that_is_killed_leaves_what_was_there(zoo: Zoo, tmp_path: Path, step: int) -> None:
    kept = tmp_path / "kept"
    backup(zoo, kept, weights=True)
    other = Zoo(tmp_path / "other")
    other.add(tensors(3), name="only")
    before = content_with_keys(other)
    done = subprocess.run([sys.executable, "-c", KILLED, "restore", str(step), str(other.folder), str(kept)], timeout=100)
    assert content_with_keys(other) == (before if done.returncode == -signal.SIGKILL else content_with_keys(zoo))
    restore(kept, other, force=True)
    assert content_with_keys(other) == content_with_keys(zoo)
    leftovers = [one for one in check(other, jobs=1, grace=0).findings if one.kind not in ("missing", "unknown", "leftover")]
    assert leftovers == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_one_clear_line(zoo: Zoo, tmp_path: Path, small_disk: Path) -> None:
    for target in (small_disk / "kept", small_disk / "kept.tar"):
        with pytest.raises(CatalogError, match=r"No space left on device|the disk is full|could not write|cannot be copied") as caught:
            backup(zoo, target, weights=True)
        assert "\n" not in str(caught.value) and "space" in str(caught.value)
    assert not [path for path in house(small_disk) if path.endswith((".new", ".wal", ".tar"))]
    backup(zoo, tmp_path / "kept", weights=True)
    with pytest.raises(
        CatalogError, match=r"cannot be restored \(No space left on device\); check the folder, its permissions and the free space"
    ):
        restore(tmp_path / "kept", Zoo(small_disk / "again"))
    assert not Zoo(small_disk / "again").catalog.exists()
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    backup(zoo, small_disk / "kept", weights=True)
    restore(small_disk / "kept", Zoo(small_disk / "again"))
    assert content_with_keys(Zoo(small_disk / "again")) == content_with_keys(zoo)


READ_ONLY = """
import os, sys
from pathlib import Path
from weightspace.errors import CatalogError
from weightspace.zoo import Zoo
from weightspace.zoo.keeping.backup import backup
from weightspace.zoo.keeping.check import check
from weightspace.zoo.keeping.restoring import restore
import weightspace.zoo.keeping.mending

"".encode("utf-8-sig")
warm = Path(sys.argv[2])  # so that all is imported while this process may still read it
Zoo(warm / "zoo").create()
(warm / "zoo/.weightspace/store").mkdir()
(warm / "zoo/.weightspace/store/note").write_text("x")
backup(Zoo(warm / "zoo"), warm / "kept", weights=True)
restore(warm / "kept", Zoo(warm / "again"))
check(Zoo(warm / "zoo"), jobs=1, quick=True, repair=True, grace=0)
if os.geteuid() == 0:
    os.seteuid(65534)  # permissions bind everybody but root
where = Path(sys.argv[1])
for act in (
    lambda: backup(Zoo(where / "zoo"), where / "kept"),
    lambda: restore(where / "good", Zoo(where / "closed")),
    lambda: restore(where / "good", Zoo(where / "zoo"), force=True),
    lambda: check(Zoo(where / "zoo"), jobs=1, quick=True, repair=True, grace=0),
):
    try:
        print(act())
    except CatalogError as error:
        print(error)
"""


def test_what_may_not_be_written_is_one_clear_line(zoo: Zoo, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    backup(zoo, tmp_path / "good")
    (tmp_path / "kept").mkdir()
    (tmp_path / "closed").mkdir()
    (zoo.folder / ".weightspace/store/note").write_text("x")
    warm = tmp_path_factory.mktemp("warm")
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(0o755)
    for path in tmp_path.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = subprocess.run([sys.executable, "-c", READ_ONLY, str(tmp_path), str(warm)], capture_output=True, text=True, timeout=100)
    finally:
        for path in tmp_path.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.stderr == ""
    backed, made, forced, mended = done.stdout.splitlines()
    assert backed.endswith("cannot be written (Permission denied); check the folder, its permissions and the free space")
    assert made.endswith("cannot be restored (Permission denied); check the folder, its permissions and the free space")
    assert forced.endswith("cannot be restored (Permission denied); check the folder, its permissions and the free space")
    assert "Permission denied" in mended


@pytest.mark.parametrize("name", ["kept", "kept.tar"])
def test_damaged_weights_are_told_each_time_until_they_are_whole(tmp_path: Path, name: str) -> None:
    zoo = Zoo(tmp_path / "zoo")
    for at, model in enumerate(("torn", "turned", "sound")):
        zoo.add(tensors(at), name=model)
    torn, turned = (stored(zoo.folder, model) for model in ("torn", "turned"))
    whole = store_of(zoo)
    cut(torn, 100)
    flip(turned, -5)
    damaged = tuple(sorted(str(path.relative_to(zoo.folder)) for path in (torn, turned)))
    for _ in range(2):
        said = backup(zoo, tmp_path / name, weights=True)
        assert (said.damaged, said.in_store, said.stored, said.files) == (damaged, 3, 1, 3)
    torn.write_bytes(whole[torn.name])
    turned.write_bytes(whole[turned.name])
    said = backup(zoo, tmp_path / name, weights=True)
    assert (said.damaged, said.stored) == ((), 3)
    assert restore(tmp_path / name, Zoo(tmp_path / "again")).copied == 3 and store_of(Zoo(tmp_path / "again")) == whole
