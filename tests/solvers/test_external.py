"""scipy and torchdiffeq as backends of `solve`."""

from __future__ import annotations

import pytest
import torch
import torchdiffeq
from torch import nn

from odenets import solve
from odenets.solvers import Scipy, SolveError, Status, Torchdiffeq

from .fields import COUPLED_START, coupled, coupled_exact

F64 = torch.float64
TS = torch.linspace(0, 3, 7, dtype=F64)


@pytest.mark.parametrize("method", ["RK45", "DOP853", "Radau", "BDF", "LSODA"])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_scipy_methods(method, direction):
    ts = direction * TS
    solution = solve(coupled, COUPLED_START, ts, solver=Scipy(method, rtol=1e-8, atol=1e-9))
    assert torch.allclose(solution.ys, coupled_exact(ts), atol=2e-5)
    assert solution.stats.nfe > 10


def test_scipy_failure_has_scipys_cause_and_keeps_what_was_computed():
    solution = solve(lambda t, y: y**2, torch.ones(1, dtype=F64), TS, solver=Scipy("RK45"), throw=False)
    assert "scipy's RK45" in solution.message
    assert torch.allclose(solution.ys[:2, 0], 1 / (1 - TS[:2]), atol=1e-4)
    assert solution.ys[3:].isnan().all()


def test_torchdiffeq_backend_is_torchdiffeq():
    solution = solve(coupled, COUPLED_START, TS, solver=Torchdiffeq("dopri5", rtol=1e-5, atol=1e-6))
    assert torch.equal(
        solution.ys, torchdiffeq.odeint(coupled, COUPLED_START, TS, rtol=1e-5, atol=1e-6, method="dopri5")
    )
    assert solution.stats.nfe > 20
    by_name = solve(coupled, COUPLED_START, TS, solver="torchdiffeq", method="bosh3", rtol=1e-6)
    assert torch.allclose(by_name.ys, coupled_exact(TS), atol=1e-3)


def test_torchdiffeq_adjoint_gives_the_same_gradients_as_ours():
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([[0.1, -1.0], [1.0, 0.1]], dtype=F64))

        def forward(self, t, y):
            return torch.tanh(y @ self.w) * torch.cos(t)

    gradients = []
    for solver in (Torchdiffeq("dopri5", rtol=1e-9, atol=1e-10), "tsit5"):
        field = Field()
        y0 = COUPLED_START.clone().requires_grad_(True)
        settings = {"rtol": 1e-9, "atol": 1e-10} if solver == "tsit5" else {}
        solve(field, y0, TS, solver=solver, gradient="adjoint", **settings).ys.square().sum().backward()
        gradients.append((y0.grad, field.w.grad))
    for theirs, ours in zip(*gradients):
        assert torch.allclose(theirs, ours, rtol=1e-6)


def test_torchdiffeq_failure_is_a_status_with_the_true_cause():
    solution = solve(lambda t, y: y * torch.nan, COUPLED_START, TS, solver="torchdiffeq", throw=False)
    assert solution.status is Status.NON_FINITE
    with pytest.raises(SolveError, match="torchdiffeq"):
        solve(lambda t, y: y * torch.nan, COUPLED_START, TS, solver="torchdiffeq")


@pytest.mark.parametrize("solver", [Scipy(), Torchdiffeq()])
def test_backends_do_not_show_their_steps(solver):
    with pytest.raises(ValueError, match="does not show its steps"):
        solve(coupled, COUPLED_START, TS, solver=solver, dense=True)
