"""Systems M x' = f(t, x) with a constant matrix M, singular for differential-algebraic equations of index 1.

HW II, section VI.1. With M singular, L^T f(t, x) = 0 for every L with L^T M = 0 is an algebraic equation, which the
start must satisfy. Index 1 means that these equations can be solved for the part of x that M does not see: L^T J R is
invertible, with J = df/dx and the columns of R spanning the kernel of M.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..norms import rms_norm_per_sample
from ..step import Field
from .slopes import Slopes


class MassMatrix(nn.Module):
    """The system M x' = field(t, x), for the solvers that take one (rodas5p, radauIIA5).

    Args:
        field: right-hand side (t, x, *args) -> like x, on states x [n] or [batch, n].
        mass: M [n, n], or its diagonal [n].

    Raises:
        InputError: for a mass of another shape; and at a call, because it has no x' to return.
    """

    mass: Tensor

    def __init__(self, field: Callable[..., Tensor], mass: Tensor) -> None:
        super().__init__()
        if mass.dim() not in (1, 2) or mass.shape[0] != mass.shape[-1]:
            raise InputError(f"mass must be [n, n] or a diagonal [n], got shape {tuple(mass.shape)}.")
        self.field = field
        self.register_buffer("mass", torch.diag(mass) if mass.dim() == 1 else mass)

    def forward(self, t: Tensor, x: Tensor, *args) -> Tensor:
        raise InputError(
            "M x' = f has no x' where M is singular: pass the MassMatrix to solve with solver='rodas5p' or 'radauIIA5'."
        )


def check_start(field: Field, mass: Tensor, t: Tensor, y: Tensor, rtol: float | Tensor, atol: float | Tensor) -> None:
    """Raise InputError unless y [n] or [batch, n] satisfies the algebraic equations at t to the tolerance.

    That is: unless the change of the algebraic part that would satisfy them (to first order) is below atol + rtol |y|,
    in the root mean square over a system.
    """
    if y.dim() not in (1, 2) or y.shape[-1] != len(mass) or y.is_complex():
        raise InputError(
            f"a MassMatrix [{len(mass)}, {len(mass)}] needs real states [{len(mass)}] or [batch, {len(mass)}],"
            f" got {y.dtype} {tuple(y.shape)}."
        )
    with torch.no_grad():
        change = algebraic_correction(field, mass.detach(), t, y.detach())
        worst = rms_norm_per_sample((change / (atol + rtol * y.abs())).nan_to_num(0.0).reshape(-1, len(mass))).max()
    if not float(worst) <= 1:
        raise InputError(
            f"the start violates the algebraic equations of M x' = f: x must change by {float(change.abs().max()):.3g} "
            f"({float(worst):.3g} times the tolerance) to satisfy them; use consistent_start(field, t0, y0)."
        )


def consistent_start(field: MassMatrix, t0: float | Tensor, y0: Tensor, *args, iterations: int = 50) -> Tensor:
    """y0 [n] or [batch, n] with its algebraic part changed so that the algebraic equations hold, by Newton's method.

    Raises:
        InputError: if the iteration does not converge, or the index is above 1.
    """
    t = torch.as_tensor(t0, dtype=y0.dtype, device=y0.device)
    mass = field.mass.detach().to(y0)
    y = y0.detach().clone()
    right_hand_side = lambda t, x: field.field(t, x, *args)  # noqa: E731
    with torch.no_grad():
        for _ in range(iterations):
            change = algebraic_correction(right_hand_side, mass, t, y)
            y = y + change
            if float((change.abs() - 100 * torch.finfo(y.dtype).eps * y.abs().amax(-1, keepdim=True)).max()) <= 0:
                return y
    raise InputError(f"no consistent start near y0 in {iterations} Newton iterations: begin closer to one.")


def algebraic_correction(field: Field, mass: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The Newton update -R (L^T J R)^{-1} L^T f of the algebraic part, like y; zero where M is regular."""
    left, sizes, right = torch.linalg.svd(mass)
    kernel = sizes <= sizes.max() * len(mass) * torch.finfo(mass.dtype).eps
    left, right = left[:, kernel], right.mT[:, kernel]  # [n, m]
    if not right.shape[1]:
        return torch.zeros_like(y)
    value = getattr(field, "evaluate", field)(t, y)
    jacobian, _ = Slopes(field, y.dim() - 1)(t, y)
    system = left.mT @ jacobian @ right  # [*batch, m, m]
    scale = torch.linalg.matrix_norm(jacobian, 2).reshape(system.shape[:-2])
    smallest = torch.linalg.svdvals(system)[..., -1]
    if not bool((smallest > 1e-14 * scale).all()):
        raise InputError(
            "the algebraic equations of M x' = f cannot be solved for the algebraic variables at the start (index above "
            "1, or not finite): differentiate constraints that do not contain them."
        )
    return -(torch.linalg.solve(system, value @ left) @ right.mT)
