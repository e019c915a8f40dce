"""What cataloguing asks of a hub: one question a repository, two ranges a shard, nothing twice; and what it makes of bad answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hub.loopback_store import HubError
from tests.remote.hubs import Hub
from tests.remote.test_remote import hasty, header_size
from weightspace.zoo import Zoo
from weightspace.zoo.hub import ingest_hub, search

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")
__all__ = ["hasty"]


@pytest.fixture
def zoo(tmp_path: object) -> Zoo:
    return Zoo(f"{tmp_path}/zoo")


def watched(hub: Hub, answer: Any = None) -> list[tuple[str, str]]:
    """Every request from now on; `answer` may spoil some."""
    asked: list[tuple[str, str]] = []

    def fault(method: str, path: str) -> Any:
        asked.append((method, path))
        return answer(method, path) if answer is not None else None

    object.__setattr__(hub.settings, "fault", fault)
    return asked


def shards(count: int) -> dict[str, dict[str, Any]]:
    return {
        f"model-{at + 1:05d}-of-{count:05d}.safetensors": {f"w{at}.{k}": np.full(500, k, np.float32) for k in range(20)}
        for at in range(count)
    }


def test_each_repository_is_asked_what_it_must_be_asked(hub: Hub, zoo: Zoo) -> None:
    folders = {hub.model("lab/one", 0): 1, hub.model("lab/three", files=shards(3)): 3}
    asked = watched(hub)
    report = ingest_hub(zoo.catalog, ["lab/one", "lab/three"])
    assert report.catalogued == 2 and {method for method, _ in asked} == {"GET"}
    assert len([path for _, path in asked if path.startswith("/api/")]) == 2
    assert len([path for _, path in asked if "/resolve/" in path]) == 2 * 4 and len(asked) == 10
    headers = sum(header_size(path) for folder in folders for path in folder.glob("*.safetensors"))
    assert sum(size for _, size in hub.settings.sent) == headers == report.bytes_read
    for method, again in (("names", ["lab/one", "lab/three"]), ("a search", search(author="lab", pinned=True))):
        del asked[:]
        assert ingest_hub(zoo.catalog, again).unchanged == 2, method
        assert len(asked) == (2 if method == "names" else 1)


def test_a_refusal_is_asked_for_once_and_a_repository_that_comes_back_is_out_of_quarantine(hub: Hub, zoo: Zoo) -> None:
    hub.api.create_repo("lab/empty")
    hub.model("lab/closed")
    asked = watched(hub, lambda method, path: HubError(401, "no", "RepoNotFound") if "closed" in path else None)
    report = ingest_hub(zoo.catalog, ["lab/empty", "lab/closed"])
    assert report.is_all_refused and [one.reason for one in report.refused] == ["unsupported", "missing"]
    del asked[:]
    assert [one.reason for one in ingest_hub(zoo.catalog, ["lab/empty"]).refused] == ["unsupported"] and len(asked) == 1
    watched(hub)
    assert ingest_hub(zoo.catalog, ["lab/closed"]).catalogued == 1 and zoo.quarantined().num_rows == 1
    hub.model("lab/empty", 3)
    assert ingest_hub(zoo.catalog, ["lab/empty"]).catalogued == 1 and zoo.quarantined().num_rows == 0


def test_one_that_was_known_and_cannot_be_seen_any_more_is_out_of_quarantine_when_it_can(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/a")
    ingest_hub(zoo.catalog, ["lab/a"])
    watched(hub, lambda method, path: HubError(404, "gone", "RepoNotFound"))
    assert ingest_hub(zoo.catalog, ["lab/a"]).refused and zoo.quarantined().num_rows == 1 and zoo.files().num_rows == 1
    watched(hub)
    assert ingest_hub(zoo.catalog, ["lab/a"]).unchanged == 1 and zoo.quarantined().num_rows == 0


def test_a_commit_that_goes_while_it_is_looked_at_is_looked_for_again(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/a", 0)
    before = hub.api.model_info("lab/a").sha
    hub.model("lab/a", 1)
    hub.settings.sent.clear()
    gone = [1]
    watched(hub, lambda method, path: HubError(404, "gone", "RevisionNotFound") if "/resolve/" in path and gone and gone.pop() else None)
    assert ingest_hub(zoo.catalog, ["lab/a"]).catalogued == 1
    assert str(before) not in zoo.files()["path"].to_pylist()[0]


def test_a_gated_repository_says_where_to_ask(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/gated")
    watched(hub, lambda method, path: HubError(403, "ask first", "GatedRepo"))
    [refusal] = ingest_hub(zoo.catalog, ["lab/gated"]).refused
    assert refusal.advice == f"ask for it at {hub.url}/lab/gated, then run `hf auth login`"


def test_digests_of_all_files_are_kept(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/one", 0)
    hub.model("lab/three", files=shards(3))
    ingest_hub(zoo.catalog, ["lab/one", "lab/three"])
    said = {row["path"].split("@")[0]: json.loads(row["metadata"]) for row in zoo.sql("select path, metadata from files").to_pylist()}
    assert [len(said[f"hf:lab/{name}"]["sha256"]) for name in ("one", "three")] == [1, 3]
    assert all(len(digest) == 64 for digest in said["hf:lab/three"]["sha256"].values())
    assert said["hf:lab/one"]["endpoint"] == hub.url


def test_branches_tags_commits_and_kinds_of_repositories(hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
    folder = hub.model("lab/a", 0)
    hub.api.create_tag("lab/a", tag="v1.0")
    hub.api.create_branch("lab/a", branch="try/this")
    first = hub.api.model_info("lab/a").sha
    hub.model("lab/a", 1)
    hub.api.create_repo("lab/weights", repo_type="dataset")
    hub.api.upload_file(
        path_or_fileobj=folder / "model.safetensors", path_in_repo="nets/a@1 – ü.safetensors", repo_id="lab/weights", repo_type="dataset"
    )
    for address in ("lab/a@v1.0", "hf:lab/a@try%2Fthis", f"lab/a@{first}", "hf:lab/a@v1.0/model.safetensors"):
        one = Zoo(tmp_path / address.replace("/", "-"))
        assert ingest_hub(one.catalog, [address]).refused == []
        assert f"@{first}" in one.files()["path"].to_pylist()[0]
    assert ingest_hub(zoo.catalog, ["datasets/lab/weights", "lab/a"]).catalogued == 2
    assert zoo.open("datasets/lab/weights")["fc.bias"].shape == (8,)


def test_memory_does_not_grow_with_the_number_of_repositories(hub: Hub, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    from weightspace.zoo.hub import ingesting

    hub.model("lab/a")
    monkeypatch.setattr(ingesting, "FLUSH_REPOSITORIES", 5)
    taken: list[int] = []
    waiting: list[int] = []
    honest = ingesting._Batch.add

    def add(self: Any, looked: Any) -> None:
        honest(self, looked)
        waiting.append(len(self.pending) + len(taken) - len(waiting) - 1)

    monkeypatch.setattr(ingesting._Batch, "add", add)

    def names() -> Any:
        for at in range(100):
            taken.append(at)
            yield f"lab/absent-{at}" if at else "lab/a"

    report = ingest_hub(zoo.catalog, names())
    assert report.catalogued == 1 and len(report.refused) == 99 and max(waiting) <= 5 + 2 * ingesting.READERS
