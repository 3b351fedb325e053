"""What every exact gradient method must do: give autograd's gradient of the same steps, in every situation.

A new method is an entry in `EXACT`; reversible schemes are in `test_gradient_reversible`.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor, nn

from odenets import solve
from odenets.solvers import GRADIENTS, Adams, InputError
from odenets.solvers.gradients import DiscreteAdjoint, Gradient, Recursive

F64 = torch.float64
EXACT: dict[str, Gradient | str] = {
    "checkpoint": "checkpoint",
    "recursive": "recursive",
    "recursive, 3 slots": Recursive(slots=3),
    "recursive, 1 slot": Recursive(slots=1),
    "discrete_adjoint": "discrete_adjoint",
    "discrete_adjoint, 3 slots": DiscreteAdjoint(slots=3),
    "forward": "forward",
}
every_method = pytest.mark.parametrize("gradient", EXACT.values(), ids=EXACT)
TS = torch.tensor([0.0, 0.4, 0.45, 1.1, 1.3], dtype=F64)
SOLVES = {
    "fixed": {"solver": "rk4", "steps": 13},
    "fixed, first same as last, outputs off the grid": {"solver": "dopri5", "step_size": 0.3},
    "fixed, Hermite between grid points": {"solver": "heun3", "steps": 5, "interpolation": "cubic"},
    "outputs are the grid": {"solver": "midpoint"},
    "perturbed": {"solver": "rk4", "steps": 6, "perturb": True},
    "adaptive": {"solver": "dopri5"},
    "adaptive, no first same as last": {"solver": "adaptive_heun", "rtol": 1e-3, "atol": 1e-4},
    "adaptive with rejections": {"solver": "bosh3", "rtol": 1e-4, "first_step": 1.0},
    "jumps and stops": {"solver": "tsit5", "jump_t": [0.2, 0.7], "step_t": [0.3]},
}


SWITCHING = {"solver": "auto_tsit5_rodas5p"}
DRAWING = [
    SOLVES["fixed"],
    SOLVES["fixed, first same as last, outputs off the grid"],
    SOLVES["fixed, Hermite between grid points"],
    {"solver": "bosh3", "rtol": 0.5, "atol": 0.5, "first_step": 1.0},
]


class Field(nn.Module):
    """Non-autonomous and nonlinear; `spare` is never used."""

    def __init__(self, width: int = 3, dtype: torch.dtype = F64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.w = nn.Parameter(torch.randn(width, width, dtype=F64, generator=generator).to(dtype) / math.sqrt(width))
        self.c = nn.Parameter(torch.randn(width, dtype=F64, generator=generator).to(dtype))
        self.spare = nn.Parameter(torch.ones(2, dtype=dtype))

    def forward(self, t: Tensor, y: Tensor, rate: Tensor | float = 1.0) -> Tensor:
        return rate * torch.tanh(y @ self.w + torch.sin(2 * t) * self.c) - 0.1 * y


def start(width: int = 3, dtype: torch.dtype = F64) -> Tensor:
    return torch.linspace(-0.8, 0.5, width, dtype=F64).to(dtype).requires_grad_(True)


def weighted(ys: Tensor) -> Tensor:
    """A loss that every output's every element enters differently."""
    weights = torch.linspace(-1, 2, ys.numel(), dtype=F64).to(ys.real.dtype).view_as(ys.real)
    return (ys.abs().square() * weights).sum() + (ys.real * weights).sum()


def results(gradient: Gradient | str, ts: Tensor = TS, times: bool = True, **settings):
    """Outputs and the gradients of y0, the times, the parameters and an argument."""
    field, y0, rate = Field(), start(), torch.tensor(0.9, dtype=F64, requires_grad=True)
    ts = ts.clone().requires_grad_(times)
    ys = solve(field, y0, ts, args=(rate,), gradient=gradient, **settings).ys
    weighted(ys).backward()
    return [
        ys.detach(),
        y0.grad,
        *([ts.grad] if times else []),
        field.w.grad,
        field.c.grad,
        rate.grad,
    ], field.spare.grad


@functools.cache
def by_autograd(name: str):
    return results("autograd", **SOLVES[name])[0]


def assert_same(found, reference, tolerance: float = 1e-12) -> None:
    assert len(found) == len(reference)
    for mine, exact in zip(found, reference):
        assert torch.allclose(mine, exact, rtol=tolerance, atol=tolerance), (mine, exact)


