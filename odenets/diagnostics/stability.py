"""Where a scheme is stable, and where the eigenvalues of trained layers lie."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odenets.blocks import Antisymmetric, Residual, RungeKuttaBlock
from odenets.blocks.flow_block import FlowBlock
from odenets.diagnostics.jacobian import Jacobian, plain_attention
from odenets.diagnostics.result import Result, host
from odenets.diagnostics.spectrum import eigenvalues
from odenets.diagnostics.trace import Step, is_step_map, trace
from odenets.flows import Scheme, resolve_scheme
from odenets.flows.linear import Diagonal, RankOne, Zero
from odenets.models import FlowODE, FlowStack, NeuralODE
from odenets.solvers import TABLEAUS, solve

MARGIN = 1e-6


@dataclass
class StabilityRegion(Result):
    """|R(z)| on a grid of the complex plane; the scheme is stable where it is at most 1 (HNW II, section IV.3).

    Attributes:
        scheme: its name.
        re, im: the grid, [X] and [Y].
        modulus: |R(re + i im)| [Y, X]; infinite at a pole.
        real_limit, imaginary_limit: stable on [-real_limit, 0] and on [0, i imaginary_limit].
        order: the scheme's.
        is_a_stable: whether it is stable on the left half plane.
    """

    scheme: str
    re: Tensor
    im: Tensor
    modulus: Tensor
    real_limit: float
    imaginary_limit: float
    order: float
    is_a_stable: bool


@dataclass
class LayerEigenvalues(Result):
    """z = h lambda of one layer, which a scheme multiplies by R(z).

    Attributes:
        layer, t, h: which step.
        scheme: the scheme it is taken by.
        z: [B, k] for the eigenvalues lambda of the Jacobian of its whole vector field.
        residuals: [B, k] of z, see `Eigenvalues`.
        linear: [tokens, m] for the eigenvalues of its frozen linear part, one set per token (a rank-one part: the one
            that is not zero); None where it has none. A frozen step multiplies those modes by R(z) exactly; the whole
            field's only where the step is a full one or the linear part is zero.
        growing: the share of modes that grow by themselves, Re z > 0; here and below the linear part's where there is
            one, else z.
        outside: the share of the others that the scheme lets grow nevertheless, |R(z)| > 1.
        radius: the largest |R(z)|.
    """

    layer: int
    t: float
    h: float
    scheme: str
    z: Tensor
    residuals: Tensor
    linear: Tensor | None
    growing: float
    outside: float
    radius: float


def stability_region(
    scheme: str | Scheme,
    re: tuple[float, float] = (-6.0, 3.0),
    im: tuple[float, float] = (-4.5, 4.5),
    points: int = 201,
) -> StabilityRegion:
    """|R(z)| of a scheme on a grid of `points` x `points`.

    Raises:
        ValueError: an unknown scheme, an empty interval or points < 2.
    """
    if not (re[0] < re[1] and im[0] < im[1]) or points < 2:
        raise ValueError(f"expected two intervals and points >= 2, got re={re}, im={im}, points={points}")
    scheme = resolve_scheme(scheme)
    x = torch.linspace(*re, points, dtype=torch.float64)
    y = torch.linspace(*im, points, dtype=torch.float64)
    modulus = scheme.R(torch.complex(*torch.meshgrid(x, y, indexing="xy"))).abs()
    limits = (scheme.real_limit, scheme.imaginary_limit, float(scheme.order), scheme.is_a_stable)
    return StabilityRegion(scheme.name, x, y, modulus.nan_to_num(nan=torch.inf), *limits)


def layer_eigenvalues(
    stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None, k: int = 24, **settings: Any
) -> list[LayerEigenvalues]:
    """z = h lambda of every step whose block knows its vector field, at the states that x passes through.

    Args:
        stack, x, context: the stack and an input [B, ...].
        k, settings: as for `eigenvalues`.

    Raises:
        ValueError: no block of the stack knows its vector field.
    """
    layers = [_layer(step, k, settings) for step in trace(stack, x, context) if scheme_of(step) is not None]
    if not layers:
        raise ValueError(
            f"{type(stack.block(0)).__name__} is a step without a vector field, so that there is no h lambda; "
            "look at layer_spectra"
        )
    return layers


@torch.no_grad()
def ode_eigenvalues(ode: NeuralODE, x: Tensor, points: int = 4, k: int = 24, **settings: Any) -> list[LayerEigenvalues]:
    """z = h lambda of a neural ODE's field along the trajectory from x [B, ...], at `points` equally spaced times.

    h is the size of the fixed steps, or the mean of those an adaptive solver took.

    Raises:
        ValueError: a solver whose method is no Runge-Kutta one.
    """
    method = getattr(ode.solver, "method", None)
    if method not in TABLEAUS:
        raise ValueError(f"{type(ode.solver).__name__} {method!r} is no Runge-Kutta method with a stability function")
    scheme = resolve_scheme(TABLEAUS[method])
    start = ode.block.lift(x) if isinstance(ode, FlowODE) else x
    ts = torch.linspace(ode.t0, ode.t1, points + 1, dtype=torch.float64, device=x.device)
    solution = solve(ode.field, start, (ode.t0, ode.t1), solver=ode.solver)
    h = (ode.t1 - ode.t0) / max(1, int(solution.stats.accepted))
    along = solve(ode.field, start, ts, solver="dopri5").ys
    layers = []
    for n, (t, state) in enumerate(zip(ts[:-1].tolist(), along)):
        found = eigenvalues(Jacobian(functools.partial(ode.field, t), state), k, **settings)
        layers.append(_result(n, t, h, scheme, h * found.values, abs(h) * found.residuals, None))
    return layers


def scheme_of(step: Step) -> Scheme | None:
    """The scheme that the step's block takes on the vector field it knows, None where it has none."""
    block = step.block
    if isinstance(block, RungeKuttaBlock):
        return resolve_scheme(block.tableau) if block.weights == "fixed" else None
    if isinstance(block, FlowBlock):
        return block.scheme
    if isinstance(block, Residual) or (isinstance(block, Antisymmetric) and block.scheme == "euler"):
        return resolve_scheme("forward_euler")
    return None


