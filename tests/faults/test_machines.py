"""Trouble on this machine: disks that are full or read-only, clocks that jump, and two who write at once."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import disable_progress_bars

import weightspace as ws
from tests.faults.rows import command, models
from tests.faults.test_kills import Zygote
from tests.hub.loopback_store import HubError
from tests.remote.hubs import Hub, running
from tests.zoo.hub.test_push_pull import network
from tests.zoo.trees import make_tree
from tests.zoo.wholeness import content, faults
from weightspace.errors import FormatError, WeightSpaceError
from weightspace.remote import client
from weightspace.zoo import Zoo
from weightspace.zoo.hub import ingest_hub, pull_model, pull_zoo, push_zoo
from weightspace.zoo.zoo import Added

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    disable_progress_bars()
    with running(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    made = Zoo(tmp_path / "here")
    made.add_many([Added(network(0), "base"), Added(network(1), "other")])
    return made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own, whose options may be changed; where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a disk")

    def change(options: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
        return folder

    try:
        yield change
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("options", ["size=64k", "ro"])
def test_without_room_for_a_cache_everything_is_read(
    hub: Hub, disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    folder = hub.model("lab/toy", width=300)
    monkeypatch.setenv("WEIGHTSPACE_CACHE", str(disk(options)))
    for _ in range(2):
        assert ws.open("hf:lab/toy").id == ws.open(folder / "model.safetensors").id
    left = [path for path in disk(options).rglob("*") if path.name.endswith(".new")]
    assert left == []


@pytest.mark.parametrize("options", ["size=64k", "ro"])
def test_a_zoo_on_a_disk_that_takes_nothing(hub: Hub, zoo: Zoo, disk: Callable[[str], Path], options: str) -> None:
    hub.model("lab/toy", width=600)
    push_zoo(zoo, "lab/zoo", private=True)
    place = disk(options)
    for line in (("ingest", "lab/toy"), ("pull", "lab/toy"), ("pull", "lab/zoo")):
        done = command("hub", *line, "--zoo", place / "zoo", quiet=False)
        assert not done.is_done and "Traceback" not in done.said
        said = done.said.splitlines()[-1]
        assert "error: " in said and "; " in said and any(advice in said for advice in ("free", "permissions", "another folder")), done.said
    place = disk("rw,size=60m")
    there = Zoo(place / "zoo")
    pull_zoo(there.catalog, "lab/zoo")
    pull_model(there, "lab/toy")
    ingest_hub(there.catalog, ["lab/toy"])
    assert faults(there) == [] and set(models(there)) >= set(models(zoo))


def test_a_zoo_that_has_become_read_only_is_read(hub: Hub, disk: Callable[[str], Path]) -> None:
    place = disk("rw,size=60m")
    zoo = Zoo(place / "zoo")
    zoo.add(network(3), "kept")
    disk("ro")
    assert zoo.open("kept")["fc1.weight"].shape == (8, 4) and command("ls", "--zoo", zoo.folder).is_done
    assert push_zoo(zoo, "lab/zoo", private=True).commit
    done = command("tag", "kept", "a=b", "--zoo", zoo.folder)
    assert not done.is_done and "permissions" in done.said


def test_a_download_on_a_full_disk_says_so_and_goes_on_later(hub: Hub, disk: Callable[[str], Path], tmp_path: Path) -> None:
    from weightspace.remote.downloading import downloaded
    from weightspace.remote.hub import HubAddress, files_of, repository

    folder = hub.model("lab/toy", width=600)
    address = HubAddress.parse("hf:lab/toy/model.safetensors")
    [file] = files_of(address, repository(address))
    with pytest.raises(FormatError, match=r"cannot be written \(No space left on device\); check the folder, its permissions and the free"):
        downloaded(file, disk("size=512k"), "x.safetensors")
    hub.settings.sent.clear()
    got = downloaded(file, disk("size=4m"), "x.safetensors")
    assert got.local.read_bytes() == (folder / "model.safetensors").read_bytes()
    assert hub.bytes_of("model.safetensors") < file.size, "nothing was kept of the first try"


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_jumps_changes_nothing(hub: Hub, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    hub.model("lab/toy")
    make_tree(tmp_path / "tree", small=4, large=0)
    there = Zoo(tmp_path / "there")
    there.ingest(tmp_path / "tree", jobs=1)
    ingest_hub(there.catalog, ["lab/toy"])
    push_zoo(zoo, "lab/zoo", private=True)
    pull_zoo(there.catalog, "lab/zoo")
    before = content(there)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + years * 31_556_952)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    busy = [HubError(503, "busy", headers={"Retry-After": "Fri, 31 Dec 2099 23:59:59 GMT", "Date": "Fri, 31 Dec 2099 23:59:50 GMT"})]
    object.__setattr__(hub.settings, "fault", lambda method, path: busy.pop() if busy else None)
    assert ingest_hub(there.catalog, ["lab/toy"]).unchanged == 1
    assert waited and max(waited) <= client.LONGEST_WAIT
    assert there.ingest(tmp_path / "tree", jobs=1).catalogued == 0
    assert push_zoo(zoo, "lab/zoo", private=True).commit is None
    assert pull_zoo(there.catalog, "lab/zoo").stored == 0
    assert content(there) == before and faults(there) == []


def test_a_time_to_wait_for_counts_from_the_servers_clock() -> None:
    import httpx2

    headers = {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT", "Date": "Fri, 31 Dec 1999 23:59:50 GMT"}
    assert client.wait_of(httpx2.Response(503, headers=headers), 1.0) == 9
    for said in ("-3", "soon", "\u00b2", "1e9", "", "Fri, 99 Dec 1999"):
        assert client.wait_of(httpx2.Response(503, headers=[(b"Retry-After", said.encode("latin-1"))]), 1.5) == 1.5


class TestTwo:
    def test_pushes_to_one_repository_and_one_hears_of_the_other(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        other = Zoo(shutil.copytree(zoo.folder, tmp_path / "other"))
        zoo.add(network(2), "mine")
        other.add(network(3), "theirs")
        between = [lambda: push_zoo(other, "lab/zoo", private=True)]

        def fault(method: str, path: str) -> None:
            if "/commit/" in path and between:
                between.pop()()

        object.__setattr__(hub.settings, "fault", fault)
        with pytest.raises(WeightSpaceError, match="lab/zoo: somebody else pushed meanwhile; push again"):
            push_zoo(zoo, "lab/zoo", private=True)
        assert push_zoo(zoo, "lab/zoo", private=True).commit
        there = Zoo(tmp_path / "there")
        pull_zoo(there.catalog, "lab/zoo")
        assert faults(there) == [] and {"base", "other", "mine"} <= {name.split()[1] for name in models(there)}

    def test_processes_pull_and_ingest_into_one_zoo(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        make_tree(tmp_path / "tree", small=6, large=0)
        there, alone = Zoo(tmp_path / "there"), Zoo(tmp_path / "alone")
        pull_zoo(alone.catalog, "lab/zoo")
        alone.ingest(tmp_path / "tree", jobs=1, copy=True)
        two = [Zygote(OMP_NUM_THREADS="1"), Zygote(OMP_NUM_THREADS="1")]
        try:
            for work, arguments in (("pull", [str(there.folder)]), ("ingest", [str(there.folder), str(tmp_path / "tree"), "1"])):
                for one in two:
                    one.begin(work, arguments)
                assert [one.ended() for one in two] == [0, 0]
        finally:
            for one in two:
                one.close()
        assert faults(there) == []
        found = content(there)
        for table, rows in content(alone).items():
            assert found[table] == rows, table
