"""Zero-stability: does a stack that carries several values from step to step keep rounding errors bounded?"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from odenets.blocks import LinearMultistep, Momentum
from odenets.blocks.streams import StreamBlock
from odenets.diagnostics.gains import stream_matrices
from odenets.diagnostics.result import Result, host
from odenets.diagnostics.trace import Step, trace
from odenets.models import FlowStack

TOLERANCE = 1e-6  # double roots are known to the square root of rounding


@dataclass
class RootCondition(Result):
    """The roots of rho and whether they satisfy the root condition; `cause` says why not."""

    roots: Tensor
    radius: float
    stable: bool
    cause: str


@dataclass
class ZeroStability(Result):
    """Whether products of the propagation matrices V_n stay bounded.

    Attributes:
        radius: [N], spectral radii of the V_n.
        product_norm: [N], spectral norms of V_n ... V_0.
        stable: True: products of any number of such matrices are bounded, False: one of them violates the root
            condition, None: neither is proven (each is fine alone, their products may still grow).
        cause: why.
    """

    radius: Tensor
    product_norm: Tensor
    stable: bool | None
    cause: str


@dataclass
class Propagation(Result):
    """V_n [N, r, r]: what a step makes of the r values that it carries where the vector field is zero.

    Attributes:
        matrices: [N, r, r]; of matrices that depend on the token their mean.
        spread: the largest difference of a token's matrix from the mean. Where it is not 0 the map is not linear, and
            bounded products alone say nothing of its Jacobian.
    """

    matrices: Tensor
    spread: float


def root_condition(coefficients: Sequence[float]) -> RootCondition:
    """Whether rho(zeta) = alpha_k zeta^k + ... + alpha_0 has its roots in the closed unit disc, those on the circle
    simple (Hairer, Norsett, Wanner I, definition III.3.2).

    Args:
        coefficients: alpha_k .. alpha_0, the highest power first.

    Raises:
        ValueError: fewer than two, or alpha_k = 0.
    """
    if len(coefficients) < 2 or coefficients[0] == 0:
        raise ValueError(f"expected alpha_k .. alpha_0 with alpha_k not 0, got {list(coefficients)}")
    roots = np.roots(coefficients)
    cause = _violation(roots, lambda root: int((abs(roots - root) < np.sqrt(TOLERANCE)).sum()) == 1)
    return RootCondition(torch.from_numpy(roots.astype(complex)), float(abs(roots).max(initial=0)), not cause, cause)


def zero_stability(matrices: Tensor) -> ZeroStability:
    """Whether products of propagation matrices [N, r, r] stay bounded (HNW I, section III.8, for constant ones).

    Proven where all of them have norm <= 1 in a common norm (1, 2 or infinity), or share an eigenvector to the
    eigenvalue 1 and contract on the rest; for one constant matrix by its eigenvalues.

    Raises:
        ValueError: not square matrices [N, r, r].
    """
    if matrices.dim() != 3 or matrices.shape[1] != matrices.shape[2] or not len(matrices):
        raise ValueError(f"expected propagation matrices [N, r, r], got {list(matrices.shape)}")
    v = host(matrices).double()
    total, norms = torch.eye(v.shape[1], dtype=torch.float64), []
    for matrix in v:
        total = matrix @ total
        norms.append(torch.linalg.matrix_norm(total, 2))
    radius = torch.linalg.eigvals(v).abs().amax(dim=1)
    stable, cause = _judge(v)
    return ZeroStability(radius, torch.stack(norms), stable, cause)


@torch.no_grad()
def propagation_matrices(stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None) -> Propagation:
    """The propagation matrices of a stack of multistep, momentum or stream blocks along an input x [B, ...].

    Raises:
        ValueError: a block that carries one value only, or a history whose weights are not a matrix.
    """
    steps = trace(stack, x, context)
    if all(isinstance(step.block, StreamBlock) for step in steps):
        per_token = stream_matrices(stack, x, context)
        means = torch.stack([h.mean(0) for h in per_token])
        return Propagation(means, max(float((h - mean).abs().max()) for h, mean in zip(per_token, means)))
    return Propagation(torch.stack([_matrix(step) for step in steps]), 0.0)


def _matrix(step: Step) -> Tensor:
    block = step.block
    if isinstance(block, LinearMultistep):
        k = float(step.weights["k"])
        return torch.tensor([[1 - k, k], [1.0, 0.0]], dtype=torch.float64)
    if isinstance(block, Momentum):
        g = block.gamma**step.h
        return torch.tensor([[1.0, step.h * g], [0.0, g]], dtype=torch.float64)
    raise ValueError(
        f"{type(block).__name__} is no multistep, momentum or stream block: it carries nothing from step to step that "
        "a propagation matrix would describe"
    )


def _judge(v: Tensor) -> tuple[bool | None, str]:
    for n, matrix in enumerate(v):
        values = torch.linalg.eigvals(matrix).numpy()
        cause = _violation(values, functools.partial(_is_semisimple, matrix, values))
        if cause:
            return False, f"step {n}: {cause}"
    for order, name in ((1, "1"), (2, "2"), (float("inf"), "infinity")):
        if float(torch.linalg.matrix_norm(v, order).max()) <= 1 + TOLERANCE:
            return True, f"every matrix has {name}-norm at most 1"
    if float((v - v[0]).abs().max()) <= TOLERANCE:
        return True, "one constant matrix that satisfies the root condition"
    rest = _beside_common_eigenvector(v)
    if rest is not None and rest < 1 - TOLERANCE:
        return True, f"one common value is kept, all others contract by at least {rest:.3g} per step"
    return None, "each matrix satisfies the root condition; that their products stay bounded is not proven by this"


def _beside_common_eigenvector(v: Tensor) -> float | None:
    """The largest norm of the V_n beside a common eigenvector to the eigenvalue 1; None if they share none."""
    r = v.shape[1]
    _, s, vh = torch.linalg.svd((v - torch.eye(r, dtype=v.dtype)).reshape(-1, r))
    if r < 2 or float(s[-1]) > TOLERANCE:
        return None
    others = vh[:-1].T  # [r, r-1], orthogonal to the eigenvector vh[-1]
    rest = others.T @ v @ others
    return min(float(torch.linalg.matrix_norm(rest, order).max()) for order in (1, 2, float("inf")))


def _violation(roots: np.ndarray, is_simple: Callable[[complex], bool]) -> str:
    """What is wrong with these roots, empty if nothing."""
    worst = roots[abs(roots).argmax()] if len(roots) else 0
    if abs(worst) > 1 + TOLERANCE:
        return f"a root of modulus {abs(worst):.4g} outside the unit circle"
    for root in roots[abs(roots) > 1 - TOLERANCE]:
        if not is_simple(root):
            return f"a multiple root {complex(root):.3g} on the unit circle"
    return ""


def _is_semisimple(matrix: Tensor, values: np.ndarray, root: complex) -> bool:
    """Whether the eigenvalue has as many eigenvectors as its multiplicity."""
    multiplicity = int((abs(values - root) < np.sqrt(TOLERANCE)).sum())
    shifted = matrix.numpy().astype(complex) - root * np.eye(len(matrix))
    return len(matrix) - np.linalg.matrix_rank(shifted, tol=np.sqrt(TOLERANCE)) == multiplicity
