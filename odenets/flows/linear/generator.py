"""Mixing of n streams by the generator of a Markov process: the flow of manifold-constrained hyper-connections."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from odenets.flows.exponential import Exponential
from odenets.flows.linear.stream import StreamMatrix
from odenets.flows.rational import Rational
from odenets.flows.scheme import Scheme
from odenets.kernels.generator import exponential, resolvent

BASES = ("all", "cyclic", "transpositions")
_MOST = 6  # streams for which all n! - 1 permutations are at hand: 719


class Generator(StreamMatrix):
    """A = G on the streams of X [.., n, C], with rows and columns of G that sum to 0 and off-diagonal >= 0.

    The mean over the streams is conserved, and the step's mixing R(hG) is doubly stochastic for forward Euler iff
    h <= 1/max|G_ii| (`cfl_limit`), for backward Euler and the exponential scheme for every h > 0, for the implicit
    midpoint rule if h <= 2/max|G_ii|. The manifold-constrained hyper-connection (arXiv:2512.24880) is forward Euler
    with h = 1 and I + G = `sinkhorn(logits)`. The backward Euler step is undone by I - hG, without a solve.

    Args:
        g: generators [.., n, n] or [n, n]; not checked here (see `check_generator`): that would wait for the device.
    """

    def _functions(self, scheme: Scheme, m: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(scheme, Exponential):
            return exponential(m)
        if isinstance(scheme, Rational) and len(scheme.denominator) == 2 and len(scheme.numerator) == 1:
            # Q = 1/(1 - d z), R = 1 + z Q = 1 - 1/d + Q/d: an M-matrix to invert, and nothing else
            d = -scheme.denominator[1]
            q = resolvent(d * m)
            eye = torch.eye(m.shape[-1], dtype=q.dtype, device=m.device)
            return eye + (q - eye) / d, q
        return scheme.matrices(m)

    @property
    def cfl_limit(self) -> Tensor:
        """The largest step for which I + hG is doubly stochastic, [..]."""
        return cfl_limit(self.m)


def generator_basis(n: int, kind: str = "all", dtype: torch.dtype = torch.float32) -> Tensor:
    """P_k - I for a set of permutation matrices P_k, [K, n, n].

    Args:
        n: number of streams.
        kind: "all" n! - 1 of them: their cone holds every generator (Birkhoff), but K grows fast: n <= 6;
            "cyclic" n - 1 shifts; "transpositions" n (n - 1)/2 pairs (i, j), i < j: G is then symmetric, minus the
            Laplacian of a graph with the rates as edge weights.
        dtype: of the result.

    Raises:
        ValueError: for another kind, n < 1, or too many permutations.
    """
    if kind not in BASES:
        raise ValueError(f"kind must be one of {', '.join(BASES)}, got {kind!r}.")
    if n < 1 or (kind == "all" and n > _MOST):
        raise ValueError(f"all {n}! - 1 permutations need 1 <= n <= {_MOST}; use kind='cyclic' or 'transpositions'.")
    rows = torch.arange(n)
    if kind == "all":
        permutations = list(itertools.permutations(range(n)))[1:]  # the first is the identity
    elif kind == "cyclic":
        permutations = [tuple(((rows + shift) % n).tolist()) for shift in range(1, n)]
    else:
        permutations = []
        for i, j in itertools.combinations(range(n), 2):
            swapped = list(range(n))
            swapped[i], swapped[j] = j, i
            permutations.append(tuple(swapped))
    eye = torch.eye(n, dtype=dtype)
    if not permutations:
        return eye.new_zeros(0, n, n)
    return torch.stack([eye[list(p)] - eye for p in permutations])


def generator_from_rates(rates: Tensor, basis: Tensor) -> Tensor:
    """G = sum_k r_k (P_k - I) [.., n, n].

    Args:
        rates: r_k >= 0, [.., K], such as the softplus of a network's output.
        basis: [K, n, n] from `generator_basis`, kept as a buffer.

    Raises:
        ValueError: if the number of rates is not that of the basis.
    """
    if rates.shape[-1] != len(basis):
        raise ValueError(f"expected {len(basis)} rates in the last dimension, got {list(rates.shape)}.")
    rates = rates.to(torch.promote_types(rates.dtype, torch.float32))
    n = basis.shape[-1]
    with torch.autocast(rates.device.type, enabled=False):
        return (rates @ basis.to(rates).flatten(1)).unflatten(-1, (n, n))


def rates_count(n: int, kind: str = "all") -> int:
    """Number K of rates that `generator_from_rates` takes for this basis."""
    if kind not in BASES:
        raise ValueError(f"kind must be one of {', '.join(BASES)}, got {kind!r}.")
    return {"all": math.factorial(n) - 1, "cyclic": n - 1, "transpositions": n * (n - 1) // 2}[kind]


def cfl_limit(g: Tensor) -> Tensor:
    """1 / max_i |G_ii| [..] for generators g [.., n, n]: forward Euler is doubly stochastic up to this step."""
    return g.diagonal(dim1=-2, dim2=-1).abs().amax(-1).reciprocal()


def check_generator(g: Tensor, tolerance: float = 1e-5) -> None:
    """Raises ValueError unless rows and columns of g [.., n, n] sum to 0 and its off-diagonal is >= 0."""
    off = g - torch.diag_embed(g.diagonal(dim1=-2, dim2=-1))
    rows, columns, least = (float(x.abs().max()) for x in (g.sum(-1), g.sum(-2), off.clamp(max=0)))
    if max(rows, columns, least) > tolerance:
        raise ValueError(
            f"not a generator: row sums up to {rows:.2g}, column sums up to {columns:.2g}, off-diagonal down to "
            f"{-least:.2g}; build it with generator_from_rates(rates >= 0, basis)."
        )
