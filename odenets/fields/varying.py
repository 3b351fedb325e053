"""A vector field whose weights are functions of time."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from odenets.fields.basis import make_basis
from odenets.fields.time import as_time


class TimeVarying(nn.Module):
    """Any vector field with every parameter replaced by `W(t) = sum_j B_j(t) W_j`.

    Smoothness in t, which decides what a solver can do with it:

    * "piecewise": constant on `nodes` equal pieces of [0, T], discontinuous at `jump_times`;
    * "spline": cubic B-spline with `nodes` >= 4 coefficients, twice continuously differentiable;
    * "fourier": `nodes` functions 1, cos, sin, ... of period T, infinitely smooth, W(T) = W(0).

    The cost of one evaluation is that of the field plus a pass over the `nodes` coefficients (piecewise: over one);
    with one time per sample each sample has weights of its own and the field runs under `torch.vmap` (a wrapped
    `Attention` then wants fused=False: on the CPU its fused form has no batched rule and warns).

    The coefficients keep the parameters' names, with a leading dimension: `template.layers.0.weight` [nodes, out, in].

    Args:
        module: a field, whose weights then hold at every t at initialisation (the field starts independent of t); or a
            factory without arguments: piecewise and spline then draw each node's weights anew, Fourier draws the
            constant term and starts the others at zero.
        basis: "piecewise", "spline" or "fourier".
        nodes: number of coefficients J.
        T: end of the time interval [0, T].

    Raises:
        ValueError: unknown basis, too few nodes, or T <= 0.
    """

    def __init__(
        self,
        module: nn.Module | Callable[[], nn.Module],
        basis: str = "piecewise",
        nodes: int = 4,
        T: float = 1.0,
    ):
        super().__init__()
        self.basis = make_basis(basis, nodes, T)
        if isinstance(module, nn.Module):
            self.template = copy.deepcopy(module)
            draws = None
        else:
            self.template = module()
            # Fourier coefficients are amplitudes of change, not weights: only the constant term is drawn.
            others = [] if basis == "fourier" else [module() for _ in range(nodes - 1)]
            draws = [dict(m.named_parameters()) for m in [self.template, *others]] if others else None
        for name, weight in list(self.template.named_parameters()):
            if draws is None:
                coefficients = self.basis.constant(weight.detach())
            else:
                coefficients = torch.stack([draw[name].detach() for draw in draws])
            self._replace(weight, nn.Parameter(coefficients, requires_grad=weight.requires_grad))

    def _replace(self, old: nn.Parameter, new: nn.Parameter) -> None:
        # Everywhere it occurs: a weight shared by two layers stays shared.
        for module in self.template.modules():
            for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if parameter is old:
                    setattr(module, name, new)

    @property
    def jump_times(self) -> tuple[float, ...]:
        """Times inside (0, T) where the field is discontinuous in t; empty unless the basis is piecewise."""
        return self.basis.jump_times

    def weights(self, t: Tensor) -> dict[str, Tensor]:
        """The field's parameters at the 0-dim time t, by name."""
        return {name: self.basis.combine(t, w) for name, w in self.template.named_parameters()}

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x as the field takes it; t a float, [] or [B] with x [B, ...]. Returns dx/dt with x's shape."""
        t = as_time(t, x)
        if t.dim() == 0:
            return torch.func.functional_call(self.template, self.weights(t), (t, x))

        def one(t: Tensor, x: Tensor) -> Tensor:
            # A batch of one: a field may need its batch dimension.
            return torch.func.functional_call(self.template, self.weights(t), (t, x.unsqueeze(0))).squeeze(0)

        return torch.vmap(one, randomness="different")(t, x)

    def extra_repr(self) -> str:
        return f"basis={self.basis!r}"