@every_method
@pytest.mark.parametrize("name", SOLVES)
def test_is_the_gradient_of_the_very_steps(gradient, name):
    found, spare = results(gradient, **SOLVES[name])
    assert_same(found, by_autograd(name))
    assert torch.equal(spare, torch.zeros(2, dtype=F64))  # not None


@every_method
@pytest.mark.parametrize("side", [torch.ge, torch.gt], ids=["at the jump after it", "at the jump before it"])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "backward in time"])
def test_steps_from_a_discontinuity_are_run_again_on_its_far_side(gradient, side, ends):
    w = torch.tensor(1.3, dtype=F64, requires_grad=True)

    def field(t, y, w):
        return torch.where(side(t, 0.4), torch.sin(t) - 3 * w * y, w * y)

    found = []
    for method in ("autograd", gradient):
        y0 = torch.tensor([0.7, 1.1], dtype=F64, requires_grad=True)
        solution = solve(
            field, y0, ends, solver="tsit5", rtol=1e-4, jump_t=[0.4], args=(w,), params=(w,), gradient=method
        )
        found.append(torch.autograd.grad(solution.ys[-1].square().sum(), (y0, w)))
    for expected, value in zip(*found):
        assert torch.allclose(value, expected, rtol=1e-11)


@every_method
@pytest.mark.parametrize("solver", ["fixed", "adaptive"])
def test_backward_in_time_and_without_the_times_gradient(gradient, solver):
    for ts, times in ((TS.flip(0), True), (TS, False)):
        found, _ = results(gradient, ts, times, **SOLVES[solver])
        assert_same(found, results("autograd", ts, times, **SOLVES[solver])[0])


@every_method
def test_agrees_over_a_thousand_steps(gradient):
    if gradient == Recursive(slots=1) or gradient in (Recursive(slots=3), DiscreteAdjoint(slots=3)):
        pytest.skip("quadratically many, or as many as N^(4/3), steps run again")
    settings = {"solver": "midpoint", "steps": 1000, "times": False}
    found, _ = results(gradient, torch.tensor([0.0, 10.0], dtype=F64), **settings)
    assert_same(found, results("autograd", torch.tensor([0.0, 10.0], dtype=F64), **settings)[0], 1e-10)


@every_method
def test_trees_and_complex_states(gradient):
    def run(gradient):
        a = torch.tensor(0.7, dtype=F64, requires_grad=True)
        x = torch.ones(2, dtype=F64, requires_grad=True)
        z = torch.tensor([1.0 + 1j], dtype=torch.complex128, requires_grad=True)
        ts = TS.clone().requires_grad_(True)

        def field(t, state):
            x, z = state
            return {"x": -a * x * torch.cos(t), "z": 1j * a * z * x.sum() * torch.sin(t)}.values()

        xs, zs = solve(
            lambda t, s: tuple(field(t, s)), (x, z), ts, gradient=gradient, params=(a,), solver="dopri5", rtol=1e-4
        ).ys
        (weighted(xs) + (zs.real * 2 - zs.imag**2).sum()).backward()
        return [x.grad, z.grad, a.grad, ts.grad]

    assert_same(run(gradient), run("autograd"))


@every_method
@pytest.mark.parametrize("wanted", ["y0", "times", "parameters"])
def test_when_only_some_inputs_require_grad(gradient, wanted):
    def run(gradient):
        field = Field().requires_grad_(wanted == "parameters")
        y0 = start().detach().requires_grad_(wanted == "y0")
        ts = TS.clone().requires_grad_(wanted == "times")
        weighted(solve(field, y0, ts, gradient=gradient, solver="dopri5").ys).backward()
        return [g for g in (y0.grad, ts.grad, field.w.grad) if g is not None]

    found = run(gradient)
    assert len(found) == 1
    assert_same(found, run("autograd"))


@every_method
def test_nothing_is_kept_where_no_gradient_is_wanted(gradient):
    with torch.no_grad():
        inference = solve(Field(), start(), TS, gradient=gradient).ys
    assert not inference.requires_grad
    assert torch.equal(inference, solve(Field(), start(), TS).ys.detach())


class Dropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = Field(), nn.Dropout(0.5)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.dropout(self.inner(t, y))


@every_method
@pytest.mark.parametrize("settings", DRAWING, ids=range(4))
def test_dropout_draws_the_same_masks_again(gradient, settings):
    def run(gradient):
        torch.manual_seed(5)
        field, y0 = Dropout(), start()
        ys = solve(field, y0, TS, gradient=gradient, **settings).ys
        after_forward = torch.get_rng_state()
        weighted(ys).backward()
        assert torch.equal(torch.get_rng_state(), after_forward)  # backward leaves the generators alone
        return [ys.detach(), y0.grad, field.inner.w.grad, field.inner.c.grad]

    assert_same(run(gradient), run("autograd"))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = Field(), nn.BatchNorm1d(3, dtype=F64)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.norm(self.inner(t, y))


