"""Reversible methods: order, inverse, stability and reconstruction, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odenets import solve
from odenets.solvers import TABLEAUS, Reversible
from odenets.solvers.methods.alf import AsynchronousLeapfrog
from odenets.solvers.methods.reversible_heun import ReversibleHeun
from odenets.solvers.one_step import Accuracy

from .fields import COUPLED_START, coupled, coupled_exact

F64 = torch.float64
METHODS = [ReversibleHeun(), AsynchronousLeapfrog(), AsynchronousLeapfrog(eta=0.9),
           *(Reversible(base, 0.99) for base in ("midpoint", "heun3", "rk4", "dopri5"))]  # fmt: skip
every = pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{m.order}")


def error(method, n: int, inside: bool = False) -> float:
    ts = torch.tensor([0.0, 1.93, 2.0] if inside else [0.0, 2.0], dtype=F64)
    ys = solve(coupled, COUPLED_START, ts, solver=method, steps=n).ys
    return float((ys[1] - coupled_exact(ts[1])).norm())


@every
def test_order_on_a_nonautonomous_field(method):
    n = 40 if method.order >= 4 else 160
    errors = [error(method, n), error(method, 2 * n)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(method.order, abs=0.25)


@every
def test_outputs_between_grid_points_are_as_good_as_the_steps_up_to_order_four(method):
    assert error(method, 40, inside=True) < 20 * max(error(method, 40), 40.0 ** -min(method.order + 1, 4))


@every
def test_a_step_back_undoes_the_step(method):
    bound = method.bind(coupled, Accuracy())
    y = COUPLED_START
    h, pairs = 0.1, []
    for n in range(3):
        times = [torch.tensor(0.1 * n + c * h, dtype=F64) for c in method.c]
        t = torch.tensor(0.1 * n, dtype=F64)
        y = bound.trial(times, h, y, lambda t=t, y=y: coupled(t, y), with_error=False).y1
        bound.accepted()
        pairs.append((times, bound.pair))
    times = pairs[2][0]
    back = bound.back(
        h, pairs[2][1], lambda i, x: bound.evaluate(i, times, h, x), lambda x: bound.evaluate(0, pairs[1][0], h, x)
    )
    for mine, exact in zip(back, pairs[1][1]):
        assert torch.allclose(mine, exact, rtol=0, atol=1e-15 / abs(1 - 2 * getattr(method, "eta", 1.0)))


@pytest.mark.parametrize("base", ["midpoint", "rk4"])
@pytest.mark.parametrize("coupling", [0.9, 1.0])
def test_determinant_of_the_coupled_step_is_the_coupling(base, coupling):
    """On x' = -a x the product of the eigenvalues is lambda exactly, and they are near e^{-ah} and lambda e^{ah}."""
    a, h = 2.0, 0.01
    bound = Reversible(base, coupling).bind(lambda t, y: -a * y, Accuracy())
    bound.with_error, bound.dtype = False, F64
    times = [torch.zeros((), dtype=F64)] * (2 * TABLEAUS[base].stages)
    columns = []
    for pair in ((1.0, 0.0), (0.0, 1.0)):
        pair = tuple(torch.tensor(x, dtype=F64) for x in pair)
        columns.append(torch.stack(bound.forth(h, pair, lambda i, x: bound.evaluate(i, times, h, x))))
    matrix = torch.stack(columns, 1)
    assert float(torch.linalg.det(matrix)) == pytest.approx(coupling, abs=1e-12)
    eigenvalues = sorted(torch.linalg.eigvals(matrix).real.tolist())
    assert eigenvalues == pytest.approx(sorted([math.exp(-a * h), coupling * math.exp(a * h)]), abs=2e-3)


def test_forward_instability_beyond_the_bound():
    """Stable for a h < ln(1/lambda), not far beyond (aT = 30, N = 1000, lambda = 0.99: a h = 0.03 > 0.01)."""

    def end(method, a):
        return float(solve(lambda t, y: -a * y, torch.ones(1, dtype=F64), (0.0, 1.0), solver=method, steps=1000).ys[-1])

    assert abs(end(Reversible("midpoint", 0.99), 30.0)) > 100
    assert abs(end(Reversible("midpoint", 0.99), 9.0) - math.exp(-9.0)) < 1e-6
    assert abs(end(ReversibleHeun(), 30.0)) > 1e3


def test_a_wide_pair_reconstructs_single_precision_better():
    """Gradients against float64 over 400 contracting steps: the field in single precision, the pair in double."""

    def gradient(dtype, wide, how):
        y0 = torch.full((1,), 0.5, dtype=dtype, requires_grad=True)
        solver = Reversible("midpoint", 0.98, wide)
        ys = solve(lambda t, y: -torch.sin(y) * 2 + torch.cos(t), y0, (0.0, 4.0), solver=solver, steps=400,
                   gradient=how, params=()).ys  # fmt: skip
        ys[-1].square().sum().backward()
        return y0.grad.double()

    exact = gradient(F64, False, "autograd")
    narrow, wide = (gradient(torch.float32, wide, "reversible") for wide in (False, True))
    errors = [float((found - exact).abs() / exact.abs()) for found in (narrow, wide)]
    assert errors[1] < 0.2 * errors[0]