def _layer(step: Step, k: int, settings: dict[str, Any]) -> LayerEigenvalues:
    scheme = scheme_of(step)
    assert scheme is not None
    if is_step_map(step.block):  # the mixing does not scale with h: h lambda are the eigenvalues of the step less one
        found = eigenvalues(Jacobian(step.map, step.state), k, **settings)
        z, residuals = found.values - 1, found.residuals
    else:
        found = eigenvalues(Jacobian(step.field, step.state), k, **settings)
        z, residuals = step.h * found.values, step.h * found.residuals
    return _result(step.index, step.t, step.h, scheme, z, residuals, _linear_part(step))


def _result(
    index: int, t: float, h: float, scheme: Scheme, z: Tensor, residuals: Tensor, linear: Tensor | None
) -> LayerEigenvalues:
    modes = z if linear is None else linear
    growth = scheme.R(modes).abs()
    grows = modes.real > MARGIN
    outside = float(((growth > 1 + MARGIN) & ~grows).sum() / (~grows).sum().clamp_min(1))
    share = float(grows.double().mean())
    return LayerEigenvalues(index, t, h, scheme.name, z, residuals, linear, share, outside, float(growth.max()))


@torch.no_grad()
def _linear_part(step: Step) -> Tensor | None:
    """h times the eigenvalues of A [tokens, m], of a rank-one part the one that is not zero."""
    if not isinstance(step.block, FlowBlock) or getattr(step.block.flow, "write_only", False):
        return None
    with plain_attention():
        linear = step.call("flow.freeze", step.t, step.state).linear
    h = 1.0 if is_step_map(step.block) else step.h
    if isinstance(linear, Zero):
        return None
    if isinstance(linear, RankOne):
        kappa = linear.k.square().sum(-1) if linear.coefficient == "exact" else torch.ones_like(linear.k[..., 0])
        rates = -kappa if linear.rate is None else -kappa * linear.rate
        values = rates.reshape(-1, 1)
    elif isinstance(linear, Diagonal):
        values = -linear.tau.reshape(-1, linear.tau.shape[-1])
    else:
        matrix = linear.matrix().double()
        values = torch.linalg.eigvals(matrix.reshape(-1, *matrix.shape[-2:]))
    return host(h * values).to(torch.complex128)
