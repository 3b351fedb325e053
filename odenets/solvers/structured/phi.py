"""The phi functions of exponential integrators, elementwise and of matrices.

phi_0(z) = e^z and phi_{k+1}(z) = (phi_k(z) - 1/k!) / z, phi_k(0) = 1/k! (Hochbruck, Ostermann, "Exponential
integrators", Acta Numerica 2010, eq. 2.10-2.11). Near 0 the recurrence loses every digit; it is not used there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def at_least_single(z: Tensor) -> Tensor:
    """z in float32 if its precision is lower: coefficients are never rounded to eight bits."""
    dtype = torch.promote_types(z.dtype, torch.float32)
    return z if z.dtype == dtype else z.to(dtype)


def phi(index: int, z: Any) -> Any:
    """phi_index(z) of a number or, elementwise, of a tensor; with derivatives as accurate as the value."""
    if isinstance(z, Tensor):
        return phi_functions(z, index)[index]
    if abs(z) < 1:
        return math.fsum(z**k / math.factorial(k + index) for k in range(19))
    value = math.exp(z) if index == 0 else math.expm1(z) / z
    for k in range(1, index):
        value = (value - 1 / math.factorial(k)) / z
    return value


def phi_functions(z: Tensor, count: int) -> list[Tensor]:
    """phi_0(z), ..., phi_count(z), elementwise; float32 at least.

    Inside |z| < 1 the last one by its Taylor series and the others from it downwards: the quotients lose the
    derivatives' digits near 0, and at 0 everything.
    """
    z = at_least_single(z)
    if count == 0:
        return [z.exp()]
    small = z.abs() < 1
    near, far = torch.where(small, z, 0), torch.where(small, 1, z)
    terms = 19 if z.dtype in (torch.float64, torch.complex128) else 11
    series = [torch.full_like(z, 1 / math.factorial(terms - 1 + count))]
    for k in range(terms - 2, -1, -1):
        series[0] = series[0] * near + 1 / math.factorial(k + count)
    for k in range(count - 1, 0, -1):
        series.insert(0, series[0] * near + 1 / math.factorial(k))
    quotients = [torch.expm1(far) / far]
    for k in range(1, count):
        quotients.append((quotients[-1] - 1 / math.factorial(k)) / far)
    return [z.exp(), *(torch.where(small, inside, outside) for inside, outside in zip(series, quotients))]


def phi_matrices(m: Tensor, count: int, norm: float | None = None) -> list[Tensor]:
    """phi_0(m), ..., phi_count(m) of matrices m [..., n, n], in m's precision.

    By scaling and doubling (Skaflestad, Wright, Appl. Numer. Math. 59, 2009, section 2): the Taylor series of
    phi_count(m / 2^s), whose norm is at most 1/2, the others from it downwards, then s times
    phi_k(2z) = 2^-k (e^z phi_k(z) + sum_{j=1}^k phi_j(z) / (k - j)!). No inverse of m: it may be singular.

    Args:
        m: the matrices.
        count: index of the last function, at least 1.
        norm: a bound of their 1-norms where it is known; otherwise it is read from m (one host synchronisation).
    """
    if norm is None:
        norm = float(torch.linalg.matrix_norm(m.detach(), 1).amax())
    if not math.isfinite(norm):
        return [torch.full_like(m, math.nan)] * (count + 1)
    doublings = max(0, math.frexp(norm)[1] + 1)  # 2^(e-1) <= norm < 2^e
    z = m * 0.5**doublings
    eye = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
    functions = [_taylor(z, eye, count)]  # phi_1 .. phi_count
    for k in range(count - 1, 0, -1):
        functions.insert(0, z @ functions[0] + eye / math.factorial(k))
    growth = z @ functions[0]  # e^z - 1: squaring e^z itself would lose the slow modes beside fast ones
    for _ in range(doublings):
        doubled = []
        for k in range(1, count + 1):
            total = growth @ functions[k - 1] + functions[k - 1]
            for j in range(1, k + 1):
                total = total + functions[j - 1] / math.factorial(k - j)
            doubled.append(total * 0.5**k)
        functions = doubled
        growth = growth @ growth + 2 * growth
    return [eye + growth, *functions]


def _taylor(z: Tensor, eye: Tensor, index: int) -> Tensor:
    """phi_index(z) for norms of at most 1/2: sum_{k<16} z^k / (k + index)!, by powers of z^4 (Paterson, Stockmeyer)."""
    square = z @ z
    powers = [eye, z, square, square @ z]
    fourth = square @ square
    total = torch.zeros_like(z)
    for block in (12, 8, 4, 0):
        total = total @ fourth
        for i, power in enumerate(powers):
            total = total + power / math.factorial(block + i + index)
    return total
