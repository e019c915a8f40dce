import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))
"""


@pytest.fixture
def network(sandbox: Path) -> str:
    (sandbox / "own_network.py").write_text(NETWORK)
    return "own_network:Net"


class TestSpec:
    def test_prints_groups_and_axes(self, run: Run) -> None:
        lines = run("spec", "base").stdout.splitlines()
        assert lines[0] == "1 neuron group, 2^15.3 permutations, 0 dimensions, not proved"
        assert [line.split() for line in lines[2:4]] == [["group", "size", "kind", "symmetry", "per"], ["fc1", "8", "permutable"]]
        assert [line.split() for line in lines[5:8]] == [["tensor", "axes"], ["fc1.weight", "fc1", "4"], ["fc1.bias", "fc1"]]

    def test_json_holds_everything_and_csv_a_row_a_tensor(self, run: Run) -> None:
        [read] = json.loads(run("spec", "base", "--format", "json").stdout)
        assert read["groups"] == {"fc1": {"size": 8}} and read["tensors"]["fc2.weight"] == "2 fc1'"
        assert run("spec", "base", "--format", "csv").stdout.splitlines()[:2] == ["tensor,axes,note", "fc1.weight,fc1 4,"]

    def test_yaml_can_be_edited_and_given_back_and_kept(self, run: Run, sandbox: Path) -> None:
        text = run("spec", "base", "--yaml").stdout
        (sandbox / "edited.yaml").write_text(text.replace("{size: 8}", "{size: 8, symmetry: sign}"))
        assert "sign" in run("spec", "base", "--spec", "edited.yaml").stdout
        assert "sign" not in run("spec", "base").stdout
        run("spec", "base", "--spec", "edited.yaml", "--keep")
        assert "sign" in run("spec", "base").stdout

    def test_activation_of_a_plain_chain(self, run: Run) -> None:
        assert "8 dimensions" in run("spec", "base.safetensors", "--activation", "relu").stdout

    def test_derived_from_the_module_and_proved(self, run: Run, network: str) -> None:
        derived = run("spec", "base.safetensors", "--module", network, "--input", "5x4").stdout
        assert "8 dimensions" in derived and "scale" in derived
        proved = run("spec", "base.safetensors", "--module", network, "--input", "5x4", "--prove", "--format", "json").stdout
        assert json.loads(proved)[0]["proved"] is True

    def test_notes_are_talk(self, run: Run, sandbox: Path) -> None:
        text = run("spec", "base", "--yaml").stdout
        (sandbox / "noted.yaml").write_text(text + "notes: [a head is missing]\n")
        result = run("spec", "base", "--spec", "noted.yaml")
        assert "note: a head is missing" in result.stderr and "missing" not in result.stdout

    @pytest.mark.parametrize(
        ("line", "code", "message"),
        [
            (["base", "--input", "3x"], 2, "is no shape"),
            (["base", "--prove"], 2, "give an example"),
            (["base", "--module", "a:b"], 2, "give an example"),
            (["base", "--module", "a:b", "--activation", "relu", "--input", "3"], 2, "three sources"),
            (["base", "--activation", "rellu"], 1, "did you mean 'relu'"),
            (["base", "--spec", "gone.yaml"], 1, "gone.yaml cannot be read as a spec"),
            (["checkpoints/tower"], 1, "no family that comes with the package fits"),
            (["bsae"], 1, "no model 'bsae' in this zoo"),
            (["hf:org/name"], 1, "the Hub does not answer"),
        ],
    )
    def test_mistakes(self, run: Run, line: list[str], code: int, message: str) -> None:
        result = run("spec", *line, code=code, columns=200)
        assert message in result.stderr and (code == 2 or result.stderr.count("\n") == 1)
