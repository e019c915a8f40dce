import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import axes
from weightspace.axes import MAX_DEPTH, Axis, Fixed, Leaf, Product, Sum, blocks, canonical, leaves, parse, show, size
from weightspace.errors import SymmetryError, UnknownNameError

SIZES = {"a": 2, "b2": 3, "layers.0.mlp": 4, "_c": 1, "head": 2}


@given(st.lists(axes(), max_size=3))
def test_what_is_printed_is_read_back(drawn: list[Axis]) -> None:
    made = tuple(map(canonical, drawn))
    assert parse(show(made)) == made


@given(axes())
def test_the_canonical_form_is_its_own(axis: Axis) -> None:
    once = canonical(axis)
    assert canonical(once) == once
    assert size(once, SIZES) == size(axis, SIZES)


@given(axes())
def test_an_axis_printed_as_it_is_reads_as_its_canonical_form(axis: Axis) -> None:
    assert parse(show([axis])) == (canonical(axis),)


@given(axes())
def test_the_canonical_form_keeps_the_groups(axis: Axis) -> None:
    assert list(leaves(canonical(axis))) == list(leaves(axis))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("h1 in", "h1 in"),
        ("  c2   c1 3 3 ", "c2 c1 3 3"),
        ("(head dk)+(head dk) h'", "(head dk) + (head dk) h'"),
        ("((a b) 2 3) + 4 + 5", "(a b 6) + 9"),
        ("(a)", "a"),
        ("((a + b) c)", "((a + b) c)"),
        ("(a + (b + c)) d", "a + b + c d"),
        ("(head dk)'", "(head' dk')"),
        ("(a' b^2)'", "(a b'^2)"),
        ("(a + b)' c", "a' + b' c"),
        ("h^1", "h"),
        ("(kv rep (f + f))", "(kv rep (f + f))"),
        ("(1 a 1)", "a"),
        ("(1)", "1"),
        ("a + 0", "a"),
        ("0 + 0", "0"),
        ("layers.0.mlp x_y", "layers.0.mlp x_y"),
    ],
)
def test_the_form_in_which_axes_are_printed(text: str, expected: str) -> None:
    assert show(parse(text)) == expected


def test_a_sum_binds_tighter_than_the_space_between_axes() -> None:
    assert parse("a + b c") == (Sum((Leaf("a"), Leaf("b"))), Leaf("c"))
    assert parse("(a b) c") == (Product((Leaf("a"), Leaf("b"))), Leaf("c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h $ 3", "axes 'h $ 3' cannot be read at '$ 3'; expected groups, integers, '+' and parentheses"),
        ("h, 3", "axes 'h, 3' cannot be read at ', 3'; expected groups, integers, '+' and parentheses"),
        ("3'", "axes '3'' cannot be read at '3''; expected groups, integers, '+' and parentheses"),
        ("-1", "axes '-1' cannot be read at '-1'; expected groups, integers, '+' and parentheses"),
        ("2h", "axes '2h' cannot be read at '2h'; expected groups, integers, '+' and parentheses"),
        ("h^2'", "axes 'h^2'' cannot be read at '^2''; expected groups, integers, '+' and parentheses"),
        ("h^", "axes 'h^' cannot be read at '^'; expected groups, integers, '+' and parentheses"),
        ("a )", "axes 'a )' have a ')' that closes nothing; remove it"),
        ("(a b", "axes '(a b' have a '(' that nothing closes; add ')'"),
        ("a +", "axes 'a +' have the end where a group, an integer or '(' was expected"),
        ("+ a", "axes '+ a' have '+' where a group, an integer or '(' was expected"),
        ("(a +) b", "axes '(a +) b' have ')' where a group, an integer or '(' was expected"),
        ("a ()", "axes 'a ()' have empty parentheses; remove them, or write 1"),
    ],
)
def test_text_that_breaks_the_grammar_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SymmetryError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_endless_nesting_is_refused() -> None:
    parse("(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH)
    with pytest.raises(SymmetryError, match=f"nest deeper than {MAX_DEPTH} parentheses; flatten them"):
        parse("(" * 5000 + "a" + ")" * 5000)


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(SymmetryError, match="cannot be read at '9999"):
        parse("h " + "9" * 5000)


def test_the_exponent_of_an_occurrence() -> None:
    assert [leaf.exponent for axis in parse("h h' h^2 h'^3 h^0") for leaf in leaves(axis)] == [1, -1, 2, -3, 0]


def test_sizes_follow_the_groups() -> None:
    assert [size(axis, {"a": 2, "b": 3}) for axis in parse("a (a b 2) a + b + 4 ((a + b) 2) (0 a)")] == [2, 12, 9, 10, 0]


def test_a_group_without_a_size_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"no neuron group named 'hh'; did you mean 'h'\? \(known: h\)"):
        size(Leaf("hh"), {"h": 1})


@given(st.lists(axes(depth=2), max_size=3))
def test_blocks_cover_each_element_once_and_are_views(drawn: list[Axis]) -> None:
    made = tuple(map(canonical, drawn))
    tensor = torch.zeros([size(axis, SIZES) for axis in made])
    if tensor.numel() > 3000:
        return
    found = blocks(tensor, made, SIZES)
    for block in found:
        assert len(block.terms) == len(block.origins) == block.view.dim()
        assert [size(term, SIZES) for term in block.terms] == list(block.view.shape)
        block.view.add_(1)
    assert bool((tensor == 1).all())
    assert sum(block.view.numel() for block in found) == tensor.numel()


def test_products_unfold_row_major() -> None:
    (block,) = blocks(torch.arange(6), parse("(a b)"), {"a": 2, "b": 3})
    assert block.view.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert block.terms == (Leaf("a"), Leaf("b")) and block.origins == (0, 0)


def test_sums_are_cut_in_order_and_equal_terms_are_not() -> None:
    first, second = blocks(torch.arange(5), parse("a + b"), {"a": 2, "b": 3})
    assert (first.view.tolist(), second.view.tolist()) == ([0, 1], [2, 3, 4])
    (block,) = blocks(torch.arange(4), parse("a + a"), {"a": 2})
    assert block.terms == (Fixed(2), Leaf("a")) and block.view.tolist() == [[0, 1], [2, 3]]


def test_blocks_of_what_is_not_contiguous_are_views_too() -> None:
    tensor = torch.zeros(6, 4).T
    for block in blocks(tensor, parse("(a 2) b + b"), {"a": 2, "b": 3}):
        block.view.add_(1)
    assert bool((tensor == 1).all())


def test_where_a_group_stands_in_a_block() -> None:
    (block,) = blocks(torch.zeros(2, 3, 2), parse("a b a'"), {"a": 2, "b": 3})
    assert block.where("a") == (0, 2) and block.where("c") == ()


def test_axes_of_many_terms_are_read_quickly() -> None:
    assert math.prod(size(axis, {"a": 1}) for axis in parse(" ".join(["a"] * 3000))) == 1
