"""Compiled solves by Rosenbrock and diagonally implicit methods: the eager solves' steps, references, failures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from odenets import solve
from odenets.solvers import InputError, NewtonKrylov, SplitField, Status
from odenets.solvers.compiled import capture, lanes
from odenets.solvers.compiled.linear import LU, Elimination, Factors, Inverse, factorised, slopes
from odenets.solvers.methods.rodas5p import RODAS5P

from .stiff import STIFF, prothero_robinson, relative_error, robertson

F64 = torch.float64
MISSING = capture.why_unavailable("cpu") or capture.why_no_loops("cpu")
NEEDED = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "available"),
    pytest.mark.filterwarnings("error:solved eagerly"),
]
SLOW = [pytest.mark.slow(reason="capturing a program takes seconds, compiling it a minute"), *NEEDED]


def slow(test):
    for mark in SLOW:
        test = mark(test)
    return test


def needed(test):
    for mark in NEEDED:
        test = mark(test)
    return test


@pytest.fixture
def tensors(monkeypatch):
    """Small systems as programs of tensors too."""
    capture.clear()
    monkeypatch.setattr(lanes, "LARGEST", 0)


class Relaxation(nn.Module):
    """y1' = -y1 cos(t), y2' = -k (y2 - y1^2 cos t), t [] or [batch]; y1 = y1(0) exp(-sin t)."""

    def __init__(self, k: float = 300.0) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=F64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        slow, fast = y.unbind(-1)
        return torch.stack([-slow * torch.cos(t), -self.k * (fast - slow**2 * torch.cos(t))], -1)


STARTS = torch.tensor([[1.0, 0.0], [0.3, 2.0], [2.0, 2.0]], dtype=F64)


def both(field, y0, ts, **settings):
    with torch.no_grad():
        found = solve(field, y0, ts, compile="solve", throw=False, **settings)
        return found, solve(field, y0, ts, throw=False, **settings)


def same_steps(found, eager, rtol=1e-9, atol=1e-12) -> None:
    for name in ("accepted", "rejected"):
        assert torch.equal(*(torch.as_tensor(getattr(x.stats, name)) for x in (found, eager)))
    assert torch.equal(torch.as_tensor(found.status), torch.as_tensor(eager.status))
    assert torch.allclose(found.ys, eager.ys, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.slow(reason="capturing a program takes seconds; small systems take another one, tested by default")
@needed
def test_rosenbrock_takes_the_eager_steps_in_one_program(traced):
    """Neither parameters nor tolerances, end times, limits or states compile anything again."""
    field, ts = Relaxation(), torch.tensor([0.0, 0.01, 0.4, 0.401, 2.0], dtype=F64)
    settings = {"solver": "rodas5p", "per_sample": True}
    before = counters["stats"]["unique_graphs"]
    found, eager = both(field, STARTS, ts, rtol=1e-4, atol=1e-7, **settings)
    same_steps(found, eager)
    assert len(set(found.stats.accepted.tolist())) > 1
    assert torch.allclose(found.ys[..., 0], STARTS[:, 0] * torch.exp(-torch.sin(ts))[:, None], atol=1e-4)
    with torch.no_grad():
        field.k.fill_(1000.0)
    same_steps(*both(field, STARTS / 2, ts[:3] * 2 + 1, rtol=1e-5, atol=1e-6, **settings))
    found, eager = both(field, STARTS, ts, rtol=1e-5, atol=1e-8, max_steps=9, **settings)
    same_steps(found, eager)
    assert (found.status == int(Status.MAX_STEPS)).any()
    assert counters["stats"]["unique_graphs"] == before + 1


@needed
def test_newton_follows_the_solution(traced):
    """Prothero and Robinson's problem; a second solve with other values runs the same program."""
    ts = torch.tensor([0.0, 0.7, 1.5], dtype=F64)
    settings = {"solver": "kvaerno3", "rtol": 1e-3, "atol": 1e-4}
    before = counters["stats"]["unique_graphs"]
    for end in (1.0, 1.2):
        found, eager = both(prothero_robinson, torch.zeros(1, dtype=F64), ts * end, **settings)
        assert torch.allclose(found.ys[:, 0], torch.sin(ts * end), atol=1e-3)
        assert abs(found.stats.accepted - eager.stats.accepted) <= 2
        assert found.stats.jacobians == found.stats.accepted + found.stats.rejected
        assert found.stats.nfe == found.stats.iterations + 2
    assert counters["stats"]["unique_graphs"] == before + 1


# Linear systems


