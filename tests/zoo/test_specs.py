"""The spec chosen for an architecture: found by its names, kept in the catalog, replaced by what a person sets."""

from pathlib import Path

import pytest
import torch

from tests.families import TINY
from weightspace.errors import CatalogError, SymmetryError
from weightspace.formats.safetensors import save
from weightspace.inference import infer_spec
from weightspace.spec import SymmetrySpec
from weightspace.zoo import Zoo
from weightspace.zoo.catalog import Catalog


def kept(zoo: Zoo) -> list[str | None]:
    return [row["spec"] for row in zoo.sql("select spec from architectures order by architecture_id").to_pylist()]


def mlp(zoo: Zoo, name: str = "one", seed: int = 0) -> str:
    draw = torch.Generator().manual_seed(seed)
    return zoo.add({"fc1.weight": torch.randn(8, 3, generator=draw), "fc2.weight": torch.randn(2, 8, generator=draw)}, name=name)


def test_is_found_by_names_and_kept(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    mlp(zoo)
    assert kept(zoo) == [None]
    spec = zoo.spec("one")
    assert spec.sizes == {"fc1": 8} and SymmetrySpec.from_yaml(str(kept(zoo)[0])) == spec


def test_what_was_set_is_for_all_of_the_architecture(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    mlp(zoo, "one"), mlp(zoo, "two", seed=1)
    zoo.spec("one")
    chosen = infer_spec(zoo.open("one"), "tanh")
    zoo.set_spec("two", chosen)
    assert zoo.spec("one") == zoo.spec("two") == chosen and len(kept(zoo)) == 1


def test_another_number_of_heads_is_another_spec(tmp_path: Path) -> None:
    zoo, tiny = Zoo(tmp_path), TINY["bert"]()
    for heads in (2, 4):
        folder = tmp_path / f"heads{heads}"
        folder.mkdir()
        state = {
            name.removeprefix("model."): tensor + heads for name, tensor in tiny.module.state_dict().items() if tensor.is_floating_point()
        }
        save(state, folder / "model.safetensors", {})
        (folder / "config.json").write_text(f'{{"num_attention_heads": {heads}}}')
    zoo.ingest(tmp_path, jobs=1)
    found = [zoo.spec(str(tmp_path / f"heads{heads}" / "model.safetensors")).groups["layer.0.head"].size for heads in (2, 4, 2)]
    assert found == [2, 4, 2] and len(kept(zoo)) == 1
    # What a person sets is for all of them.
    zoo.set_spec(str(tmp_path / "heads4" / "model.safetensors"), zoo.spec(str(tmp_path / "heads2" / "model.safetensors")))
    assert zoo.spec(str(tmp_path / "heads4" / "model.safetensors")).groups["layer.0.head"].size == 2


def test_files_beside_the_catalog_have_a_spec_too(tmp_path: Path) -> None:
    path = save({"fc1.weight": torch.zeros(8, 3), "fc2.weight": torch.zeros(2, 8)}, tmp_path / "loose.safetensors", {})
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.spec(path).sizes == {"fc1": 8} and not zoo.catalog.exists()
    with pytest.raises(CatalogError, match="no model of this architecture is in the catalog; 'weightspace ingest' takes one in"):
        zoo.set_spec(path, zoo.spec(path))


def test_spec_of_another_architecture_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    mlp(zoo)
    with pytest.raises(SymmetryError, match="the spec has a row for tensor 'a', which is not there"):
        zoo.set_spec("one", SymmetrySpec.parse({"a": "h"}, sizes={"h": 2}))
    assert kept(zoo) == [None]


def test_zoo_that_cannot_be_written_to_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = Zoo(tmp_path)
    mlp(zoo)

    def refuse() -> None:
        raise CatalogError("the folder is read-only")

    monkeypatch.setattr(Catalog, "writing", lambda self: refuse())
    assert zoo.spec("one").sizes == {"fc1": 8} and kept(zoo) == [None]
