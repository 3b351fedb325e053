"""M x' = f(t, x): regular and singular M, against closed forms, the ODE behind the DAE and reference digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from odenets import solve
from odenets.solvers import Adaptive, FixedPoint, FixedStep, InputError, MassMatrix, Newton, Scipy, consistent_start

from .fields import COUPLED_START, coupled
from .stiff import STIFF, relative_error, robertson

F64 = torch.float64
SINGULAR = torch.tensor([1.0, 1.0, 0.0], dtype=F64)


def robertson_dae(t, y):
    """The third equation is the conservation of mass instead."""
    return torch.cat([robertson(t, y)[..., :2], y.sum(-1, keepdim=True) - 1], -1)


def slaved(t, x):
    """x' = -z, 0 = z - x^2 (1 + sin t): 1 / x = 1 / x0 + t + 1 - cos t."""
    x, z = x.unbind(-1)
    return torch.stack([-z, z - x**2 * (1 + torch.sin(t))], -1)


def slaved_exact(t, x0=1.0):
    t = torch.as_tensor(t, dtype=F64)
    x = 1 / (1 / x0 + t + 1 - torch.cos(t))
    return torch.stack([x, x**2 * (1 + torch.sin(t))], -1)


SLAVED = MassMatrix(slaved, torch.tensor([1.0, 0.0], dtype=F64))


@pytest.mark.parametrize("solver", ["rodas5p", "radauIIA5"])
def test_robertson_as_a_dae_to_1e11(solver):
    problem = STIFF["robertson"]
    ts = torch.tensor([0.0, 1e-3, 1.0, 1e4, 1e8, 1e11], dtype=F64)
    with torch.no_grad():
        solution = solve(MassMatrix(robertson_dae, SINGULAR), problem.y0, ts, solver=solver, rtol=1e-5, atol=1e-14)
    ode = solve(robertson, problem.y0, ts, solver=Scipy("BDF", rtol=1e-6, atol=1e-13))
    assert relative_error(problem, solution.ys[-1]) < 1e-4
    assert (solution.ys.sum(-1) - 1).abs().max() < 1e-6
    assert (solution.ys[[0, -1]].sum(-1) - 1).abs().max() < 1e-14  # at steps, between which there is dense output
    assert torch.allclose(solution.ys, ode.ys, rtol=1e-4)


@pytest.mark.parametrize(("solver", "numbers"), [("rodas5p", [32, 45, 64]), ("radauIIA5", [16, 23, 32])])
def test_order_five_on_a_nonautonomous_dae(solver, numbers):
    errors = []
    for n in numbers:
        with torch.no_grad():
            ys = solve(SLAVED, slaved_exact(0.0), (0.0, 3.0), solver=FixedStep(solver, steps=n)).ys
        errors.append(float((ys[-1] - slaved_exact(3.0)).norm()))
    assert -np.polyfit(np.log(numbers), np.log(errors), 1)[0] == pytest.approx(5, abs=0.35)


@pytest.mark.parametrize(
    "solver", [FixedStep("rodas5p", steps=7), FixedStep("radauIIA5", steps=7), Adaptive("radauIIA5")]
)
def test_a_regular_mass_matrix_gives_the_steps_of_the_explicit_form(solver):
    """These methods, their error estimates included, are invariant under multiplication of the system by a matrix."""
    mass = torch.tensor([[2.0, 1.0], [0.3, 1.5]], dtype=F64)
    first = {"first_step": 0.1, "max_steps": 100} if isinstance(solver, Adaptive) else {}
    field = MassMatrix(lambda t, x: coupled(t, x) @ mass.mT, mass)
    ts = torch.tensor([0.0, 0.7, 2.0], dtype=F64)
    expected, found = (solve(f, COUPLED_START, ts, solver=solver, **first) for f in (coupled, field))
    assert torch.allclose(found.ys, expected.ys, rtol=1e-12)
    assert found.stats.accepted == expected.stats.accepted


