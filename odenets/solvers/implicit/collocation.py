"""Collocation: the polynomial whose derivative takes the stages' values at the nodes (HNW I, section II.7)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def lagrange(nodes: Sequence[float] | np.ndarray) -> np.ndarray:
    """Coefficients of the Lagrange polynomials of distinct nodes in rising powers: [s, s], one row per node."""
    return np.linalg.inv(np.vander(nodes, increasing=True)).T


def collocation_polynomial(nodes: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """b_i(theta) / theta in rising powers, b_i(theta) = integral of the i-th Lagrange polynomial from 0 to theta.

    The form of `ButcherTableau.interpolant`; uniformly of order s.
    """
    rows = lagrange(nodes) / np.arange(1, len(nodes) + 1)
    return tuple(tuple(float(x) for x in row) for row in rows)
