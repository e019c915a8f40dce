"""The command `similar`: by embeddings, by weights, and as a picture."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Run, mlp
from weightspace.zoo import Zoo


@pytest.fixture
def embedded(sandbox: Path) -> Zoo:
    """Three networks of one architecture with embeddings, and `tuned`, which has none."""
    for at in range(3):
        save_file(mlp(at + 5), sandbox / f"net{at}.safetensors")
    zoo = Zoo(sandbox)
    zoo.ingest(sandbox, jobs=1)
    for at in range(3):
        zoo.record(f"net{at}", metrics={"val": {"accuracy": at / 4}})
    zoo.record_embeddings("a" * 64, "1", {f"net{at}": [1.0, float(at), 0.5] for at in range(3)} | {"base": [-1.0, 0.0, 0.0]})
    return zoo


@pytest.mark.usefixtures("embedded")
class TestByEmbedding:
    def test_lists_neighbours_with_the_metrics_they_have(self, run: Run) -> None:
        header, first, *_ = run("similar", "net2", "--limit", "2").stdout.splitlines()
        assert header.split() == ["cosine", "model", "val_accuracy"] and first.split()[1:] == ["net1", "0.25"]
        rows = json.loads(run("similar", "net2", "--where", "val_accuracy < 0.2", "--format", "json").stdout)
        assert [(row["name"], row["val_accuracy"], row["test_accuracy"]) for row in rows] == [("net0", 0.0, None)]

    @pytest.mark.parametrize("metanet", ["a" * 64, "aaaa"])
    def test_a_metanet_is_named_by_its_id_or_its_first_digits(self, run: Run, metanet: str) -> None:
        assert "net1" in run("similar", "net2", "--metanet", metanet).stdout

    def test_a_metanet_is_named_as_the_catalog_does(self, run: Run, embedded: Zoo) -> None:
        embedded.record_embeddings(embedded.page("tuned").model["id"], "1", {"net0": [1.0], "net1": [2.0]})
        rows = json.loads(run("similar", "net0", "--metanet", "tuned", "--format", "json").stdout)
        assert [row["name"] for row in rows] == ["net1"]
        said = run("similar", "net0", code=1).stderr
        assert "embeddings of 2 metanets (aaaaaaaaaaaa, " in said and "name one with --metanet" in said

    def test_draws_a_map_coloured_by_a_column(self, run: Run) -> None:
        for file, column in (("numbers.png", "val_accuracy"), ("classes.svg", "kind"), ("plain.pdf", None)):
            result = run("similar", "net0", "--plot", file, *(["--colour", column] if column else []))
            assert f"drew {file}" in result.stderr and Path(file).stat().st_size > 1000

    def test_mistakes_are_one_line(self, run: Run) -> None:
        assert (
            "model 'tuned' has no embedding of 'aaaaaaaaaaaa', which 4 others have; run 'weightspace embed'"
            in run("similar", "tuned", code=1).stderr
        )
        assert "no model 'nte0' in this zoo" in run("similar", "nte0", code=1).stderr
        refused = run("similar", "net0", "--plot", "x.png", "--colour", "acuracy", code=1)
        assert "no column named 'acuracy'" in refused.stderr and refused.stdout == ""
        assert "no metanet with embeddings named 'bbbb'" in run("similar", "net0", "--metanet", "bbbb", code=1).stderr
        assert "leave --metanet and --plot out" in run("similar", "net0", "--by", "weights", "--plot", "x.png", code=2).stderr


def test_without_embeddings_the_next_step_is_named(run: Run) -> None:
    assert "this zoo has no embeddings yet; run 'weightspace embed' to make some" in run("similar", "base", code=1).stderr


@pytest.mark.usefixtures("embedded")
class TestByWeights:
    def test_compares_networks_of_the_same_architecture(self, run: Run) -> None:
        near = mlp(5) | {"fc2.bias": mlp(6)["fc2.bias"]}
        save_file(near, "near.safetensors")
        run("ingest", "near.safetensors")
        rows = json.loads(run("similar", "net0", "--by", "weights", "--limit", "2", "--format", "json").stdout)
        assert rows[0]["name"] == "near" and 0.9 < rows[0]["similarity"] < 1 and len(rows) == 2

    def test_what_cannot_be_read_is_left_out(self, run: Run) -> None:
        Path("net1.safetensors").unlink()
        result = run("similar", "net0", "--by", "weights", "--where", "name like 'net%'")
        assert "left out net1" in result.stderr and "net2" in result.stdout

    def test_nothing_of_its_architecture_is_said(self, run: Run) -> None:
        result = run("similar", "tuned", "--by", "weights")
        assert "no other model of this architecture" in result.stderr
