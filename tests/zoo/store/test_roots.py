"""A store elsewhere does all that a store here does, on two file systems; nothing lies there under its name before it is whole."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from tests.zoo.store.files import family, held, network, tuned
from weightspace.errors import CatalogError, FormatError
from weightspace.remote import buckets
from weightspace.zoo import Zoo
from weightspace.zoo.store.roots import LocalRoot, RemoteRoot, root_of


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 of moto's with a bucket in it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, ip_address="127.0.0.1")
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{key}", value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3").clear_instance_cache()  # one of another test would ask another server
        fsspec.filesystem("s3").mkdir("zoo-store")
        yield "s3://zoo-store"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WEIGHTSPACE_CACHE", str(tmp_path / "cache"))
    place = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    return f"{place}/{uuid.uuid4().hex}/store"


@pytest.fixture
def zoo(tmp_path: Path, base: str) -> Zoo:
    made = Zoo(tmp_path / "zoo")
    made.create(store_at=base)
    return made


def there(zoo: Zoo) -> list[str]:
    return sorted(entry.key for entry in root_of(zoo.catalog.home).entries())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_models_are_kept_compacted_restored_and_collected_elsewhere(zoo: Zoo, base: str) -> None:
    ids = family(zoo, children=2)
    assert held(zoo) == {}
    assert there(zoo) == sorted(["owner", *(f"{one[:2]}/{one}.safetensors" for one in ids.values())])
    assert all(path.startswith(f"{base}/") for path in zoo.files()["path"].to_pylist())
    assert zoo.open("base0").id == ids["base0"] and torch.equal(zoo.open("base0")["embed"], network(0)["embed"])
    report = zoo.compact()
    assert report.changed == 3 and report.refused == [] and report.after < 0.7 * report.before
    assert there(zoo) == sorted(["owner", *(f"{one[:2]}/{one}.compact" for one in ids.values())])
    assert held(zoo) == {}
    for name, one in ids.items():
        assert (opened := zoo.open(name)).id == one and opened.format == "compact"
    assert zoo.restore_store("name = 'base0-1'").changed == 1 and zoo.open("base0-1").id == ids["base0-1"]
    assert zoo.forget(["base0-1"]) == 1 and zoo.collect_garbage() == []  # too young
    [garbage] = zoo.collect_garbage(spare=-60.0)
    assert garbage.path == f"{base}/{ids['base0-1'][:2]}/{ids['base0-1']}.safetensors" and len(there(zoo)) == 3
    zoo.forget(["base0"])  # still the base of another
    assert zoo.collect_garbage(spare=-60.0) == [] and zoo.open("base0-0").id == ids["base0-0"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_store_belongs_to_one_zoo_and_a_zoo_has_one_store(zoo: Zoo, base: str, tmp_path: Path) -> None:
    zoo.create(store_at=base)  # the same again is nothing new
    with pytest.raises(CatalogError, match="is the store of another zoo; choose another prefix"):
        Zoo(tmp_path / "other").create(store_at=base)
    with pytest.raises(CatalogError, match=f"keeps its store in {base} already; make a new zoo"):
        zoo.create(store_at=f"{base}-2")
    local = Zoo(tmp_path / "local")
    local.add(network(0), "one")
    with pytest.raises(CatalogError, match="keeps its store in its own folder already"):
        local.create(store_at=f"{base}-3")
    assert isinstance(root_of(local.catalog.home), LocalRoot) and isinstance(root_of(zoo.catalog.home), RemoteRoot)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_arrives_in_another_size_is_taken_away_again(zoo: Zoo, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = root_of(zoo.catalog.home)
    assert isinstance(root, RemoteRoot) and root.base == base
    system = root._system
    real = system.put_file

    def cut(local: str, remote: str, **keywords: Any) -> None:
        short = Path(local).with_suffix(".short")
        short.write_bytes(Path(local).read_bytes()[:100])
        real(str(short), remote, **keywords)
        short.unlink()

    monkeypatch.setattr(system, "put_file", cut)
    with pytest.raises(CatalogError, match="is not what was uploaded; try again"):
        zoo.add(network(1), "one")
    monkeypatch.undo()
    assert zoo.models().num_rows == 0 and held(zoo) == {}


def test_a_store_that_cannot_be_reached_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises((CatalogError, FormatError), match="nosuch://place/store") as raised:
        Zoo(tmp_path).create(store_at="nosuch://place/store")
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tensor_of_a_compact_model_elsewhere_is_read_by_range(zoo: Zoo, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    big = network(5, width=512)
    zoo.add(big, "big")
    zoo.add(tuned(big, 6), "tuned", parents=["big"])
    zoo.compact()
    asked: list[int] = []
    real = buckets.fetch

    def counted(*arguments: Any) -> Iterator[bytes]:
        asked.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(buckets, "fetch", counted)
    opened = zoo.open("tuned")
    bias = opened["up.bias"]
    assert bias.shape == (1024,) and sum(asked) < 60_000 < sum(one.nbytes for one in big.values())
