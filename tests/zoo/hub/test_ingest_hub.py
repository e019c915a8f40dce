"""Repositories are catalogued from their headers, once a commit, and open like any model."""

import numpy as np
import pytest
import torch

import weightspace as ws
from tests.hub.loopback_store import HubError
from tests.remote.hubs import Hub
from tests.remote.test_remote import hasty, header_size
from weightspace.errors import FormatError
from weightspace.zoo import Zoo
from weightspace.zoo.hub import ingest_hub, search

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")
__all__ = ["hasty"]


@pytest.fixture
def zoo(tmp_path: object) -> Zoo:
    return Zoo(f"{tmp_path}/zoo")


def test_only_headers_are_read(hub: Hub, zoo: Zoo) -> None:
    folders = [hub.model(f"lab/m{at}", at, width=100) for at in range(3)]
    hub.settings.sent.clear()
    report = ingest_hub(zoo.catalog, search(author="lab"))
    assert (report.catalogued, report.num_files, report.refused) == (3, 3, [])
    headers = sum(header_size(folder / "model.safetensors") for folder in folders)
    assert hub.bytes_of("model.safetensors") == report.bytes_read == headers


def test_a_second_run_reads_what_is_new(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/a", 0)
    hub.model("lab/b", 1)
    ingest_hub(zoo.catalog, ["lab/a", "lab/b"])
    hub.model("lab/b", 2)
    report = ingest_hub(zoo.catalog, ["lab/a", "hf:lab/b"])
    assert (report.catalogued, report.unchanged) == (1, 1)
    paths = zoo.sql("select path from files")["path"].to_pylist()
    assert len(paths) == 2 and all(path.startswith("hf:lab/") and "@" in path for path in paths)


def test_what_the_card_says_is_catalogued(hub: Hub, zoo: Zoo) -> None:
    hub.model(
        "lab/a", card="license: apache-2.0\nbase_model: lab/base\ndatasets: [mnist]\nlibrary_name: toy\npipeline_tag: image-classification"
    )
    ingest_hub(zoo.catalog, ["lab/a"])
    [row] = zoo.models().to_pylist()
    assert row["name"] == "lab/a" and row["num_params"] == 72 and row["is_finite"] is None and row["family"] == "Toy"
    assert (row["licence"], row["base_model"], row["datasets"], row["library"]) == ("Apache-2.0", "lab/base", ["mnist"], "toy")
    assert zoo.sql("select key from tags")["key"].to_pylist() == ["revision"]


def test_a_hub_that_is_down_makes_nothing_forgotten(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/a")
    ingest_hub(zoo.catalog, ["lab/a"])
    before = zoo.sql("select * from files").to_pylist()
    object.__setattr__(hub.settings, "fault", lambda method, path: HubError(401, "who are you"))
    assert [one.reason for one in ingest_hub(zoo.catalog, ["lab/a"]).refused] == ["missing"]
    object.__setattr__(hub.settings, "fault", lambda method, path: None)
    assert zoo.sql("select * from files").to_pylist() == before and zoo.open("lab/a")["fc.bias"].shape == (8,)


def test_what_a_card_says_that_is_no_text_is_not_known(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/a", card="library_name: [1]\npipeline_tag: {a: b}\nlanguage: 5\ndatasets: {x: 1}")
    hub.model("lab/b", 1)
    assert ingest_hub(zoo.catalog, ["lab/a", "lab/b"]).catalogued == 2
    assert [(row["library"], row["task"]) for row in zoo.models().to_pylist()] == [(None, None)] * 2


def test_a_catalogued_model_opens_at_its_commit(hub: Hub, zoo: Zoo) -> None:
    folder = hub.model("lab/a", 0)
    ingest_hub(zoo.catalog, ["lab/a"])
    hub.model("lab/a", 1)
    assert torch.equal(zoo.open("lab/a")["fc.weight"], ws.open(folder / "model.safetensors")["fc.weight"])


def test_one_file_in_two_repositories_is_one_content(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/a", 7)
    hub.model("lab/b", 7)
    ingest_hub(zoo.catalog, ["lab/a", "lab/b"])
    assert zoo.sql("select count(*) as n from models")["n"].to_pylist() == [1]
    assert zoo.duplicates().num_rows == 1


def test_what_cannot_be_read_is_quarantined_and_the_rest_goes_on(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/good")
    hub.api.create_repo("lab/empty")
    report = ingest_hub(zoo.catalog, ["lab/empty", "no such address!", "lab/absent", "lab/good"])
    assert report.catalogued == 1 and [one.reason for one in report.refused] == ["unsupported", "unreadable", "missing"]
    assert zoo.quarantined().num_rows == 3


def test_a_closed_repository_is_asked_once(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/closed")
    asked = []

    def fault(method: str, path: str) -> HubError | None:
        asked.append(path)
        return HubError(403, "no", "GatedRepo")

    object.__setattr__(hub.settings, "fault", fault)
    report = ingest_hub(zoo.catalog, ["lab/closed"])
    assert "access is refused" in report.refused[0].detail and len(asked) == 1


def test_a_search_that_fails_is_said(hub: Hub) -> None:
    object.__setattr__(hub.settings, "fault", lambda method, path: HubError(403, "no"))
    with pytest.raises(FormatError, match="access is refused"):
        list(search(author="lab"))


def test_a_search_with_a_login_that_the_hub_does_not_know_is_not_about_names(hub: Hub) -> None:
    object.__setattr__(hub.settings, "fault", lambda method, path: HubError(401, "Invalid credentials"))
    with pytest.raises(FormatError, match="hf:lab: the Hub does not know this login; log in with"):
        list(search(author="lab"))


@pytest.mark.parametrize("header", [b"\xff" * 8 + b"{}", (1 << 40).to_bytes(8, "little") + b"{}", b"\x02\0\0\0\0\0\0\0[]", b""])
def test_a_hostile_header_costs_its_repository_alone(hub: Hub, zoo: Zoo, header: bytes) -> None:
    hub.model("lab/good")
    hub.api.create_repo("lab/bad")
    hub.api.upload_file(path_or_fileobj=header + b"\0" * 16 if header else b"", path_in_repo="model.safetensors", repo_id="lab/bad")
    report = ingest_hub(zoo.catalog, ["lab/bad", "lab/good"])
    assert report.catalogued == 1 and len(report.refused) == 1


def test_shards_count_once_each(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/big", files={f"model-0000{at}-of-00002.safetensors": {f"w{at}": np.full(3, at, np.float32)} for at in (1, 2)})
    assert ingest_hub(zoo.catalog, ["lab/big"]).num_files == 2
    assert zoo.files()["num_files"].to_pylist() == [2]
