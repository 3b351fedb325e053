"""Reversible gradients: autograd's gradient of the same scheme, whatever the way back takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from odenets import solve
from odenets.solvers import InputError
from odenets.solvers import Reversible as Coupled
from odenets.solvers.methods.alf import AsynchronousLeapfrog

from .test_gradient_methods import F64, TS, Dropout, Field, assert_same, results, start, weighted

SCHEMES = {
    "reversible_heun": "reversible_heun",
    "alf": "alf",
    "alf, damped": AsynchronousLeapfrog(eta=0.9),
    "rk4": Coupled("rk4", 0.99),
    "first same as last": Coupled("dopri5", 0.99),
    "wide": Coupled("midpoint", wide=True),
}

every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


@every_scheme
@pytest.mark.parametrize(
    ("ts", "times", "grid"),
    [(TS, True, {"steps": 13}), (TS.flip(0), True, {"step_size": 0.05}), (TS, False, {"step_size": 0.1})],
    ids=["off the grid", "on the grid, backward in time", "without the times"],
)
def test_gradient_of_a_reversible_scheme(scheme, ts, times, grid):
    exact = results("autograd", ts, times, solver=scheme, **grid)[0]
    for gradient in ("reversible", "recursive") if "steps" in grid else ("reversible",):
        found, spare = results(gradient, ts, times, solver=scheme, **grid)
        assert_same(found, exact)
        assert torch.equal(spare, torch.zeros(2, dtype=F64))


@pytest.mark.parametrize("scheme", ["reversible_heun", Coupled("dopri5", 0.99), Coupled("adaptive_heun")], ids=range(3))
def test_gradient_of_a_reversible_scheme_with_adaptive_steps(scheme):
    settings = {"solver": scheme, "rtol": 1e-3, "atol": 1e-4, "first_step": 1.0}
    assert_same(results("reversible", **settings)[0], results("autograd", **settings)[0])


@every_scheme
def test_dropout_and_trees_in_a_reversible_scheme(scheme):
    def run(gradient):
        torch.manual_seed(5)
        field, x, y = Dropout(), start(), start()
        ys = solve(lambda t, s: (field(t, s[1]), -s[0]), (x, y), TS, gradient=gradient, solver=scheme, steps=7,
                   params=tuple(field.parameters())).ys  # fmt: skip
        (weighted(ys[0]) + ys[1].square().sum()).backward()
        return [x.grad, y.grad, field.inner.w.grad]

    assert_same(run("reversible"), run("autograd"))


@pytest.mark.parametrize("scheme", ["reversible_heun", "alf", Coupled("midpoint", 0.999)], ids=range(3))
def test_a_thousand_reversible_steps_agree_with_autograd(scheme):
    ts = torch.tensor([0.0, 10.0], dtype=F64)
    settings = {"solver": scheme, "steps": 1000, "times": False}
    assert_same(results("reversible", ts, **settings)[0], results("autograd", ts, **settings)[0], 1e-10)


class Oscillator(nn.Module):
    """q' = p^3 - sin(t) p, p' = -w tanh(q) + cos(t)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.3, dtype=F64))
        self.dropout = nn.Dropout(0.5)

    def drift(self, t: Tensor, p: Tensor) -> Tensor:
        return p**3 - torch.sin(t) * p

    def kick(self, t: Tensor, q: Tensor) -> Tensor:
        return -self.w * torch.tanh(q) + torch.cos(t)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        q, p = x.chunk(2, -1)
        return torch.cat([self.drift(t, p), self.kick(t, q)], -1)


@pytest.mark.parametrize("scheme", ["leapfrog", "symplectic_euler", "yoshida4"])
@pytest.mark.parametrize(("ts", "grid"), [(TS, {"steps": 13}), (TS.flip(0), {"step_size": 0.05})], ids=range(2))
def test_symplectic_steps_are_undone(scheme, ts, grid):
    def run(gradient):
        field, x, times = Oscillator(), start(4), ts.clone().requires_grad_(True)
        weighted(solve(field, x, times, solver=scheme, gradient=gradient, **grid).ys).backward()
        return [x.grad, field.w.grad, times.grad]

    assert_same(run("reversible"), run("autograd"))


def test_random_kicks_are_drawn_again_or_refused():
    class Kicked(Oscillator):
        def kick(self, t: Tensor, q: Tensor) -> Tensor:
            return self.dropout(super().kick(t, q))

    def run(gradient):
        torch.manual_seed(3)
        field, x = Kicked(), start(4)
        weighted(solve(field, x, TS, solver="symplectic_euler", step_size=0.05, gradient=gradient).ys).backward()
        return [x.grad, field.w.grad]

    assert_same(run("checkpoint"), run("autograd"))
    with pytest.raises(InputError, match="random numbers"):
        run("reversible")


def test_only_reversible_methods_can_be_stepped_back():
    with pytest.raises(InputError, match="needs a method that can be stepped back, got 'rk4'"):
        solve(Field(), start(), TS, solver="rk4", gradient="reversible")
    with pytest.raises(InputError, match="leave out per_sample"):
        solve(Field(), start()[None], TS, solver="reversible_heun", per_sample=True)
    with pytest.raises(InputError, match="coupling"):
        Coupled("rk4", coupling=0.0)
    with pytest.raises(InputError, match="explicit Runge-Kutta methods"):
        Coupled("rodas5p")
    with pytest.raises(InputError, match="eta"):
        AsynchronousLeapfrog(eta=0.5)