def matrices(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    jacobian = torch.randn(5, size, size, dtype=F64, generator=generator)
    jacobian[0].fill_diagonal_(2.0)  # I - J / 2 has zeros on the diagonal: without pivoting there is no solution
    return jacobian, torch.randn(5, size, dtype=F64, generator=generator)


@pytest.mark.parametrize(
    ("size", "kind"), [(1, Elimination), (3, Elimination), (4, Elimination), (7, Inverse), (40, LU)]
)
def test_systems_are_solved_and_singular_ones_marked(size, kind):
    jacobian, rhs = matrices(size)
    factors: Factors = factorised(jacobian if size > 1 else jacobian * 0.3, torch.tensor(0.5, dtype=F64))
    assert isinstance(factors, kind)
    matrix = torch.eye(size, dtype=F64) - 0.5 * (jacobian if size > 1 else jacobian * 0.3)
    assert torch.allclose(factors.solve(rhs), torch.linalg.solve(matrix, rhs), rtol=1e-10, atol=1e-10)
    assert not factors.singular.any()
    jacobian[2], jacobian[3, 0, 0] = 2 * torch.eye(size, dtype=F64), math.nan
    singular = factorised(jacobian * torch.ones(5, 1, 1), torch.full((5,), 0.5, dtype=F64)).singular
    assert singular.tolist()[2:4] == [True, True]
    assert not singular[4]


def test_solutions_of_badly_scaled_systems_leave_no_residual():
    """Rows over twelve orders of magnitude, as a stiff reaction's I - h J has them."""
    jacobian, rhs = matrices(7)
    jacobian = jacobian * torch.logspace(0, 12, 7, dtype=F64)[:, None]
    matrix = torch.eye(7, dtype=F64) - 0.5 * jacobian
    x = factorised(jacobian, torch.tensor(0.5, dtype=F64)).solve(rhs)
    residual = (matrix @ x[..., None])[..., 0] - rhs
    assert bool((residual.abs() <= 1e-13 * (matrix.abs() @ x.abs()[..., None])[..., 0]).all())


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_slopes(batch_dims):
    mixing = torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    y, t = torch.rand(3, 2, dtype=F64), torch.tensor(0.3, dtype=F64)

    def field(t, y):
        return torch.sin(t) * (y**2 if batch_dims else mixing @ y**2).flip(-1)

    jacobian, along_t = slopes(field, t, y, batch_dims, along_time=True)
    whole = torch.func.jacrev(field, 1)(t, y).reshape(6, 6)
    if batch_dims:
        whole = torch.stack([whole[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] for i in range(3)])
    assert torch.allclose(jacobian, whole)
    assert along_t is not None
    assert torch.allclose(along_t, torch.func.jacrev(field, 0)(t, y))
    assert torch.equal(jacobian, slopes(field, t, y, batch_dims, along_time=False)[0])


# What is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"solver": "radauIIA5"}, "solved together"),
        ({"solver": "bdf"}, "method 'bdf'"),
        ({"solver": "kvaerno3", "nonlinear": NewtonKrylov()}, "nonlinear=NewtonKrylov, only Newton"),
    ],
)
@needed
def test_what_is_not_compiled_is_refused(traced, settings, words):
    with pytest.raises(InputError, match=words), torch.no_grad():
        solve(prothero_robinson, torch.zeros(1, dtype=F64), (0.0, 1.0), compile="solve", **settings)


@needed
def test_gradients_and_split_fields_are_refused(traced):
    with pytest.raises(InputError, match="gradients of implicit methods"):
        solve(Relaxation(), STARTS, (0.0, 1.0), compile="solve", solver="kvaerno3")
    field = SplitField(lambda t, y: 0 * y, prothero_robinson)
    with pytest.raises(InputError, match="method 'kencarp3'"):
        solve(field, torch.zeros(1, dtype=F64), (0.0, 1.0), compile="solve", solver="kencarp3")


# Slow: everything else, run operator by operator


@slow
@pytest.mark.parametrize("name", STIFF)
@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno4", "kvaerno5"])
def test_reference_digits(traced, name, solver):
    problem = STIFF[name]
    settings = {"solver": solver, "rtol": 1e-6, "atol": problem.atol, "save_at": "end"}
    found, eager = both(problem.field, problem.y0, (0.0, problem.end), **settings)
    assert relative_error(problem, found.ys[-1]) < 1e-5
    steps, wanted = (x.stats.accepted + x.stats.rejected for x in (found, eager))
    # Rosenbrock: the same arithmetic up to rounding, which these problems amplify
    assert abs(steps - wanted) <= (2 if solver == "rodas5p" else 0.02 * wanted + 2)