@every_method
def test_running_statistics_are_updated_once(gradient):
    def run(gradient):
        field = Normed()
        y0 = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        weighted(solve(field, y0, TS, gradient=gradient, solver="rk4", steps=5).ys).backward()
        assert field.norm.num_batches_tracked == 21  # 4 stages in 5 steps, and the end, for the last polynomial
        return [y0.grad, field.inner.w.grad, field.norm.weight.grad, field.norm.running_mean, field.norm.running_var]

    assert_same(run(gradient), run("autograd"))


@every_method
def test_recomputes_in_the_precision_of_the_forward_pass(gradient):
    def run(gradient):
        field, y0 = Field(dtype=torch.float32), start(dtype=torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ys = solve(field, y0[None], TS, gradient=gradient, solver="rk4", steps=5).ys
        weighted(ys).backward()
        return [ys.detach(), y0.grad, field.w.grad]

    assert_same(run(gradient), run("autograd"), 1e-2)  # sums of bfloat16 weight gradients round differently
    assert not torch.allclose(run(gradient)[1], _in_full_precision()[1], rtol=1e-5)


def _in_full_precision():
    field, y0 = Field(dtype=torch.float32), start(dtype=torch.float32)
    weighted(solve(field, y0[None], TS, solver="rk4", steps=5).ys).backward()
    return [None, y0.grad, field.w.grad]


@every_method
def test_backward_can_be_run_twice_on_a_retained_graph(gradient):
    field, y0 = Field(), start()
    loss = weighted(solve(field, y0, TS, gradient=gradient, solver="rk4", steps=13).ys)
    (first,) = torch.autograd.grad(loss, y0, retain_graph=True)
    (second,) = torch.autograd.grad(loss, y0)
    assert torch.equal(first, second)


@every_method
def test_double_backward_is_refused(gradient):
    y0 = start()
    ys = solve(Field(), y0, TS, gradient=gradient).ys
    (grad,) = torch.autograd.grad(weighted(ys), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        grad.sum().backward()


@every_method
def test_parameters_changed_in_place_before_backward_are_noticed(gradient):
    field, y0 = Field(), start()
    ys = solve(field, y0, TS, gradient=gradient).ys
    with torch.no_grad():
        field.w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ys.sum().backward()


@every_method
def test_hooks_of_the_parameters_run_once(gradient):
    field, seen = Field(), []
    for p in field.parameters():
        p.register_post_accumulate_grad_hook(lambda p: seen.append(p.shape))
    weighted(solve(field, start(), TS, gradient=gradient).ys).backward()
    assert len(seen) == 3


@every_method
def test_backward_statistics(gradient):
    solution = solve(Field(), start(), TS, gradient=gradient, solver="rk4", steps=13)
    assert (solution.stats.nfe_backward is None) == (gradient != "forward")  # whose work is done on the way
    weighted(solution.ys).backward()
    assert solution.stats.nfe == 52
    assert solution.stats.nfe_backward >= 52


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name not in ("autograd", "adjoint", "auto")])
def test_wrong_combinations_fail_before_the_solve(name):
    def never(t, y):
        raise AssertionError("evaluated")

    for wrong, said in (
        ({"dense": True}, "gradient='autograd'"),
        ({"save_at": "steps"}, "gradient='autograd'"),
        ({"solver": Adams("explicit_adams", steps=5)}, "Adams"),
        *([] if name == "interpolating_adjoint" else [({"solver": "bdf"}, "bdf"), (SWITCHING, "auto_tsit5_rodas5p")]),
        ({"solver": "dopri5", "per_sample": True}, "per_sample"),
    ):
        with pytest.raises(InputError, match=said):
            solve(never, torch.ones(2, 2), (0.0, 1.0), gradient=name, params=(), **wrong)
    with pytest.raises(InputError, match="params="):
        solve(
            never, torch.ones(2), (0.0, 1.0), gradient=name, solver="reversible_heun" if name == "reversible" else "rk4"
        )


def test_unknown_gradients_are_named_with_the_nearest():
    with pytest.raises(InputError, match="did you mean checkpoint"):
        solve(Field(), start(), TS, gradient="checkpont")
    with pytest.raises(InputError, match="slots must be at least 1"):
        Recursive(slots=0)
