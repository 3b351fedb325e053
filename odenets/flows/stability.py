"""Where a rational function R = P/D is bounded by 1, from its coefficients (Hairer, Wanner II, section IV.3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

_ROUNDING = 1e-12  # the coefficients come from tableaus in double precision


def first_negative(coefficients: np.ndarray) -> float:
    """The smallest x >= 0 right of which the polynomial sum_i c_i x^i is negative; infinite if there is none."""
    c = np.trim_zeros(np.asarray(coefficients, dtype=float), "b")
    if not len(c):
        return math.inf
    roots = np.roots(c[::-1])
    edges = [0.0, *sorted(r.real for r in roots if r.real > 1e-9 and abs(r.imag) < 1e-9 * abs(r))]
    inside = [(a + b) / 2 for a, b in itertools.pairwise(edges)] + [2 * edges[-1] + 1]
    powers = np.arange(len(c))
    for edge, x in zip(edges, inside):
        terms = c * x**powers
        if terms.sum() < -_ROUNDING * np.abs(terms).sum():
            return float(edge)
    return math.inf


def _excess(p: np.ndarray, d: np.ndarray, p_bar: np.ndarray, d_bar: np.ndarray) -> np.ndarray:
    """Coefficients of |D|^2 - |P|^2; what is left of cancelling ones is zero."""
    size = 2 * max(len(p), len(d)) - 1
    parts = [np.convolve(x, y) for x, y in ((d, d_bar), (p, p_bar))]
    scales = [np.convolve(abs(x), abs(x)) for x in (d, p)]
    total, scale = np.zeros(size), np.zeros(size)
    for sign, part, its_scale in zip((1, -1), parts, scales):
        total[: len(part)] += sign * part.real
        scale[: len(part)] += its_scale
    total[abs(total) < _ROUNDING * scale] = 0
    return total


def real_limit(p: Sequence[float], d: Sequence[float]) -> float:
    """The largest x such that |P/D| <= 1 on [-x, 0]."""
    p_x, d_x = (np.array(c) * (-1.0) ** np.arange(len(c)) for c in (p, d))
    return first_negative(_excess(p_x, d_x, p_x, d_x))


def imaginary_limit(p: Sequence[float], d: Sequence[float]) -> float:
    """The largest y such that |P/D| <= 1 on [0, iy]."""
    p_y, d_y = (np.array(c) * 1j ** np.arange(len(c)) for c in (p, d))
    return first_negative(_excess(p_y, d_y, p_y.conj(), d_y.conj()))


def is_a_stable(p: Sequence[float], d: Sequence[float]) -> bool:
    """|P/D| <= 1 on the left half plane: on the imaginary axis, with all poles on the right (maximum principle)."""
    poles = np.roots(np.array(d)[::-1])
    return len(p) <= len(d) and bool((poles.real > 0).all()) and math.isinf(imaginary_limit(p, d))
