"""Order conditions, from rooted trees (HNW I, section II.2): independent of any integration."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from odenets.solvers.methods import TABLEAUS

Tree = tuple  # a tree is the sorted tuple of its root's subtrees


@cache
def trees(order: int) -> list[Tree]:
    """All rooted trees with `order` nodes."""
    return [()] if order == 1 else sorted(_forests(order - 1, order - 1))


@cache
def _forests(nodes: int, largest: int) -> frozenset[Tree]:
    if nodes == 0:
        return frozenset({()})
    return frozenset(
        tuple(sorted((tree, *rest)))
        for size in range(1, min(nodes, largest) + 1)
        for tree in trees(size)
        for rest in _forests(nodes - size, size)
    )


def nodes(tree: Tree) -> int:
    return 1 + sum(nodes(child) for child in tree)


def density(tree: Tree) -> int:
    """gamma(tree)."""
    return nodes(tree) * int(np.prod([density(child) for child in tree]))


def elementary_weights(tree: Tree, a: np.ndarray) -> np.ndarray:
    """Phi_i(tree) for every stage i."""
    return np.prod([a @ elementary_weights(child, a) for child in tree], axis=0) * np.ones(len(a))


def defect(weights: np.ndarray, a: np.ndarray, order: int, theta: float = 1.0) -> float:
    """Largest violation of the conditions of that order (and no other)."""
    return max(
        abs(weights @ elementary_weights(tree, a) - theta**order / density(tree)) for tree in trees(order)
    )  # fmt: skip


def test_tree_counts_are_the_known_sequence():
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("name", TABLEAUS)
def test_nodes_are_row_sums(name):
    tableau = TABLEAUS[name]
    assert np.allclose(tableau.matrix.sum(1), tableau.c, atol=4e-15)


@pytest.mark.parametrize("name", TABLEAUS)
def test_order_conditions_hold_up_to_the_order_and_not_beyond(name):
    tableau = TABLEAUS[name]
    for order in range(1, tableau.order + 1):
        assert defect(np.array(tableau.b), tableau.matrix, order) < 1e-13
    if tableau.order < 8:
        assert defect(np.array(tableau.b), tableau.matrix, tableau.order + 1) > 1e-6


@pytest.mark.parametrize("name", [n for n, t in TABLEAUS.items() if t.adaptive])
def test_embedded_method_has_one_order_less(name):
    tableau = TABLEAUS[name]
    embedded = np.array(tableau.b) - np.array(tableau.b_error)
    for order in range(1, tableau.order):
        assert defect(embedded, tableau.matrix, order) < 1e-13
    assert defect(embedded, tableau.matrix, tableau.order) > 1e-6


# order to which y(t + theta h) is right everywhere in the step; Hermite on the step's ends gives 3 at most
DENSE_ORDER = {"euler": 1, "midpoint": 2, "heun2": 2, "ralston": 2, "adaptive_heun": 2, "fehlberg2": 2, "heun3": 3,
               "rk4": 3, "rk4_38": 3, "bosh3": 3, "tsit5": 4, "dopri5": 4, "dopri8": 5}  # fmt: skip


@pytest.mark.parametrize("name", TABLEAUS)
def test_dense_output_satisfies_the_continuous_order_conditions(name):
    tableau = TABLEAUS[name]
    coefficients = tableau.dense
    a = tableau.matrix
    if len(coefficients) > tableau.stages:  # the derivative at the new state is one more stage, with row b
        a = np.pad(a, ((0, 1), (0, 1)))
        a[-1, :-1] = tableau.b
    for theta in (0.13, 0.5, 0.77, 1.0):
        weights = coefficients @ theta ** np.arange(1, coefficients.shape[1] + 1)
        for order in range(1, DENSE_ORDER[name] + 1):
            assert defect(weights, a, order, theta) < 1e-11
    weights = coefficients @ 0.13 ** np.arange(1, coefficients.shape[1] + 1)
    assert defect(weights, a, DENSE_ORDER[name] + 1, 0.13) > 1e-8


def test_dopri5_interpolant_is_scipys():
    from scipy.integrate import RK45

    assert np.allclose(TABLEAUS["dopri5"].dense, RK45.P, atol=2e-13)


@pytest.mark.parametrize("name", TABLEAUS)
def test_stability_function_agrees_with_the_exponential_to_the_order(name):
    tableau = TABLEAUS[name]
    angles = np.exp(2j * np.pi * np.arange(16) / 16)
    z = 0.3 * angles
    coefficients = np.fft.fft(tableau.stability_function(z)).real / 16 / 0.3 ** np.arange(16)
    factorials = np.cumprod([1.0, *range(1, tableau.order + 1)])
    assert np.allclose(coefficients[: tableau.order + 1], 1 / factorials, atol=1e-9)
    assert np.allclose(tableau.forcing_function(0.0), 1.0)


def test_rk4_stability_function_is_the_taylor_polynomial():
    z = np.array([-2.7 + 0.3j, 1.1j, 0.4])
    taylor = 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    for name in ("rk4", "rk4_38"):
        assert np.allclose(TABLEAUS[name].stability_function(z), taylor)
