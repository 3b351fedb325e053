"""Runge-Kutta blocks: a layer of higher order with one branch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from odenets.blocks.base import Block, step_size
from odenets.blocks.branches import Prenormed
from odenets.solvers import TABLEAUS, ButcherTableau
from odenets.solvers.step import add_scaled, weighted_sum

WEIGHTS = ("fixed", "learned", "gated")


class RungeKuttaBlock(Block):
    """`F_i = F(t + c_i h, x + h sum_j a_ij F_j)`, `x+ = x + h sum_i b_i F_i`: one step, one branch for all stages.

    With h = 1 the layers of the ODE Transformer (Li et al. 2022, arXiv:2203.09176, section 3): "heun2" is its RK2,
    "rk4" its RK4. How h enters: as the method's step size.

    weights:
        "fixed": the method's b_i: the method's order.
        "learned": scalars b_i, which start there (the paper's learnable gamma_i); order 1 or less after training.
        "gated": `x + h (g F_1 + (1 - g) F_2)`, g = sigmoid([F_1, F_2] W + c) per position, for methods of two stages
            (the paper's RK2 with a gate); W and c start at zero, g at 1/2. Order 1 for every g.

    Args:
        branch: a vector field `F(t, x) -> [x.shape]`.
        method: name of an explicit Runge-Kutta method of `odenets.solvers`.
        weights: "fixed", "learned" or "gated".
        dim: size of x along `axis`; only the gate needs it.
        norm: a module applied to the branch's input, or None.
        axis: the axis the gate reads.

    Raises:
        ValueError: unknown `method` or `weights`, or a gate without dim or with a method not of two stages.
    """

    def __init__(
        self,
        branch: nn.Module,
        method: str = "rk4",
        weights: str = "fixed",
        dim: int | None = None,
        norm: nn.Module | None = None,
        axis: int = -1,
    ):
        super().__init__()
        if weights not in WEIGHTS:
            raise ValueError(f"weights= takes one of {WEIGHTS}, got {weights!r}")
        self.field = Prenormed(branch, norm)
        self.tableau = explicit_tableau(method)
        self.weights = weights
        self.axis = axis
        if weights == "learned":
            self.b = nn.Parameter(torch.tensor(self.tableau.b))
        if weights == "gated":
            if self.tableau.stages != 2 or dim is None:
                raise ValueError(
                    f"weights='gated' expects a method of two stages and dim=, got method={method!r}, dim={dim}; take "
                    "method='heun2' and the size of x along axis"
                )
            self.gate = nn.Linear(2 * dim, 1)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def forward(self, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
        """x of any shape the branch takes; t and h floats, [] or [B]. Returns x's shape."""
        stages = explicit_stages(self.field, self.tableau, t, x, h)
        if self.weights == "fixed":
            return add_scaled(x, step_size(h, x), weighted_sum(self.tableau.b, stages))
        if self.weights == "learned":
            increment = sum(b * f for b, f in zip(self.b.to(x.dtype), stages))
        else:
            first, second = stages
            g = self.gate(torch.cat(stages, dim=self.axis).movedim(self.axis, -1)).sigmoid().movedim(-1, self.axis)
            increment = g * first + (1 - g) * second
        return x + step_size(h, x) * increment

    def extra_repr(self) -> str:
        return f"method={self.tableau.name!r}, weights={self.weights!r}"


def explicit_tableau(method: str) -> ButcherTableau:
    """The explicit Runge-Kutta method of that name.

    Raises:
        ValueError: there is none.
    """
    if method not in TABLEAUS:
        raise ValueError(f"method= takes one of {tuple(TABLEAUS)}, got {method!r}")
    return TABLEAUS[method]


def explicit_stages(
    field: Callable[..., Tensor], tableau: ButcherTableau, t: Tensor | float, x: Tensor, h: Tensor | float
) -> list[Tensor]:
    """The stages F_1 .. F_s of one explicit step, each [x.shape]; t and h floats, [] or [B]."""
    step = step_size(h, x)
    stages: list[Tensor] = []
    for row, c in zip(tableau.a, tableau.c):
        stages.append(field(t + c * h, add_scaled(x, step, weighted_sum(row, stages))))
    return stages


def explicit_step(
    field: Callable[..., Tensor], tableau: ButcherTableau, t: Tensor | float, x: Tensor, h: Tensor | float
) -> Tensor:
    """One explicit Runge-Kutta step, [x.shape]."""
    stages = explicit_stages(field, tableau, t, x, h)
    return add_scaled(x, step_size(h, x), weighted_sum(tableau.b, stages))
