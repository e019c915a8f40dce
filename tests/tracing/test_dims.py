"""Dimensions unite, split and become fixed."""

import pytest

from weightspace.tracing.dims import ONE, Dim, cut, is_uniform, leaves, new, product, reshape, resolve, size, split_tail, unify


def shown(terms: Dim) -> str:
    """A dimension by sizes, fixed atoms in brackets."""

    def show(terms: Dim) -> str:
        return " + ".join(
            " ".join(
                f"({show(f.inner)})" if f.inner is not None else f"[{f.atom.size}]" if f.atom.fixed else str(f.atom.size) for f in term
            )
            or "1"
            for term in terms
        )

    return show(resolve(terms))


def test_equal_sizes_become_one() -> None:
    one, other = new(6), new(6)
    unify(one, other)
    assert next(leaves(resolve(one))).atom is next(leaves(resolve(other))).atom


def test_a_fixed_dimension_fixes_what_it_is_united_with() -> None:
    whole, parts = new(6), product([new(2), new(3)])
    unify(whole, parts)
    unify(new(6, fixed=True), whole)
    assert shown(parts) == "[2] [3]"


def test_products_split_from_the_right() -> None:
    whole, parts = new(12), product([new(2), new(6)])
    unify(whole, parts)
    unify(parts, product([new(4), new(3)]))
    assert shown(whole) == "2 2 3"


def test_products_that_do_not_divide_are_fixed() -> None:
    one, other = product([new(2), new(3)]), product([new(3), new(2)])
    unify(one, other)
    assert (shown(one), shown(other)) == ("[2] [3]", "[3] [2]")


def test_sums_cut_each_other() -> None:
    one, other = new(5) + new(4), new(2) + new(7)
    unify(one, other)
    assert shown(one) == shown(other) == "2 + 3 + 4"


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="dimensions of 2 and 3 indices cannot be one"):
        unify(new(2), new(3))


def test_a_cut_inside_a_product_goes_along_its_first_factor() -> None:
    whole = product([new(6), new(4)])
    assert shown(cut(whole, 8, 16)) == "2 4"
    assert shown(whole) == "2 4 + 2 4 + 2 4"


def test_a_cut_off_the_grid_separates_one_member() -> None:
    whole = product([new(3), new(4)])
    assert shown(cut(whole, 5, 12)) == "3 + 1 + 3"
    assert shown(whole) == "1 + 3 + 1 + 3 + 1 + 3"


def test_a_single_index_stands_beside_a_range() -> None:
    tokens = ONE + new(16)
    table = new(17)
    unify(tokens, table)
    assert shown(table) == "1 + 16"


def test_reshape_splits_and_merges() -> None:
    width = new(24)
    heads = reshape([new(5), width], [5, 3, 2, 4])
    assert [shown(terms) for terms in heads] == ["5", "3", "2", "4"]
    assert shown(width) == "3 2 4"
    assert [shown(terms) for terms in reshape(heads, [5, 6, 4])] == ["5", "3 2", "4"]


def test_a_sum_in_front_of_a_product_is_distributed_and_elsewhere_stays() -> None:
    assert shown(product([new(2) + new(3), new(4)])) == "2 4 + 3 4"
    assert shown(product([new(4), new(2) + new(3)])) == "4 (2 + 3)"


def test_a_sum_splits_by_a_common_tail_or_is_fixed() -> None:
    front, tail = split_tail(product([new(2) + new(3), new(4)]), 4)
    assert (shown(front), shown(tail)) == ("2 + 3", "4")
    assert [shown(terms) for terms in split_tail(new(4) + new(5), 3)] == ["[3]", "[3]"]


def test_halves_that_were_cut_are_two_of_one_half() -> None:
    whole = new(8)
    halves = [cut(whole, 0, 4), cut(whole, 4, 8)]
    unify(*halves)
    unify(whole, product([new(2), new(4)]))
    assert size(whole) == 8
    assert len({leaf.atom for leaf in leaves(resolve(whole))}) == 1


def test_constants_demand_nothing() -> None:
    constant = new(6, uniform=True)
    assert is_uniform(constant)
    assert is_uniform(cut(constant, 0, 2))
    assert shown(constant) == "6"