@slow
@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno3", "kvaerno5"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("per_sample", [False, True])
def test_outputs_in_both_directions(traced, solver, sign, per_sample):
    """A clock each, or one clock for samples that do not influence each other."""
    relaxation, ts = Relaxation(), torch.tensor([0.0, 0.05, 0.051, 0.7, 2.0], dtype=F64)

    def field(t, y):
        return sign * relaxation(sign * t, y)

    settings = {"solver": solver, "rtol": 1e-6, "atol": 1e-9, "per_sample": per_sample}
    found, eager = both(field, STARTS, sign * ts, **settings)
    if solver == "rodas5p":
        same_steps(found, eager)
    exact = solve(field, STARTS, sign * ts, solver="radauIIA5", rtol=1e-10, atol=1e-13).ys
    assert torch.allclose(found.ys, exact, rtol=0, atol=2e-5)
    assert torch.allclose(found.ys[..., 0], STARTS[:, 0] * torch.exp(-torch.sin(ts))[:, None], atol=2e-5)
    assert torch.allclose(found.ys, eager.ys, rtol=0, atol=1e-5)


@slow
@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno3"])
def test_samples_that_influence_each_other(traced, solver):
    """y' = -50 A y + cos t with A from Laplace's operator along the batch: one system of all samples."""
    size = 6
    laplace = 2 * torch.eye(size, dtype=F64) - torch.diag(torch.ones(5, dtype=F64), 1)
    laplace = laplace - torch.diag(torch.ones(5, dtype=F64), -1)

    def field(t, y):
        return -500.0 * laplace @ y + torch.cos(t)

    y0 = torch.linspace(-1, 1, 2 * size, dtype=F64).reshape(size, 2)
    found, _ = both(field, y0, (0.0, 0.3), solver=solver, rtol=1e-7, atol=1e-10)
    # y' = -L y + 1 cos t: y = exp(-L t) (y0 - p(0)) + p(t) with p = Re (i + L)^{-1} 1 exp(i t)
    matrix = 500.0 * laplace
    response = torch.linalg.solve(matrix + 1j * torch.eye(size), torch.ones(size, 1, dtype=torch.complex128))
    exact = (
        torch.linalg.matrix_exp(-0.3 * matrix) @ (y0 - response.real)
        + (response * complex(math.cos(0.3), math.sin(0.3))).real
    )
    assert found.success
    assert torch.allclose(found.ys[-1], exact, rtol=0, atol=1e-6)


@slow
@pytest.mark.parametrize(("solver", "size"), [("rodas5p", 40), ("kvaerno3", 40), ("kvaerno5", 12)])
def test_larger_systems(traced, solver, size):
    """Diffusion with a source sin t along its slowest mode, whose exact solution follows by variation of constants."""
    modes = torch.arange(1, size + 1, dtype=F64)
    points = modes / (size + 1)
    rates = (2 * (size + 1) * torch.sin(math.pi * modes / (2 * (size + 1)))) ** 2
    vectors = torch.sin(math.pi * points[:, None] * modes) * math.sqrt(2 / (size + 1))
    matrix = vectors * rates @ vectors.T

    def field(t, y):
        return torch.sin(t)[:, None] * vectors[:, 0] - y @ matrix

    y0 = torch.stack([points * (1 - points), torch.sin(math.pi * points) ** 3])
    found, _ = both(field, y0, (0.0, 0.5), solver=solver, rtol=1e-6, atol=1e-9, per_sample=True)
    rate, t = float(rates[0]), 0.5
    driven = (rate * math.sin(t) - math.cos(t) + math.exp(-rate * t)) / (1 + rate**2)
    exact = (y0 @ vectors * torch.exp(-rates * t)) @ vectors.T + driven * vectors[:, 0]
    assert torch.allclose(found.ys[-1], exact, rtol=0, atol=2e-6)


@slow
@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno3"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_other_sizes_of_batches_and_systems(traced, solver, per_sample):
    """The second size of a batch compiles once more, a third one never; systems of other sizes are solved as well."""
    settings = {"solver": solver, "rtol": 1e-4, "atol": 1e-7, "per_sample": per_sample}
    graphs = []
    for size in (3, 5, 8):
        starts = torch.linspace(0.5, 2, 2 * size, dtype=F64).reshape(size, 2)
        found, eager = both(Relaxation(), starts, (0.0, 0.5), **settings)
        assert found.success
        assert torch.allclose(found.ys, eager.ys, rtol=1e-3, atol=1e-6)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[2] == graphs[1]
    for size in (1, 2, 3, 6):
        found, _ = both(lambda t, y: -50 * y.flip(-1), torch.ones(2, size, dtype=F64), (0.0, 0.1), **settings)
        assert torch.allclose(found.ys[-1], torch.full((), math.exp(-5), dtype=F64), rtol=1e-2)


