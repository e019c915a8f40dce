"""Family trees."""

from pathlib import Path

import pytest
from matplotlib.text import Annotation

from tests.pictures import NAMES, expect_good
from weightspace.family_tree import Link, family_tree
from weightspace.plotting import save, svg

FAMILY = [
    Link("base", "one", "finetune", 0.9),
    Link("base", "two", "lora", 0.4),
    Link("one", "both", "merge", 0.8),
    Link("two", "both", "merge", 0.8),
    Link("one", "copy of one", "copy", 0.7, is_directed=False),
]


@pytest.mark.parametrize(
    "links",
    [
        FAMILY,
        [Link("a", "b", "copy")],
        [Link(a, f"{b}!", b) for a in NAMES[:3] for b in NAMES],
        [Link(f"m{at // 3}", f"m{at + 1}", "finetune") for at in range(5_000)],
        [Link(f"step-{at}", f"step-{at + 1}", "continued") for at in range(60)],
        [Link("a", "b", "merge"), Link("b", "a", "merge"), Link("a", "a", "copy")],
        [Link("a", "b", f"kind {at}") for at in range(40)],
    ],
    ids=["a merge", "one", "hostile", "huge", "a chain", "a circle", "many kinds"],
)
def test_families_are_drawn(links: list[Link]) -> None:
    expect_good(family_tree(links), ink=0.002)


def test_no_family_says_so() -> None:
    figure = family_tree([])
    expect_good(figure, ink=0.001, colours=4)
    assert figure.axes[0].get_title(loc="left") == "no model here descends from another"


def test_children_stand_below_their_first_parent_and_to_its_right() -> None:
    [axes] = family_tree(FAMILY).axes
    at = {text.get_text(): text.xy for text in axes.texts if isinstance(text, Annotation)}
    assert at["base"][0] < at["one"][0] == at["two"][0] < at["both"][0]
    assert at["base"][1] < at["one"][1] < at["both"][1] < at["two"][1]
    assert axes.yaxis_inverted()


def test_what_is_surer_is_wider() -> None:
    [axes] = family_tree([Link("a", "b", "finetune", 0.9), Link("a", "c", "finetune", 0.1)]).axes
    widths = [line.get_linewidth() for line in axes.lines if line.get_color() == "#0072B2"]
    assert widths[0] > widths[1]


def test_of_many_models_the_picture_says_how_many_are_left_out() -> None:
    [axes] = family_tree([Link("a", f"b{at}", "finetune") for at in range(300)]).axes
    assert axes.get_title(loc="left") == "100 of 301 models"
    assert len(axes.texts) == 100


def test_the_same_links_give_the_same_bytes(tmp_path: Path) -> None:
    for end in ("png", "svg", "pdf"):
        for name in ("a", "b"):
            save(family_tree(FAMILY), tmp_path / f"{name}.{end}")
        assert (tmp_path / f"a.{end}").read_bytes() == (tmp_path / f"b.{end}").read_bytes()
    assert svg(family_tree(FAMILY)) == svg(family_tree(FAMILY))


def test_on_a_page_names_are_text() -> None:
    element = svg(family_tree([Link("<script>alert(1)</script>", "$x$", "copy")]))
    assert "<script" not in element and "&lt;script&gt;alert(1)&lt;/script&gt;" in element and ">$x$<" in element


def test_a_notebook_shows_what_a_cell_returns() -> None:
    shown = family_tree(FAMILY)
    assert vars(type(shown))["_repr_png_"](shown).startswith(b"\x89PNG")


def test_what_the_lines_mean_is_never_cut_off() -> None:
    figure = family_tree([Link("a", "b", "copy", 0.5, is_directed=False)])
    assert figure.axes[0].get_title(loc="left") == "2 models\nwidth is probability; dotted: direction unknown"
    expect_good(figure)
