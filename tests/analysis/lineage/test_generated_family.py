"""Lineage of a small zoo of known history, which `tests.benchmarks.lineage_zoo` scores at full size."""

from pathlib import Path

import pytest

from tests.benchmarks.lineage_families import Truth, make
from tests.benchmarks.lineage_peers import spanning_tree
from tests.benchmarks.lineage_score import Judged, Predicted, judge
from tests.benchmarks.lineage_zoo import opened, ours
from weightspace.checkpoint import Checkpoint

Zoo = tuple[Truth, dict[str, Checkpoint]]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Forty perceptrons of several families, some of which start from one seed."""
    folder = tmp_path_factory.mktemp("families")
    truth = make(folder, 40, seed=5, architectures=("perceptron", "wide"))
    return truth, opened(folder, truth)


@pytest.fixture(scope="module")
def found(zoo: Zoo) -> Judged:
    truth, models = zoo
    return judge(truth, ours(models, truth))


def test_edges_families_and_directions_are_found(found: Judged) -> None:
    assert found.total.precision is not None and found.total.precision >= 0.85
    assert found.total.recall is not None and found.total.recall >= 0.85
    assert found.total.direction is not None and found.total.direction >= 0.85
    assert found.rand >= 0.9


def test_networks_of_one_seed_that_were_trained_apart_are_strangers(found: Judged) -> None:
    assert found.strangers > 0 and found.joined == 0


def test_a_spanning_tree_of_distances_does_worse(zoo: Zoo, found: Judged) -> None:
    truth, models = zoo
    families = len({member.families[0] for member in truth.members.values()})
    peer = judge(truth, spanning_tree({name: one.state_dict() for name, one in models.items()}, families))
    assert peer.rand < found.rand and (peer.total.recall or 0) < (found.total.recall or 0)


def test_the_truth_scores_perfectly_and_nothing_scores_nothing(zoo: Zoo) -> None:
    truth, _ = zoo
    own = judge(truth, [Predicted(edge.parent, edge.child, edge.is_directed, edge.weight) for edge in truth.edges])
    assert (own.total.precision, own.total.recall, own.total.direction, own.rand) == (1, 1, 1, 1)
    assert own.total.weight_error in (0, None)
    nothing = judge(truth, [])
    assert nothing.total.recall == 0 and nothing.total.precision is None and nothing.joined == 0


def test_a_wrong_edge_and_a_wrong_direction_are_counted(zoo: Zoo) -> None:
    truth, _ = zoo
    a, b = _roots(truth)
    directed = next(edge for edge in truth.edges if edge.is_directed and truth.members[edge.parent].near != truth.members[edge.child].near)
    judged = judge(truth, [Predicted(a, b), Predicted(directed.child, directed.parent)])
    assert judged.total.precision == 0.5 and judged.total.direction == 0


def _roots(truth: Truth) -> tuple[str, str]:
    first, second = [name for name, member in truth.members.items() if member.kind == "root"][:2]
    return first, second


def test_a_history_can_be_read_back(zoo: Zoo, tmp_path: Path) -> None:
    truth, _ = zoo
    truth.write(tmp_path / "truth.json")
    assert Truth.read(tmp_path / "truth.json") == truth
