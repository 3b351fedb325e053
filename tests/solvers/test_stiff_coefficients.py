"""Order conditions of the Rosenbrock method and of the additive pairs, from rooted trees, to rounding."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from odenets.solvers.methods.kencarp import KENCARP3, KENCARP4, KENCARP5
from odenets.solvers.methods.rodas5p import RODAS5P

from .test_tableaus import Tree, density, trees


def rosenbrock_weights(tree: Tree, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """HW II, theorem IV.7.3: beta = alpha + Gamma above a node with a single child, alpha above the others."""
    if len(tree) == 1:
        return beta @ rosenbrock_weights(tree[0], alpha, beta)
    return np.prod([alpha @ rosenbrock_weights(child, alpha, beta) for child in tree], axis=0) * np.ones(len(alpha))


def rosenbrock_defect(b: np.ndarray, tableau, order: int, theta: float = 1.0) -> float:
    alpha, gamma, _ = tableau.standard_form
    return max(
        abs(b @ rosenbrock_weights(tree, alpha, alpha + gamma) - theta**order / density(tree)) for tree in trees(order)
    )


def test_rodas5p_has_order_five_and_its_embedded_method_order_four():
    _, gamma, b = RODAS5P.standard_form
    embedded = b - np.array(RODAS5P.b_error) @ gamma
    for order in range(1, 6):
        assert rosenbrock_defect(b, RODAS5P, order) < 5e-14
    assert rosenbrock_defect(b, RODAS5P, 6) > 1e-3
    for order in range(1, 5):
        assert rosenbrock_defect(embedded, RODAS5P, order) < 5e-14
    assert rosenbrock_defect(embedded, RODAS5P, 5) > 1e-3


def test_rodas5p_nodes_are_row_sums():
    """What makes it right for fields that depend on time: c = alpha 1, time = Gamma 1."""
    alpha, gamma, _ = RODAS5P.standard_form
    assert np.allclose(alpha.sum(1), RODAS5P.c, atol=5e-14)
    assert np.allclose(gamma.sum(1), RODAS5P.time, atol=5e-14)


def test_rodas5p_dense_output_has_order_four():
    _, gamma, _ = RODAS5P.standard_form
    for theta in (0.13, 0.5, 0.77, 1.0):
        weights = (RODAS5P.dense @ theta ** np.arange(1, 5))[1:] @ gamma
        for order in range(1, 5):
            assert rosenbrock_defect(weights, RODAS5P, order, theta) < 5e-14
    assert RODAS5P.dense[0] @ np.ones(4) == 0


def test_rodas5p_is_l_stable():
    assert abs(RODAS5P.stability_function(-1e6)) < 2e-5
    axis = 1j * np.geomspace(1e-3, 1e6, 400)
    assert np.abs(RODAS5P.stability_function(axis)).max() < 1 + 1e-12


def test_a_wrong_rosenbrock_coefficient_would_be_seen():
    rows = list(RODAS5P.coupling)
    rows[3] = (rows[3][0] + 1e-9, *rows[3][1:])
    broken = dataclasses.replace(RODAS5P, coupling=tuple(rows))
    assert max(rosenbrock_defect(broken.standard_form[2], broken, order) for order in range(1, 6)) > 1e-11


# Additive methods: a tree's nodes belong to either part of the field (HNW I, section II.15, P-trees)


@cache
def coloured(tree: Tree) -> tuple[tuple, ...]:
    """All ways to give every node of a tree one of two colours: (colour, children)."""
    forests: list[tuple] = [()]
    for child in tree:
        forests = [(*forest, other) for forest in forests for other in coloured(child)]
    return tuple({(colour, tuple(sorted(forest))) for colour in (0, 1) for forest in forests})


def additive_weights(tree: tuple, matrices: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    _, children = tree
    product = np.ones(len(matrices[0]))
    for child in children:
        product = product * (matrices[child[0]] @ additive_weights(child, matrices))
    return product


def additive_defect(b: np.ndarray, matrices, order: int, theta: float = 1.0) -> float:
    """Both parts have the same weights b, so that the root's colour does not matter."""
    return max(
        abs(b @ additive_weights(tree, matrices) - theta**order / density(plain))
        for plain in trees(order)
        for tree in coloured(plain)
        if tree[0] == 0
    )


PAIRS = {tableau.name: tableau for tableau in (KENCARP3, KENCARP4, KENCARP5)}
DENSE_ORDER = {"kencarp3": 2, "kencarp4": 3, "kencarp5": 3}


def test_coloured_trees_are_counted_right():
    """Rooted trees with 1 to 5 nodes of two colours: 2, 4, 14, 52, 214 (OEIS A000151)."""
    assert [sum(len(coloured(tree)) for tree in trees(order)) for order in range(1, 6)] == [2, 4, 14, 52, 214]


@pytest.mark.parametrize("name", PAIRS)
def test_additive_pairs_satisfy_all_coupling_conditions(name):
    tableau = PAIRS[name]
    b, embedded = np.array(tableau.b), np.array(tableau.b_embedded)
    for order in range(1, tableau.order + 1):
        assert additive_defect(b, tableau.matrices, order) < 1e-13
    assert additive_defect(b, tableau.matrices, tableau.order + 1) > 1e-4
    for order in range(1, tableau.order):
        assert additive_defect(embedded, tableau.matrices, order) < 1e-13
    assert additive_defect(embedded, tableau.matrices, tableau.order) > 1e-5


@pytest.mark.parametrize("name", PAIRS)
def test_additive_nodes_are_the_row_sums_of_both_tableaus(name):
    for matrix in PAIRS[name].matrices:
        assert np.allclose(matrix.sum(1), PAIRS[name].c, atol=2e-14)


@pytest.mark.parametrize("name", PAIRS)
def test_additive_dense_output_order(name):
    tableau, order = PAIRS[name], DENSE_ORDER[name]
    for theta in (0.13, 0.5, 0.77, 1.0):
        weights = tableau.dense @ theta ** np.arange(1, tableau.dense.shape[1] + 1)
        for p in range(1, order + 1):
            assert additive_defect(weights, tableau.matrices, p, theta) < 1e-12
    weights = tableau.dense @ 0.5 ** np.arange(1, tableau.dense.shape[1] + 1)
    assert additive_defect(weights, tableau.matrices, order + 1, 0.5) > 1e-6


@pytest.mark.parametrize("name", PAIRS)
def test_the_implicit_tableaus_are_l_stable_and_stiffly_accurate(name):
    tableau = PAIRS[name]
    implicit = tableau.matrices[1]
    assert np.array_equal(implicit[-1], tableau.b)

    def amplification(z: complex) -> float:
        system = np.eye(tableau.stages) - z * implicit
        return float(abs(1 + z * np.array(tableau.b) @ np.linalg.solve(system, np.ones(tableau.stages))))

    assert amplification(-1e6) < 2e-5
    assert max(amplification(1j * y) for y in np.geomspace(1e-3, 1e6, 200)) < 1 + 1e-9
