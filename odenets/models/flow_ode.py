"""A block's flow, integrated by a solver instead of by the block's own step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from odenets.blocks import Block
from odenets.blocks.flow_block import FlowBlock
from odenets.flows import semilinear_field
from odenets.models.neural_ode import NeuralODE
from odenets.solvers import Gradient, Solver
from odenets.solvers.methods import ONE_STEP
from odenets.solvers.structured.exponential import ExponentialRungeKutta


class FlowODE(NeuralODE):
    """The flow that a block steps along, over [0, T], by any solver: the solver evaluates the flow at its own stages
    (a full step), where the block freezes its coefficients. Constant weights: one block.

    With `FixedStep("euler", steps=N)` a residual block's flow gives the stack `FlowStack(block, T, N, tied=True)`
    exactly; other blocks' stacks tend to it as N grows. Exponential methods (etd1, etdrk2, etdrk4, hochost4) take the
    flow's linear part at the start of each solve, and integrate that exactly.

    Args:
        block: a factory of the block, one that knows its flow (residual, highway, delta, hyper-connections, ...).
        solver, gradient: as for `NeuralODE`.
        T: integration time.

    Raises:
        ValueError: a block that is a step without a flow, and what `NeuralODE` refuses.
    """

    def __init__(
        self,
        block: Callable[[], Block],
        solver: Solver | str = "dopri5",
        gradient: Gradient | str = "autograd",
        T: float = 1.0,
    ):
        built = block()
        if not callable(getattr(type(built), "field", None)):  # a method; some blocks keep a branch by that name
            raise ValueError(
                f"{type(built).__name__} is a step without a vector field that a solver could take; use it in a "
                "FlowStack, or choose a block with a flow such as residual, delta or manifold_hyper_connections"
            )
        built.place(0, 1)
        super().__init__(_FieldOf(built), solver, gradient, 0.0, T)

    @property
    def block(self) -> Block:
        """The block whose flow this is."""
        assert isinstance(self.field, _FieldOf)
        return self.field.block

    def forward(self, x: Tensor, ts: Tensor | None = None) -> Tensor:
        """x of any shape the block takes, the input at ts[0]; ts [T] monotone, None: (0, T). Returns x's shape."""
        return self.block.readout(super().forward(self.block.lift(x), ts))

    def solved_field(self, x: Tensor, ts: Tensor) -> nn.Module:
        method = getattr(self.solver, "method", None)
        known = ONE_STEP.get(method) if isinstance(method, str) else method
        if not isinstance(known, ExponentialRungeKutta):
            return self.field
        if not isinstance(self.block, FlowBlock):
            raise ValueError(
                f"{known.name} integrates a flow's linear part, and {type(self.block).__name__} has none: choose a block "
                "on a semilinear flow (highway, delta, hyper-connections, semilinear), or another solver"
            )
        return semilinear_field(self.block.flow, ts[0].to(x.dtype), x)


class _FieldOf(nn.Module):
    """A block's vector field as a module, so that an adjoint finds its parameters."""

    def __init__(self, block: Block):
        super().__init__()
        self.block = block

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        value = self.block.field(t, x)  # type: ignore[operator]
        assert isinstance(value, torch.Tensor)
        return value
