"""What notebooks show: well-formed, escaped, bounded, and of a checkpoint its header alone."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.pictures import NAMES
from weightspace import html
from weightspace.analysis.connectivity import barrier
from weightspace.analysis.generation import Card
from weightspace.analysis.generation.card.rows import Row
from weightspace.analysis.intruders import intruder_dimensions
from weightspace.analysis.lineage import Entry, lineage
from weightspace.analysis.matching import match
from weightspace.analysis.merging import Recipe, Source
from weightspace.analysis.merging.planner import plan
from weightspace.analysis.spectra import spectra
from weightspace.checkpoint import Checkpoint
from weightspace.spec import SymmetrySpec
from weightspace.zoo.zoo import Added

_OURS = {"div", "p", "b", "table", "tr", "th", "td"}
SPEC = SymmetrySpec.parse({"fc1.weight": "h 2", "fc2.weight": "1 h'"}, sizes={"h": 3})
WEIGHTS = {"fc1.weight": torch.eye(3, 2), "fc2.weight": torch.ones(1, 3)}


class _Parser(HTMLParser):
    """Sees that tags are ours and nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _OURS and {name for name, _ in attrs} <= {"style"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def shown(thing: object) -> list[str]:
    text = thing if isinstance(thing, str) else thing._repr_html_()  # type: ignore[attr-defined]
    assert len(text) < 60_000
    return _Parser(text).words


def tensors(count: int = 2) -> Checkpoint:
    chance = torch.Generator().manual_seed(0)
    return Checkpoint.of({f"layer.{at}.weight": torch.randn(12, 10, generator=chance) for at in range(count)})


def moved(base: Checkpoint) -> Checkpoint:
    chance = torch.Generator().manual_seed(1)
    return Checkpoint.of(
        {name: base[name] + torch.outer(torch.randn(12, generator=chance), torch.randn(10, generator=chance)) for name in base}
    )


def test_a_checkpoint_shows_its_header_and_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws.save(tensors(200), tmp_path / "m.safetensors")
    opened = ws.open(tmp_path / "m.safetensors")
    monkeypatch.setattr(Checkpoint, "raw", lambda *_: pytest.fail("weights were read"))
    words = shown(opened)
    assert {"layer.0.weight", "layer.1.weight", "12 × 10", "F32", "… 180 more rows", "24,000"} <= set(words)
    assert "layer.99.weight" not in words  # files are in the order of names


def test_hostile_names_are_text(tmp_path: Path) -> None:
    words = shown(Checkpoint.of({name: torch.zeros(2) for name in NAMES}))
    assert "<script>alert(1)</script>" in words and "\\x1b[31mred\\nline" in words
    assert max(map(len, words)) <= 400


def test_a_tied_tensor_says_to_which() -> None:
    weight = torch.zeros(2, 2)
    assert shown(Checkpoint.of({"a": weight, "b": weight})).count("tied to") == 1
    assert "tied to" not in shown(tensors())


@pytest.mark.parametrize("count", [0, 1])
def test_small_checkpoints(count: int) -> None:
    assert str(count) in shown(tensors(count))


def test_a_match_and_a_spec() -> None:
    found = match(WEIGHTS, {"fc1.weight": torch.eye(3, 2).flip(0), "fc2.weight": torch.ones(1, 3)}, SPEC)
    assert {"Match by weight", "100.0%", "Symmetry", "h"} <= set(shown(found))
    assert {"group", "permutable", "1 h'"} <= set(shown(SPEC))
    assert "\n" not in repr(found) + repr(found.element)


def test_a_zoo(tmp_path: Path) -> None:
    zoo = ws.Zoo(tmp_path)
    assert any("does not exist yet" in word for word in shown(zoo))
    zoo.add_many(
        [Added({"w": torch.full((2, 2 + at % 2), float(at))}, f"<i>{at}", metrics={"test": {"accuracy": at / 30}}) for at in range(30)]
    )
    words = shown(zoo)
    assert {"30", "150", "<i>29", "test_accuracy", "0.9667", "… 10 more rows"} <= set(words) and "<i>9" not in words


def test_results_of_the_analysis() -> None:
    a, b = tensors(), moved(tensors())
    for found, words in (
        (spectra(a), {"Spectra of 2 layers", "layer.0.weight", "alpha"}),
        (intruder_dimensions(a, b), {"layer.1.weight", "guarded"}),
        (lineage([Entry("base", a), Entry("tuned", b)]), {"base", "tuned", "probability"}),
        (barrier(a, b, lambda state: float(sum(one.square().sum() for one in state.values())), points=3), {"loss", "barrier", "0.5"}),
    ):
        assert words <= set(shown(found))
        assert "\n" not in repr(found) and len(repr(found)) < 500


def test_rows_are_bounded_in_every_direction() -> None:
    wide = [{f"column {at}": "x" * 1_000 for at in range(100)}] * 1_000
    words = shown(html.page("t" * 1_000, html.rows(wide)))
    assert "… 980 more rows; … 88 more columns" in words
    assert shown(html.rows([])) == ["nothing"]
    assert shown(html.rows([{"a": None, "b": True, "c": 0.123456, "d": float("nan")}])) == ["a", "b", "c", "d", "yes", "0.1235", "nan"]


def test_a_plan_of_a_merge_says_what_is_done_to_which_tensor() -> None:
    recipe = {"merge_method": "linear", "models": ["a", "b"], "parameters": {"weight": 1}}
    models = {Source("a"): tensors(30), Source("b"): tensors(30)}
    made = plan(Recipe.read(recipe), models)
    assert repr(made) == "<Plan of 30 tensors by linear from 2 models, 14,400 bytes>"
    words = shown(made)
    assert words[0] == repr(made)[1:-1] and {"layer.0.weight", "12 × 10", "F32", "linear", "… 10 more rows"} <= set(words)
    assert words.index("layer.0.weight") < words.index("layer.1.weight") and "problem" not in words


def test_a_plan_that_cannot_be_carried_out_says_why() -> None:
    hostile = NAMES[0]
    one, other = Checkpoint.of({hostile: torch.zeros(2)}), Checkpoint.of({hostile: torch.zeros(3)})
    made = plan(
        Recipe.read({"merge_method": "linear", "models": ["a", "b"], "parameters": {"weight": 1}}), {Source("a"): one, Source("b"): other}
    )
    assert ", 1 problems>" in repr(made)
    words = shown(made)
    assert "problem" in words and any(hostile in word and "shape" in word for word in words)


def test_a_card_shows_its_verdict_and_a_row_a_method() -> None:
    rows = (Row("generator", networks=3, score=0.5), Row("zoo", networks=9, score=0.625), Row("pruned", missing=NAMES[0]))
    card = Card("gaussian", {}, "accuracy", 1834, 3668, None, rows, (), (), "The zoo wins.")
    assert repr(card) == "<Card of gaussian: The zoo wins.>"
    words = shown(card)
    assert words[0] == "gaussian: The zoo wins." and {"generator", "zoo", "0.625", NAMES[0]} <= set(words)
    assert "iou" not in words  # what no row has
    assert shown(replace(card, rows=(), verdict="\x1b[31m<b>"))[0] == "gaussian: \\x1b[31m<b>"