@slow
def test_tree_with_first_step(traced):
    def field(t, state):
        return {"a": -state["b"][:1] * torch.cos(t), "b": 100.0 * (state["a"].expand(2) - state["b"])}

    state = {"a": torch.ones(1, dtype=F64), "b": torch.zeros(2, dtype=F64)}
    settings = {"rtol": (1e-4, 1e-5), "atol": 1e-6, "first_step": 0.01}
    for solver in ("rodas5p", "kvaerno3"):
        found, eager = both(field, state, torch.linspace(0, 2, 4), solver=solver, **settings)
        assert abs(found.stats.accepted - eager.stats.accepted) <= (0 if solver == "rodas5p" else 1)
        for name in state:
            assert torch.allclose(found.ys[name], eager.ys[name], atol=1e-4)


@slow
def test_a_singular_matrix_is_named(traced):
    """With y' = y / (h gamma) the matrix 1 - h gamma J is exactly zero at the only step size allowed."""
    h = 0.6
    for solver, gamma in (("rodas5p", RODAS5P.gamma), ("kvaerno5", 0.26)):
        rate = 1 / (h * gamma)
        assert rate * (h * gamma) == 1
        for per_sample in (False, True):
            found, _ = both(
                lambda t, y, rate=rate: rate * y, torch.ones(1 + per_sample, 1, dtype=F64), (0.0, 2.0), solver=solver,
                first_step=h, min_step=h, max_step=h, per_sample=per_sample,
            )  # fmt: skip
            assert (torch.as_tensor(found.status) == int(Status.NONLINEAR)).all()
            assert "singular" in found.message
            assert found.ys[-1].isnan().all()


@slow
@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno3"])
def test_failures_have_their_cause(traced, solver):
    """NaN beyond a state; a pole; equations that Newton's iteration cannot solve at the only size allowed."""
    settings = {"solver": solver, "rtol": 1e-3, "atol": 1e-6}
    found, eager = both(
        lambda t, y: torch.where(y > 2.0, math.nan, y), torch.ones(1, dtype=F64), (0.0, 0.2, 3.0), **settings
    )
    assert found.status in (Status.NON_FINITE, Status.NONLINEAR)
    assert "NaN or infinite" in found.message
    assert found.ys[1].isfinite().all()
    starts = torch.tensor([[1.0], [0.1]], dtype=F64)
    found, eager = both(lambda t, y: y * y, starts, (0.0, 2.0), per_sample=True, **settings)
    assert found.status[0] != Status.SUCCESS
    assert found.status[1] == Status.SUCCESS
    assert math.isclose(float(found.ys[-1, 1]), 0.1 / (1 - 0.2), rel_tol=1e-2)
    if solver != "rodas5p":
        found, eager = both(
            lambda t, y: 3 * (1 + y**2), torch.ones(1, dtype=F64), (0.0, 20.0), **settings,
            first_step=10.0, min_step=10.0, max_step=10.0,
        )  # fmt: skip
        assert found.status == eager.status == Status.NONLINEAR
        assert found.message == eager.message


# Slow: the real thing, by the C++ compiler


@slow
@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno5"])
def test_a_batch_of_stiff_systems_by_the_cpp_compiler(tensors, solver):
    rates, ts = torch.logspace(-1, 1, 9, dtype=F64), torch.logspace(-4, 4, 6, dtype=F64)
    y0 = torch.tensor([1.0, 0, 0], dtype=F64).repeat(9, 1)
    settings = {"args": (rates,), "solver": solver, "rtol": 1e-6, "atol": 1e-10, "per_sample": True}
    found, eager = both(robertson, y0, ts, **settings)
    if solver == "rodas5p":
        same_steps(found, eager, rtol=1e-6, atol=1e-10)
    with torch.no_grad():
        exact = solve(robertson, y0, ts, **settings | {"solver": "radauIIA5", "rtol": 1e-9, "atol": 1e-14}).ys
    assert bool(((found.ys - exact).abs() <= 1e-4 * exact.abs()).all())
    before = counters["stats"]["unique_graphs"]
    other, _ = both(robertson, y0, 2 * ts, **settings | {"args": (rates.flip(0),), "rtol": 1e-5})
    assert other.success
    assert counters["stats"]["unique_graphs"] == before


@slow
@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno5"])
def test_eight_reactions_by_the_cpp_compiler(tensors, solver):
    """One clock, outputs, systems too large to be written out by elements."""
    problem = STIFF["hires"]
    ts = torch.tensor([0.0, 1.0, 5.0, 320.0, problem.end], dtype=F64)
    found, eager = both(problem.field, problem.y0, ts, solver=solver, rtol=1e-6, atol=problem.atol)
    assert relative_error(problem, found.ys[-1]) < 1e-5
    assert torch.allclose(found.ys, eager.ys, rtol=1e-5, atol=1e-9)
