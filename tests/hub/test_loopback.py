"""The loopback hub serves the real client, and the cache which that client makes is a zoo's daily bread."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.numpy import save_file

from tests.hub.loopback_hub import loopback_hub
from tests.hub.loopback_requests import Settings
from weightspace.zoo import Zoo

# The client's own upload in parts hands its HTTP library bytes in a way that the library means to drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[HfApi]:
    """The real client, talking to a hub of its own that takes large files in parts of 64 kB."""
    with loopback_hub(tmp_path / "hub", Settings(multipart=1 << 16)) as url:
        yield HfApi(endpoint=url, token="any")


def model_folder(folder: Path, seed: int, width: int = 8) -> Path:
    """A small model as people upload it: weights, configuration and card."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(seed).normal(size=(width, width)).astype(np.float32)
    save_file({"fc.weight": values, "fc.bias": values[0].copy()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "toy", "architectures": ["Toy"]}')
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [toy]\n---\n# A toy\n")
    return folder


def uploaded(api: HfApi, name: str, folder: Path) -> None:
    api.create_repo(name)
    api.upload_folder(repo_id=name, folder_path=folder)


def test_a_file_uploaded_is_the_file_downloaded(api: HfApi, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", seed=0, width=200)  # 160 kB: three parts
    uploaded(api, "lab/toy", folder)
    assert set(api.list_repo_files("lab/toy")) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    for name in ("model.safetensors", "README.md"):
        got = api.hf_hub_download("lab/toy", name, local_dir=tmp_path / "got")
        assert Path(got).read_bytes() == (folder / name).read_bytes()


def test_an_unchanged_upload_makes_no_commit(api: HfApi, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", seed=0)
    uploaded(api, "lab/toy", folder)
    before = api.list_repo_commits("lab/toy")
    api.upload_folder(repo_id="lab/toy", folder_path=folder)
    assert [one.commit_id for one in api.list_repo_commits("lab/toy")] == [one.commit_id for one in before]


def test_headers_are_read_by_range(api: HfApi, tmp_path: Path) -> None:
    uploaded(api, "lab/toy", model_folder(tmp_path / "model", seed=0, width=200))
    read = api.get_safetensors_metadata("lab/toy")
    assert read.files_metadata["model.safetensors"].tensors["fc.weight"].shape == [200, 200]


def test_models_are_found_by_their_card(api: HfApi, tmp_path: Path) -> None:
    uploaded(api, "lab/toy", model_folder(tmp_path / "model", seed=0))
    api.create_repo("lab/empty")
    assert [one.id for one in api.list_models(filter="toy")] == ["lab/toy"]
    info = api.model_info("lab/toy")
    assert info.card_data is not None and info.card_data["license"] == "mit"


def test_revisions_are_kept_apart(api: HfApi, tmp_path: Path) -> None:
    uploaded(api, "lab/toy", model_folder(tmp_path / "one", seed=1))
    api.create_tag("lab/toy", tag="v1")
    api.create_branch("lab/toy", branch="next")
    api.upload_folder(repo_id="lab/toy", folder_path=model_folder(tmp_path / "two", seed=2))
    old, new = (
        Path(api.hf_hub_download("lab/toy", "model.safetensors", revision=revision, cache_dir=tmp_path / "cache")).read_bytes()
        for revision in ("v1", "main")
    )
    assert old == (tmp_path / "one" / "model.safetensors").read_bytes()
    assert new == (tmp_path / "two" / "model.safetensors").read_bytes()
    assert {one.name for one in api.list_repo_refs("lab/toy").branches} == {"main", "next"}


def test_refusals_are_the_clients_own_errors(api: HfApi, tmp_path: Path) -> None:
    uploaded(api, "lab/toy", model_folder(tmp_path / "model", seed=0))
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("lab/absent")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("lab/toy", revision="absent")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("lab/toy", "absent.bin", cache_dir=tmp_path / "cache")
    with pytest.raises(HfHubHTTPError, match="already created"):
        api.create_repo("lab/toy")
    head = api.model_info("lab/toy").sha
    api.upload_file(path_or_fileobj=b"later", path_in_repo="a.txt", repo_id="lab/toy")
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"stale", path_in_repo="a.txt", repo_id="lab/toy", parent_commit=head)


def test_private_models_need_the_token(tmp_path: Path) -> None:
    with loopback_hub(tmp_path / "hub", Settings(token="right")) as url:
        HfApi(endpoint=url, token="right").create_repo("lab/secret", private=True)
        assert HfApi(endpoint=url, token="right").model_info("lab/secret").private
        with pytest.raises(RepositoryNotFoundError):
            HfApi(endpoint=url, token=False).model_info("lab/secret")
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            HfApi(endpoint=url, token="wrong").model_info("lab/secret")


def test_the_clients_cache_is_ingested_with_each_model_once_under_its_hub_name(api: HfApi, tmp_path: Path) -> None:
    home = tmp_path / "home"  # what HF_HOME would name
    for seed, name in enumerate(("lab/toy", "lab/other")):
        uploaded(api, name, model_folder(tmp_path / name, seed))
        snapshot_download(name, endpoint=api.endpoint, token="any", cache_dir=home / "hub")
    [weights] = (home / "hub" / "models--lab--toy" / "snapshots").glob("*/model.safetensors")
    assert weights.is_symlink() and "blobs" in os.fspath(weights.resolve()), "the client no longer links into blobs"
    zoo = Zoo(tmp_path / "zoo")
    zoo.ingest(home)
    rows = zoo.sql(
        "select name, licence, (select count(*) from files where files.model_id = models.model_id) as files from models order by name"
    )
    assert rows.to_pylist() == [
        {"name": "lab/other", "licence": "MIT", "files": 1},
        {"name": "lab/toy", "licence": "MIT", "files": 1},
    ]


def test_two_revisions_in_the_cache_are_two_models(api: HfApi, tmp_path: Path) -> None:
    uploaded(api, "lab/toy", model_folder(tmp_path / "one", seed=1))
    snapshot_download("lab/toy", endpoint=api.endpoint, token="any", cache_dir=tmp_path / "cache")
    api.upload_folder(repo_id="lab/toy", folder_path=model_folder(tmp_path / "two", seed=2))
    snapshot_download("lab/toy", endpoint=api.endpoint, token="any", cache_dir=tmp_path / "cache")
    zoo = Zoo(tmp_path / "zoo")
    zoo.ingest(tmp_path / "cache")
    names = [row["name"] for row in zoo.sql("select name from models order by name").to_pylist()]
    assert len(names) == 2 and all(name.startswith("lab/toy") for name in names)
