"""A zoo that is pushed and pulled is the same zoo; only what is new is sent."""

import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import weightspace as ws
from tests.hub.loopback_store import HubError
from tests.remote.hubs import Hub
from tests.remote.test_remote import hasty
from weightspace.errors import CatalogError, FormatError
from weightspace.zoo import Zoo
from weightspace.zoo.hub import ingest_hub, is_zoo, pull_model, pull_zoo, push_model, push_zoo
from weightspace.zoo.runs.run import Run
from weightspace.zoo.zoo import Added

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")
__all__ = ["hasty"]


def network(seed: int) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {"fc1.weight": torch.randn(8, 4, generator=chance), "fc2.weight": torch.randn(2, 8, generator=chance)}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, one made of another, with metrics, tags and runs."""
    made = Zoo(tmp_path_factory.mktemp("built") / "here")
    base = network(0)
    made.add_many(
        [
            Added(
                base,
                "base",
                run=Run("population:0", "run 0", "population", 0),
                step=3,
                metrics={"test": {"accuracy": 0.5}},
                tags={"team": "vision"},
            ),
            Added(network(1), "other"),
        ]
    )
    made.add({**base, "fc2.weight": base["fc2.weight"] + 1}, "child", recipe={"kind": "merge", "by": 1}, parents=["base"])
    return made.folder


@pytest.fixture
def zoo(built: Path, tmp_path: Path) -> Zoo:
    """A copy of it."""
    return Zoo(shutil.copytree(built, tmp_path / "here"))


def ids(zoo: Zoo) -> list[tuple[str, str]]:
    return [(row["id"], row["name"]) for row in zoo.models(order_by="id").to_pylist()]


class TestZoo:
    def test_comes_back_the_same(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        pushed = push_zoo(zoo, "lab/zoo", private=True)
        assert pushed.models == 3 and pushed.tensors == 5 and pushed.commit
        there = Zoo(tmp_path / "there")
        pulled = pull_zoo(there.catalog, "lab/zoo")
        assert (pulled.new_models, pulled.stored, pulled.without_weights) == (3, 3, 0)
        assert ids(there) == ids(zoo) and all(there.open(name).id == id for id, name in ids(zoo))
        for table in (
            "select name, test_accuracy, step, run from model_table order by name",
            "select key, value from tags",
            "select kind, evidence from edges",
        ):
            assert there.sql(table).to_pylist() == zoo.sql(table).to_pylist()
        assert there.open("child").recipe == {"kind": "merge", "by": 1}
        assert not (there.catalog.home / "pull").exists()

    def test_a_second_push_sends_nothing(self, hub: Hub, zoo: Zoo) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        sent = []
        object.__setattr__(hub.settings, "fault", lambda method, path: sent.append(path) if method in ("PUT", "POST") else None)
        again = push_zoo(zoo, "lab/zoo", private=True)
        assert again.commit is None and again.files == () and again.tensors == 0 and sent == []

    def test_one_new_model_sends_its_new_tensors_alone(self, hub: Hub, zoo: Zoo) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        zoo.add({**network(0), "fc2.weight": torch.ones(2, 8)}, "fourth")
        again = push_zoo(zoo, "lab/zoo", private=True)
        assert again.tensors == 1 and len([file for file in again.files if file.endswith(".safetensors")]) == 1

    def test_a_dry_run_sends_nothing_and_makes_nothing(self, hub: Hub, zoo: Zoo) -> None:
        dry = push_zoo(zoo, "lab/zoo", private=True, dry_run=True)
        assert dry.commit is None and dry.tensors == 5 and not hub.api.repo_exists("lab/zoo", repo_type="dataset")

    def test_some_models_may_be_chosen(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        push_zoo(zoo, "lab/some", where="test_accuracy > .4", private=False)
        there = Zoo(tmp_path / "there")
        pull_zoo(there.catalog, "lab/some")
        assert [name for _, name in ids(there)] == ["base"]
        assert not hub.api.dataset_info("lab/some").private

    def test_no_place_of_this_machine_is_told(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        ws.save(network(5), tmp_path / "outside.safetensors")
        zoo.ingest(tmp_path / "outside.safetensors")
        push_zoo(zoo, "lab/zoo", private=True)
        for file in hub.api.list_repo_files("lab/zoo", repo_type="dataset"):
            raw = Path(hub.api.hf_hub_download("lab/zoo", file, repo_type="dataset", local_dir=tmp_path / "got")).read_bytes()
            assert os.fsencode(tmp_path) not in raw

    def test_pulling_again_brings_nothing_and_keeps_what_is_here(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        there = Zoo(tmp_path / "there")
        there.add(network(9), "mine")
        there.record("mine", metrics={"accuracy": 0.1})
        pull_zoo(there.catalog, "lab/zoo")
        again = pull_zoo(there.catalog, "lab/zoo")
        assert (again.new_models, again.stored) == (0, 0) and len(ids(there)) == 4

    def test_models_of_the_hub_keep_their_address(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        hub.model("lab/toy")
        ingest_hub(zoo.catalog, ["lab/toy"])
        push_zoo(zoo, "lab/zoo", private=True)
        there = Zoo(tmp_path / "there")
        assert pull_zoo(there.catalog, "lab/zoo").without_weights == 1
        assert there.open("lab/toy")["fc.bias"].shape == (8,)

    def test_somebody_else_pushed_meanwhile(self, hub: Hub, zoo: Zoo) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        zoo.add(network(4), "fourth")
        object.__setattr__(hub.settings, "fault", lambda method, path: HubError(412, "stale") if "/commit/" in path else None)
        with pytest.raises(FormatError, match="somebody else pushed meanwhile; push again"):
            push_zoo(zoo, "lab/zoo", private=True)

    def test_a_push_that_is_refused_leaves_nothing_half_done(self, hub: Hub, zoo: Zoo) -> None:
        object.__setattr__(hub.settings, "fault", lambda method, path: HubError(403, "no") if method == "POST" else None)
        with pytest.raises(FormatError, match="access is refused"):
            push_zoo(zoo, "lab/zoo", private=True)
        object.__setattr__(hub.settings, "fault", lambda method, path: None)
        assert push_zoo(zoo, "lab/zoo", private=True).commit

    def test_nothing_fits(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        with pytest.raises(CatalogError, match="no model fits false"):
            push_zoo(zoo, "lab/zoo", where="false", private=True)
        empty = Zoo(tmp_path / "empty")
        empty.create()
        with pytest.raises(CatalogError, match="the zoo holds no models"):
            push_zoo(empty, "lab/zoo", private=True)

    def test_what_is_no_zoo_is_said(self, hub: Hub, zoo: Zoo) -> None:
        hub.api.create_repo("lab/data", repo_type="dataset")
        with pytest.raises(FormatError, match="is no zoo that was pushed"):
            pull_zoo(zoo.catalog, "lab/data")
        assert not is_zoo("lab/data") and not is_zoo("lab/absent")

    def test_a_shard_that_is_not_what_it_was_is_refused(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        [shard] = [one for one in hub.api.list_repo_files("lab/zoo", repo_type="dataset") if one.endswith(".safetensors")]
        opened = ws.open(f"hf:datasets/lab/zoo/{shard}")
        forged = ws.save({name: tensor + 1 for name, tensor in opened.state_dict().items()}, tmp_path / "forged.safetensors")
        hub.api.upload_file(path_or_fileobj=forged, path_in_repo=shard, repo_id="lab/zoo", repo_type="dataset")
        there = Zoo(tmp_path / "there")
        with pytest.raises(FormatError, match="are not those that its id names; push the zoo again"):
            pull_zoo(there.catalog, "lab/zoo")
        assert ids(there) == []

    @pytest.mark.parametrize(
        ("file", "said"),
        [
            ("tables/models.parquet", "table 'models' does not fit (there is no column 'id'); export it again"),
            ("tables/files.parquet", "table 'files' does not fit (there is no column 'model'); export it again"),
            ("weights/index.parquet", "does not say which shard holds which tensor; push the zoo again"),
        ],
    )
    def test_tables_that_are_something_else(self, hub: Hub, zoo: Zoo, tmp_path: Path, file: str, said: str) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        pq.write_table(pa.table({"nonsense": ["x"]}), tmp_path / "other.parquet")
        hub.api.upload_file(path_or_fileobj=tmp_path / "other.parquet", path_in_repo=file, repo_id="lab/zoo", repo_type="dataset")
        there = Zoo(tmp_path / "there")
        with pytest.raises((FormatError, CatalogError), match=re.escape(said)):
            pull_zoo(there.catalog, "lab/zoo")
        assert not there.catalog.exists()

    @pytest.mark.parametrize("file", ["tables/tensors.parquet", "tables/model_tensors.parquet"])
    def test_a_table_that_is_gone(self, hub: Hub, zoo: Zoo, tmp_path: Path, file: str) -> None:
        push_zoo(zoo, "lab/zoo", private=True)
        hub.api.delete_file(file, "lab/zoo", repo_type="dataset")
        with pytest.raises(FormatError, match=r"names what no other table has|are not those that its id names"):
            pull_zoo(Zoo(tmp_path / "there").catalog, "lab/zoo")


class TestModel:
    def test_has_a_card_and_comes_back(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        pushed = push_model(zoo, "child", "lab/child", private=True)
        assert set(pushed.files) == {"model.safetensors", "README.md"}
        assert push_model(zoo, "child", "lab/child", private=True).commit is None
        card = Path(hub.api.hf_hub_download("lab/child", "README.md", local_dir=tmp_path / "got")).read_text()
        assert "Made from base." in card and '"kind": "merge"' in card and "not measured" in card
        there = Zoo(tmp_path / "there")
        id = pull_model(there, "lab/child")
        assert id == zoo.open("child").id and there.open(id).recipe == {"kind": "merge", "by": 1}

    def test_names_of_a_card_are_only_text(self, hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
        zoo.add(network(8), "<script>alert(1)</script>|`x`", recipe={"kind": "```</pre><img src=x>"})
        push_model(zoo, "<script>alert(1)</script>|`x`", "lab/bad", private=True)
        push_zoo(zoo, "lab/zoo", private=True)
        cards = [
            Path(hub.api.hf_hub_download(name, "README.md", repo_type=kind, local_dir=tmp_path / name)).read_text()
            for name, kind in (("lab/bad", "model"), ("lab/zoo", "dataset"))
        ]
        assert "<script>" not in cards[1] and "&lt;script&gt;" in cards[1]
        assert cards[0].count("```") == 2
