"""What is pushed, where to, and who is told what: several models, branches, logins, tokens, and what a killed process leaves."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import weightspace as ws
from tests.hub.loopback_store import HubError
from tests.remote.hubs import Hub
from tests.remote.test_remote import hasty
from weightspace.errors import CatalogError, FormatError, WeightSpaceError
from weightspace.zoo import Zoo
from weightspace.zoo.hub import ingest_hub, pull_model, pull_zoo, push_model, push_zoo, shards
from weightspace.zoo.runs.run import Run
from weightspace.zoo.zoo import Added

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")
__all__ = ["hasty"]


def network(seed: int) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {"fc1.weight": torch.randn(8, 4, generator=chance), "fc2.weight": torch.randn(2, 8, generator=chance)}


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """Three models, one made of another, one of a run that lies in a folder of this machine."""
    made = Zoo(tmp_path / "here")
    run = Run(f"folder:{tmp_path}/runs/1", "run 1", "folder", 1)
    made.add_many([Added(network(0), "base", run=run, step=3, metrics={"test": {"accuracy": 0.5}}), Added(network(1), "other")])
    made.add({**network(0), "fc2.weight": torch.ones(2, 8)}, "child", recipe={"kind": "merge"}, parents=["base"])
    return made


def sent(hub: Hub) -> list[str]:
    """Requests from now on that change something."""
    found: list[str] = []

    def fault(method: str, path: str) -> None:
        if method not in ("GET", "HEAD"):
            found.append(f"{method} {path}")

    object.__setattr__(hub.settings, "fault", fault)
    return found


def names(zoo: Zoo) -> list[str]:
    return sorted(row["name"] for row in zoo.models().to_pylist())


class TestWhat:
    def test_models_that_are_named_are_added_to_a_zoo_that_is_there(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        assert push_zoo(zoo, "lab/some", models=["base", "other", "base"], private=True).models == 2
        assert push_zoo(zoo, "lab/some", models=["other"], private=True).commit is None
        assert push_zoo(zoo, "lab/some", where="name = 'child'", private=True).tensors == 1
        there = Zoo(tmp_path / "there")
        assert pull_zoo(there.catalog, "lab/some").stored == 3 and names(there) == ["base", "child", "other"]
        assert there.sql("select test_accuracy from model_table where name = 'base'").to_pylist() == [{"test_accuracy": 0.5}]

    def test_a_whole_zoo_takes_the_place_of_what_was_said(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        smaller = Zoo(tmp_path / "smaller")
        smaller.add(network(0), "base")
        assert push_zoo(smaller, "lab/zoo", private=True).tensors == 0
        there = Zoo(tmp_path / "there")
        pull_zoo(there.catalog, "lab/zoo")
        assert names(there) == ["base"]

    def test_no_place_of_this_machine_is_told_and_who_pulls_again_has_no_run_twice(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        for file in hub.api.list_repo_files("lab/zoo", repo_type="dataset"):
            raw = Path(hub.api.hf_hub_download("lab/zoo", file, repo_type="dataset", local_dir=tmp_path / "got")).read_bytes()
            assert os.fsencode(tmp_path) not in raw
        before = zoo.runs().to_pylist()
        pull_zoo(zoo.catalog, "lab/zoo")
        assert zoo.runs().to_pylist() == before and zoo.sql("select count(*) as n from metrics")["n"].to_pylist() == [1]

    def test_weights_that_are_not_what_was_catalogued_are_not_sent(self, hub: Hub, zoo: Zoo) -> None:
        path = next((zoo.folder / ".weightspace" / "store").rglob("*.safetensors"))
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        with pytest.raises(FormatError, match=r"are not those that were catalogued; see what 'weightspace check' says"):
            push_zoo(zoo, "lab/zoo", private=True)
        assert not [one for one in hub.api.list_repo_files("lab/zoo", repo_type="dataset") if one.endswith(".parquet")]

    def test_a_dry_run_sends_nothing_at_all(self, hub: Hub, zoo: Zoo) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        asked = sent(hub)
        zoo.add(network(9), "more")
        dry = [push_zoo(zoo, name, private=True, dry_run=True) for name in ("lab/zoo", "lab/new")]
        dry.append(push_model(zoo, "base", "lab/base", private=True, dry_run=True))
        assert asked == [] and all(one.commit is None and one.num_bytes for one in dry)
        assert push_zoo(zoo, "lab/zoo", private=True).num_bytes == dry[0].num_bytes


class TestWhere:
    def test_a_public_repository_is_not_pushed_to_as_a_private_one(self, hub: Hub, zoo: Zoo) -> None:
        push_zoo(zoo, "lab/zoo", models=["base"], private=False)
        asked = sent(hub)
        for dry_run in (True, False):
            with pytest.raises(CatalogError, match=r"is there and public, so nothing was sent; say --public, or name another"):
                push_zoo(zoo, "lab/zoo", private=True, dry_run=dry_run)
        assert asked == []
        push_model(zoo, "base", "lab/base", private=True)
        assert push_model(zoo, "other", "lab/base", private=False).is_private

    def test_a_branch(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        push_model(zoo, "base", "lab/base", private=True)
        push_model(zoo, "other", "lab/base@try%2Fother", private=True)
        assert push_model(zoo, "other", "lab/base@try%2Fother", private=True).commit is None
        one, other = Zoo(tmp_path / "one"), Zoo(tmp_path / "two")
        assert pull_model(one, "lab/base") == zoo.open("base").id
        assert pull_model(other, "lab/base@try%2Fother") == zoo.open("other").id

    @pytest.mark.parametrize(
        ("to", "said"),
        [
            ("lab/x/file", "a file"),
            ("spaces/lab/x", "a space"),
            (f"lab/x@{'a' * 40}", "a commit"),
            ("lab/x@", "'hf:lab/x@' names no revision after the @; write one, as in hf:org/name@main, or leave the @ away"),
            ("so so", "no address on the Hub"),
            ("alone", "hf:alone: does not say whose it is; write org/name"),
        ],
    )
    def test_what_nothing_can_be_pushed_to(self, hub: Hub, zoo: Zoo, to: str, said: str) -> None:
        changes = sent(hub)
        with pytest.raises(WeightSpaceError, match=said):
            push_model(zoo, "base", to, private=True)
        assert not changes

    def test_somebody_else_who_pushes_meanwhile_loses_nothing(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        push_zoo(zoo, "lab/zoo", models=["base"], private=True)
        other = Zoo(tmp_path / "other")
        other.add(network(5), "theirs")
        done: list[int] = []

        def fault(method: str, path: str) -> None:
            if path.endswith("/preupload/main") and not done:
                done.append(1)
                push_zoo(other, "lab/zoo", models=["theirs"], private=True)

        object.__setattr__(hub.settings, "fault", fault)
        with pytest.raises(FormatError, match="somebody else pushed meanwhile; push again"):
            push_zoo(zoo, "lab/zoo", models=["other"], private=True)
        push_zoo(zoo, "lab/zoo", models=["other"], private=True)
        there = Zoo(tmp_path / "there")
        assert pull_zoo(there.catalog, "lab/zoo").stored == 3 and names(there) == ["base", "other", "theirs"]


class TestLogin:
    def test_nobody_is_logged_in(self, hub: Hub, zoo: Zoo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        object.__setattr__(hub.settings, "token", "the one")
        with pytest.raises(FormatError, match=r"does not know who is pushing; log in with `hf auth login`"):
            push_zoo(zoo, "lab/zoo", private=True)
        with pytest.raises(FormatError, match=r"does not know who is pushing; log in with `hf auth login`"):
            push_model(zoo, "base", "lab/base", private=True)

    def test_the_token_is_nowhere(self, hub: Hub, zoo: Zoo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
        token = "hf_" + "".join(("Secret", "Token", "42" * 8))
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)  # as it is outside of tests
        object.__setattr__(hub.settings, "token", token)
        messages = []
        hub_of = type(hub.api)(endpoint=hub.url, token=token)
        push_zoo(zoo, "lab/zoo", private=True)
        push_model(zoo, "child", "lab/child", private=True)
        there = Zoo(tmp_path / "there")
        pull_zoo(there.catalog, "lab/zoo")
        pull_model(there, "lab/child")
        ingest_hub(there.catalog, ["lab/child", "lab/absent"])
        ws.open("hf:lab/child").state_dict()
        for status in (401, 403, 404, 409, 416, 500):
            object.__setattr__(hub.settings, "fault", lambda method, path, status=status: HubError(status, f"Bearer {status}"))
            for call in (
                lambda: push_model(zoo, "base", "lab/x", private=True),
                lambda: pull_zoo(there.catalog, "lab/zoo"),
                lambda: ws.open("hf:lab/child"),
            ):
                with pytest.raises(WeightSpaceError) as raised:
                    call()
                messages.append(str(raised.value))
        object.__setattr__(hub.settings, "fault", lambda method, path: None)
        printed = capfd.readouterr()
        assert token not in printed.out + printed.err + "\n".join(messages)
        written = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(written) > 20 and [path for path in written if token.encode() in path.read_bytes()] == []
        assert "README.md" in hub_of.list_repo_files("lab/child")


class TestKilled:
    def test_what_a_killed_push_left_goes_with_the_next(self, hub: Hub, zoo: Zoo) -> None:
        code = f"from weightspace.zoo import Zoo; from weightspace.zoo.hub import push_zoo; push_zoo(Zoo({str(zoo.folder)!r}), 'lab/zoo', private=True)"
        object.__setattr__(hub.settings, "fault", lambda method, path: time.sleep(60) if path.endswith("/objects/batch") else None)
        place = zoo.catalog.home / "push"
        with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
            for _ in range(600):
                if list(place.glob("*/*.safetensors")):
                    break
                time.sleep(0.1)
            assert list(place.glob("*/*.safetensors"))
            process.kill()
        object.__setattr__(hub.settings, "fault", lambda method, path: None)
        assert push_zoo(zoo, "lab/zoo", private=True).commit and not place.exists()

    def test_two_pushes_at_once_leave_each_other_alone(self, zoo: Zoo) -> None:
        from weightspace.zoo.hub.scratch import outgoing

        with outgoing(zoo.catalog.home) as one:
            (one / "file").write_text("here")
            with outgoing(zoo.catalog.home) as other:
                assert one != other and (one / "file").exists()
            assert (one / "file").exists() and not other.exists()
        assert not (zoo.catalog.home / "push").exists()

    def test_a_push_that_broke_off_sends_no_shard_again(self, hub: Hub, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shards, "SHARD_BYTES", 100)
        object.__setattr__(hub.settings, "fault", lambda method, path: HubError(403, "no") if "/commit/" in path else None)
        with pytest.raises(FormatError, match="access is refused"):
            push_zoo(zoo, "lab/zoo", private=True)
        asked = sent(hub)
        assert len([one for one in push_zoo(zoo, "lab/zoo", private=True).files if one.endswith(".safetensors")]) > 2
        puts = [one for one in asked if one.startswith("PUT")]
        assert len(puts) == 0 or all("lfs-store" in one for one in puts)
        assert not list((zoo.catalog.home).glob("push"))

    def test_a_pull_that_broke_off_goes_on_where_it_was(self, hub: Hub, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shards, "SHARD_BYTES", 100)
        push_zoo(zoo, "lab/zoo", private=True)
        there, got = Zoo(tmp_path / "there"), list[str]()

        def fault(method: str, path: str) -> HubError | None:
            if "/weights/" in path and path.endswith(".safetensors"):
                got.append(path)
                return HubError(403, "no") if len(got) == 2 else None
            return None

        object.__setattr__(hub.settings, "fault", fault)
        with pytest.raises(FormatError, match="access is refused"):
            pull_zoo(there.catalog, "lab/zoo")
        first = list(got)
        pull_zoo(there.catalog, "lab/zoo")
        assert names(there) == ["base", "child", "other"] and not set(first[:1]) & set(got[len(first) :])
        assert not (there.catalog.home / "pull").exists()


class TestTables:
    """Tables of strangers are held against each other and against the weights."""

    @pytest.mark.parametrize(
        ("table", "column", "value", "said"),
        [
            ("models", "num_params", 10**17, "says num_params 100000000000000000 of model"),
            ("models", "num_bytes", 5, "says num_bytes 5 of model"),
            ("models", "weights_id", "0" * 64, "says weights_id 0000"),
            ("models", "architecture", "f" * 64, "says architecture ffff"),
            ("tensors", "nbytes", 3, "elements in 3 bytes for tensor"),
            ("tensors", "dtype", "F13", "unknown dtype 'F13'"),
            ("model_tensors", "alias_of", "nowhere", "is tied to 'nowhere', which is no earlier tensor of the model"),
            ("model_tensors", "alias_of", "fc1.weight", "is tied to 'fc1.weight', which is no earlier tensor of the model"),
            ("model_tensors", "name", "fc9.weight", "are not those that its id names"),
        ],
    )
    def test_what_does_not_follow_is_refused(
        self, hub: Hub, zoo: Zoo, tmp_path: Path, table: str, column: str, value: object, said: str
    ) -> None:
        self.changed(hub, zoo, tmp_path, table, lambda found: _with(found, column, value))
        there = Zoo(tmp_path / "there")
        with pytest.raises(FormatError, match=said):
            pull_zoo(there.catalog, "lab/zoo")
        assert not there.catalog.exists()

    @pytest.mark.parametrize("table", ["models", "model_tensors", "metrics", "edges", "tensors"])
    def test_rows_that_stand_there_twice_are_refused(self, hub: Hub, zoo: Zoo, tmp_path: Path, table: str) -> None:
        self.changed(hub, zoo, tmp_path, table, lambda found: pa.concat_tables([found, found]))
        with pytest.raises(CatalogError, match=f"table '{table}' does not fit .*stands there twice"):
            pull_zoo(Zoo(tmp_path / "there").catalog, "lab/zoo")

    def test_statistics_are_those_that_are_measured_here(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        self.changed(hub, zoo, tmp_path, "tensors", lambda found: _with(found, "std", 1e6, all=True))
        self.changed(hub, zoo, tmp_path, "models", lambda found: _with(found, "is_finite", False, all=True), push=False)
        there = Zoo(tmp_path / "there")
        pull_zoo(there.catalog, "lab/zoo")
        asked = "select hash, std from tensors order by hash"
        assert there.sql(asked).to_pylist() == zoo.sql(asked).to_pylist()
        assert there.sql("select bool_and(is_finite) as all from models")["all"].to_pylist() == [True]

    @staticmethod
    def changed(hub: Hub, zoo: Zoo, tmp_path: Path, table: str, change: Any, *, push: bool = True) -> None:
        if push:
            push_zoo(zoo, "lab/zoo", private=True)
        path = f"tables/{table}.parquet"
        found = pq.read_table(hub.api.hf_hub_download("lab/zoo", path, repo_type="dataset", local_dir=tmp_path / "read"))
        pq.write_table(change(found), tmp_path / "written.parquet")
        hub.api.upload_file(path_or_fileobj=tmp_path / "written.parquet", path_in_repo=path, repo_id="lab/zoo", repo_type="dataset")


def _with(table: pa.Table, column: str, value: object, *, all: bool = False) -> pa.Table:
    values = table[column].to_pylist()
    values = [value] * len(values) if all else [value, *values[1:]]
    return table.set_column(table.schema.get_field_index(column), column, pa.array(values, table.schema.field(column).type))