@pytest.mark.parametrize("solver", ["rodas5p", "radauIIA5"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_batches_with_one_clock_and_with_one_per_sample(per_sample, solver):
    x0 = torch.tensor([0.2, 1.0, 3.0], dtype=F64)
    start = torch.stack([slaved_exact(0.0, x) for x in x0.tolist()])
    ts = torch.tensor([0.0, 0.4, 2.0], dtype=F64)
    solution = solve(SLAVED, start, ts, solver=solver, rtol=1e-8, atol=1e-10, per_sample=per_sample)
    exact = torch.stack([slaved_exact(ts, x) for x in x0.tolist()], 1)
    assert torch.allclose(solution.ys, exact, rtol=1e-6, atol=1e-8)
    assert torch.as_tensor(solution.stats.accepted).numel() == (3 if per_sample else 1)


@pytest.mark.parametrize("solver", ["rodas5p", "radauIIA5"])
def test_coupled_samples_share_one_large_mass_matrix(solver):
    def mixed(t, x):
        return slaved(t, x) + 0.1 * (x[..., :1].mean(0) - x[..., :1]) * torch.tensor([1.0, 0.0], dtype=F64)

    start = torch.stack([slaved_exact(0.0, x) for x in (0.5, 1.0)])
    field = MassMatrix(mixed, SLAVED.mass)
    ys = solve(field, start, (0.0, 1.0), solver=solver, rtol=1e-9, atol=1e-11).ys

    def ode(t, x):
        return 0.1 * (x.mean() - x) - x**2 * (1 + torch.sin(t))

    expected = solve(ode, start[:, 0], (0.0, 1.0), solver="dopri8", rtol=1e-11, atol=1e-12).ys[-1]
    assert torch.allclose(ys[-1, :, 0], expected, rtol=1e-8)


@pytest.mark.parametrize("method", ["rodas5p", "radauIIA5"])
def test_gradients_reach_the_mass_matrix_and_the_start(method):
    mass = torch.tensor([[1.0, 0.2], [0.0, 0.0]], dtype=F64, requires_grad=True)
    x0 = torch.tensor(1.0, dtype=F64, requires_grad=True)

    def loss(mass, x0):
        start = torch.stack([x0, x0**2])  # consistent at t = 0
        solver = Adaptive(method, rtol=1e-12, first_step=0.2, min_step=0.2, max_step=0.2)
        return solve(MassMatrix(slaved, mass), start, (0.0, 1.0), solver=solver).ys[-1].pow(2).sum()

    gradients = torch.autograd.grad(loss(mass, x0), (mass, x0))
    with torch.no_grad():
        e = 1e-6
        top = torch.tensor([[e, 0.0], [0.0, 0.0]], dtype=F64)
        assert float(gradients[0][0, 0]) == pytest.approx(
            float(loss(mass + top, x0) - loss(mass - top, x0)) / (2 * e), rel=1e-7
        )
        assert float(gradients[1]) == pytest.approx(float(loss(mass, x0 + e) - loss(mass, x0 - e)) / (2 * e), rel=1e-7)


def test_an_inconsistent_start_is_refused_and_can_be_mended():
    wrong = torch.tensor([1.0, 0.3], dtype=F64)
    with pytest.raises(InputError, match="must change by 0.7 .*consistent_start"):
        solve(SLAVED, wrong, (0.0, 1.0), solver="rodas5p")
    mended = consistent_start(SLAVED, 0.0, wrong)
    assert torch.allclose(mended, torch.tensor([1.0, 1.0], dtype=F64), atol=1e-14)
    ys = solve(SLAVED, mended, (0.0, 1.0), solver="rodas5p", rtol=1e-8, atol=1e-10).ys
    assert torch.allclose(ys[-1], slaved_exact(1.0), rtol=1e-7)


def test_consistent_start_says_when_there_is_none():
    field = MassMatrix(lambda t, x: torch.stack([-x[1], x[1] ** 2 + 1 + 0 * x[0]]), torch.tensor([1.0, 0.0], dtype=F64))
    with pytest.raises(InputError, match="no consistent start"):
        consistent_start(field, 0.0, torch.tensor([1.0, 0.3], dtype=F64))


def test_higher_index_is_refused():
    """x' = z, 0 = x - sin t: z does not occur in the algebraic equation."""
    field = MassMatrix(
        lambda t, x: torch.stack([x[1], x[0] - torch.sin(t)]), torch.tensor([1.0, 0.0], dtype=F64)
    )  # fmt: skip
    with pytest.raises(InputError, match="index above 1"):
        solve(field, torch.tensor([0.0, 1.0], dtype=F64), (0.0, 1.0), solver="rodas5p")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "tsit5"}, "use one of radauIIA5, rodas5p"),
        ({"solver": "kvaerno5"}, "use one of radauIIA5, rodas5p"),
        ({"solver": Adaptive("radauIIA5", nonlinear=FixedPoint())}, "use Newton"),
        ({"solver": Adaptive("radauIIA5", nonlinear=Newton(twice_differentiable=True))}, "twice_differentiable"),
        ({"solver": "explicit_adams", "steps": 5}, "use one of radauIIA5, rodas5p"),
        ({"solver": "auto_tsit5_rodas5p"}, "use one of radauIIA5, rodas5p"),
        ({"solver": "rodas5p", "gradient": "adjoint"}, "use gradient='autograd'"),
        ({"solver": FixedStep("rodas5p", steps=3, interpolation="cubic")}, "use interpolation='dense'"),
    ],
)
def test_what_cannot_solve_it_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        solve(SLAVED, slaved_exact(0.0), (0.0, 1.0), **settings)


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match=r"\[n, n\]"):
        MassMatrix(slaved, torch.ones(2, 3))
    with pytest.raises(InputError, match=r"states \[2\]"):
        solve(SLAVED, torch.ones(3, dtype=F64), (0.0, 1.0), solver="rodas5p")
    with pytest.raises(InputError, match="no x'"):
        SLAVED(torch.tensor(0.0), torch.ones(2))
