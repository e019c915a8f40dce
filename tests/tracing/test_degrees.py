"""Degrees of scales and signs solve linear equations."""

from fractions import Fraction

from weightspace.tracing.degrees import Equations, null_space, solve
from weightspace.tracing.dims import Atom


def test_the_null_space_of_a_chain() -> None:
    assert null_space([{0: 1, 1: -1}, {1: 1, 2: 1}], range(3)) == [{0: Fraction(1), 1: Fraction(1), 2: Fraction(-1)}]


def test_the_null_space_modulo_two_has_what_the_rational_one_has_not() -> None:
    forms = [{0: 1, 1: 1}, {0: 1, 1: -1}]
    assert null_space(forms, range(2)) == []
    assert null_space(forms, range(2), 2) == [{0: Fraction(1), 1: Fraction(1)}]


def test_every_solution_solves() -> None:
    forms = [{0: 1, 2: 2, 3: -1}, {1: 3, 3: 1}, {0: 1, 1: 3, 2: 2}]
    basis = null_space(forms, range(5))
    assert len(basis) == 3
    assert all(sum(n * vector.get(key, 0) for key, n in form.items()) == 0 for form in forms for vector in basis)


def test_a_product_of_two_factors_gives_the_scale_to_the_first() -> None:
    equations, atom = Equations(), Atom(4)
    equations.rigid[atom] = {""}
    gate, up, down = (equations.unknown() for _ in range(3))
    equations.cancel(equations.add(gate, up), down)
    assert solve(equations, {atom: [0, 1, 2]}, set(), set(), set())[atom].exponents == {0: 1, 1: 0, 2: -1}


def test_a_gain_that_does_not_reach_every_consumer_is_no_scale() -> None:
    equations, atom = Equations(), Atom(4)
    equations.rigid[atom] = {"gain"}
    rows, gain, near, far = (equations.unknown() for _ in range(4))
    equations.zero(rows)
    equations.cancel(equations.add(rows, gain), near)
    equations.cancel(rows, far)
    assert solve(equations, {atom: [0, 1, 2, 3]}, set(), {1}, set())[atom].symmetry == "none"


def test_roots_halve_and_odd_functions_keep_signs() -> None:
    equations = Equations()
    square = equations.power(equations.unknown(), 2)
    root = equations.power(square, 0.5)
    basis = null_space(equations.real, [0, *root])
    assert [vector[next(iter(root))] for vector in basis] == [Fraction(1)]
    assert null_space(equations.parity, [0, *root], 2) == [{0: Fraction(1)}]
