"""The page of a card stands alone, shows every row, and takes nothing that it is told for markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.pictures import expect_good
from weightspace.analysis.generation import Card, page
from weightspace.analysis.generation.card.comparison import Comparison
from weightspace.analysis.generation.card.rows import Row
from weightspace.errors import GenerationError

VOID = {"meta", "br", "img", "input", "link"}
NOISE = Row("noise", "sigma", 0.1, 3, score=0.55, iou=0.42, distance=2.0, validation_iou=0.4)
OWN = Row(
    "generator", networks=3, score=0.5, score_std=0.01, score_max=0.52, iou=0.4, distance=12345.6, calibration=0.05, milliseconds=0.25
)
ZOO = Row("zoo", networks=9, score=0.6, score_max=0.63, iou=0.45)


def made(**changes: object) -> Card:
    """A card with a few rows."""
    missing = Row("pruned", missing="the networks are made at full size")
    whole = Card(
        generator="gaussian",
        recipe={"generator": "gaussian", "settings": {"spread": 1.0}},
        metric="accuracy",
        parameters=1834,
        weights=3668,
        fitting_seconds=0.48,
        rows=(OWN, ZOO, NOISE, Row("mean", "of", 0.0, 1, score=0.58, iou=0.5), missing),
        comparisons=(Comparison(NOISE, -0.05, 0.01),),
        beside=(Comparison(Row("retrieval", networks=1, score=0.2, iou=1.0), 0.3, 0.01),),
        verdict="The baseline noise wins.",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


class Reader(HTMLParser):
    """Reads a page, and sees that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open."""
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close."""
        assert self.opened.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Both at once."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Text of a cell."""
        if self.opened and self.opened[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def read(text: str) -> Reader:
    """Read a page."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.opened
    return reader


def test_every_row_is_shown_with_what_is_missing() -> None:
    rows = {cells[0]: cells[1:] for cells in read(page(made())).cells if cells}
    assert rows["generator"] == ["0.500", "0.010", "0.520", "0.050", "0.400", "12,345.6", "0.250"]
    assert rows["mean of all"][0] == "0.580"
    assert rows["pruned"] == ["the networks are made at full size"]
    assert rows["retrieval"] == ["0.200", "1.000", "+0.3000 ± 0.0100", "generator"]


def test_the_comparison_says_who_is_better() -> None:
    rows = [cells for cells in read(page(made())).cells if cells and cells[0] == "noise, sigma 0.1"]
    assert rows[0] == ["noise, sigma 0.1", "0.550", "0.420", "-0.0500 ± 0.0100", "baseline"]


def test_nothing_is_loaded_from_outside() -> None:
    text = page(made())
    for tag, attributes in read(text).tags:
        assert tag not in ("script", "link", "img", "iframe", "object")
        links = (attributes.get(name) or "" for name in ("href", "xlink:href", "src"))
        assert all(not link or link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text


def test_what_is_told_is_never_markup() -> None:
    evil = "<script>alert('x')</script>&amp;\"$x$"
    rows = (OWN, ZOO, replace(NOISE, method=evil), Row(evil, missing=evil))
    text = page(
        made(generator=evil, verdict=evil, metric=evil, recipe={evil: evil}, rows=rows, comparisons=(Comparison(rows[2], 0.1, 0.01),))
    )
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6
    read(text)


@pytest.mark.parametrize(("own", "drawn"), [(OWN, "max-IoU of wrong predictions"), (replace(OWN, iou=None), "distance to the zoo")])
def test_scores_are_drawn_against_novelty(own: Row, drawn: str) -> None:
    text = page(made(rows=(own, ZOO, NOISE)))
    assert "<svg" in text
    assert drawn in text


def test_without_novelty_nothing_is_drawn() -> None:
    text = page(made(rows=(replace(OWN, iou=None, distance=None), Row("zoo", missing="no checkpoints given")), comparisons=(), beside=()))
    assert "<svg" not in text
    assert "At equal novelty" not in text
    assert "no checkpoints given" in text
    read(text)


def test_a_card_is_a_picture_too() -> None:
    figure = made().plot()
    expect_good(figure)
    [axes] = figure.axes
    assert figure.legends[0].get_window_extent().x0 > axes.get_window_extent().x1  # covers no point
    assert axes.get_legend_handles_labels()[1] == ["the zoo itself", "noise", "mean", "generator"]
    with pytest.raises(GenerationError, match="novelty was not measured, so there is no picture; judge on a task with classes"):
        made(rows=(replace(OWN, iou=None, distance=None), ZOO)).plot()


def test_the_generators_temperatures_are_joined_from_the_newest_to_the_least_new() -> None:
    turned = [replace(OWN, setting="temperature", value=value, iou=iou) for value, iou in ((0.5, 0.9), (0.8, 0.2), (1.25, 0.6))]
    text = page(made(rows=(OWN, ZOO, *turned)))
    lines = re.findall(r'<path d="(M [^"]*?)" clip-path[^>]*stroke: #d55e00', text)
    [line] = [one for one in lines if one.count("L") == 3]
    across = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", line)]
    assert across == sorted(across)


def test_sizes_are_told_where_they_differ() -> None:
    own, zoo = replace(OWN, parameters=1834), replace(ZOO, parameters=20000)
    assert not any("parameters" in cells for cells in read(page(made(rows=(own, replace(ZOO, parameters=1834))))).cells)
    rows = (own, zoo, replace(NOISE, parameters=20000))
    text = page(made(rows=rows, comparisons=(), beside=(Comparison(rows[2], -0.05, 0.01),)))
    cells = {cells[0]: cells[1:] for cells in read(text).cells if cells}
    assert cells["networks"][0] == "parameters"
    assert (cells["generator"][0], cells["zoo"][0]) == ("1,834", "20,000")
    assert "noise, sigma 0.1, of 20,000 parameters instead of 1,834" in cells


def test_training_from_scratch_is_said_to_be_equal_in_steps_alone() -> None:
    trained = Row("trained from scratch", "steps", 500.0, 3, score=0.7)
    assert "this is equal steps, not equal FLOPs" in page(made(rows=(OWN, ZOO, trained)))
    assert "FLOPs" not in page(made(rows=(OWN, ZOO, replace(trained, missing="those of the zoo are"))))


def test_same_card_same_page() -> None:
    assert page(made()) == page(made())
