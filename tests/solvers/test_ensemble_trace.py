"""Fields become scalar expressions: with the values and derivatives that PyTorch has, or with a reason why not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from odenets.solvers import InputError, NewtonKrylov, solve
from odenets.solvers.ensemble import build
from odenets.solvers.ensemble.derivative import tangents
from odenets.solvers.ensemble.scalars import const, lane
from odenets.solvers.ensemble.stages import PivotedLU
from odenets.solvers.ensemble.trace import ScalarFunction, Sources, Traced, evaluate, trace

F64 = torch.float64


def traced(field, size=3, args=(), events=()):
    y = torch.randn(7, size, dtype=F64, generator=torch.Generator().manual_seed(3))
    t = torch.linspace(0.1, 2, 7, dtype=F64)
    return trace(field, events, y, t, args), t, y


WAYS = {
    "batch": lambda t, y: torch.stack([y[:, 1], -y[:, 0] * torch.cos(t), y[:, 0] * y[:, 1] - y[:, 2]], -1),
    "any": lambda t, y: torch.stack([y[..., 1], -y[..., 0] * torch.cos(t), y[..., 0] * y[..., 1] - y[..., 2]], -1),
    "one": lambda t, y: torch.stack([y[1], -y[0] * torch.cos(t), y[0] * y[1] - y[2]]),
}


def in_place(t, y):
    dy = torch.empty_like(y)
    dy[:, 0] = y[:, 1]
    dy[:, 1] = -y[:, 0]
    dy[:, 1] *= torch.cos(t)
    dy[:, 2:] = (y[:, 0] * y[:, 1])[:, None]
    dy[:, 2].sub_(y[:, 2])
    return dy


def test_all_ways_of_writing_a_field_are_the_same_scalars():
    keys = {traced(field)[0].field.key for field in (*WAYS.values(), in_place)}
    assert len(keys) == 1
    assert not traced(WAYS["one"])[0].batched


MATRIX = torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
NETWORK = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
FIELDS = {
    "matrix": lambda t, y: y @ MATRIX.T * torch.cos(t)[:, None],
    "network": lambda t, y: NETWORK(y),
    "einsum": lambda t, y: torch.einsum("ij,bj->bi", MATRIX, torch.sin(y)),
    "roll": lambda t, y: (torch.roll(y, -1, -1) - torch.roll(y, 2, -1)) * torch.roll(y, 1, -1) - y + t[:, None],
    "norm": lambda t, y: -y / y.norm(dim=-1, keepdim=True) ** 3,
    "softmax": lambda t, y: torch.softmax(y, -1) - torch.log_softmax(y, -1).exp() * y.mean(-1, keepdim=True),
    "index": lambda t, y: y[:, [2, 0, 1]] - torch.flip(y, (-1,)) + y.amax(-1, keepdim=True),
    "cat": lambda t, y: torch.cat([y[:, 1:] * 2, torch.cumsum(y, -1)[:, 1:2].square()], -1),
    "pieces": lambda t, y: torch.where((y > 0) | (t[:, None] > 1), y.exp2(), torch.lerp(y, y**2, 0.25)),
    "pairs": lambda t, y: (y[:, :, None] - y[:, None, :]).tanh().sum(-1),
    "constant": lambda t, y: torch.tensor([1.0, 2.0, 3.0], dtype=F64) * torch.ones_like(y),
}


def check_against_pytorch(field):
    found, t, y = traced(field)
    with torch.no_grad():
        assert torch.allclose(torch.stack(evaluate(found, t, y), -1), field(t, y), rtol=1e-12, atol=1e-13)
    for j in range(3):
        along = torch.zeros_like(y)
        along[:, j] = 1
        column = Traced(ScalarFunction(tangents(found.field.outputs, {f"y{j}": 1.0})), [], found.sources, 3, True)
        _, exact = torch.autograd.functional.jvp(lambda y: field(t, y), y, along)
        assert torch.allclose(torch.stack(evaluate(column, t, y), -1), exact.detach(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", FIELDS)
def test_values_and_derivatives_are_those_of_pytorch(name):
    check_against_pytorch(FIELDS[name])


FUNCTIONS = [
    torch.exp, torch.sin, torch.cos, torch.tan, torch.asin, torch.acos, torch.atan, torch.sinh, torch.cosh, torch.tanh,
    torch.expm1, torch.log1p, torch.erf, torch.floor, torch.ceil, torch.abs, torch.sigmoid, nn.functional.silu,
    nn.functional.gelu, nn.functional.softplus, torch.relu, nn.functional.elu, torch.neg,
    lambda x: torch.sqrt(x + 1), lambda x: torch.log(x + 1), lambda x: (x + 1) ** 0.7, lambda x: (x + 1) ** (x - 1),
    lambda x: x**7, lambda x: (x + 2) ** -3, lambda x: torch.atan2(x, x**2 - 0.3), lambda x: torch.clamp(x, -0.5, 0.3),
    lambda x: torch.maximum(x, 0.1 - x), lambda x: torch.minimum(x, x**2), lambda x: x / (x + 2), lambda x: 1 - x * x,
]  # fmt: skip


def test_every_functions_derivative():
    for i in range(0, len(FUNCTIONS), 3):
        three = [*FUNCTIONS[i : i + 3], torch.sin, torch.sin][:3]
        check_against_pytorch(lambda t, y: torch.stack([f(0.9 * torch.sin(y).sum(-1) / 3) for f in three], -1))


def test_elimination_exchanges_rows():
    """Against LAPACK, for matrices with zeros and rounding errors where the pivots would be."""
    matrices = torch.randn(7, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(5))
    matrices[1, 0, 0], matrices[2, 0, 0] = 0, 1e-17
    matrices[3, 1] = matrices[3, 0] * 2 + torch.tensor([0.0, 1e-14, 1.0], dtype=F64)
    matrices[4] = torch.eye(3, dtype=F64).flip(0)
    entries = [[lane(f"y{3 * i + j}") for j in range(3)] for i in range(3)]
    right = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    solution = PivotedLU(entries).solve([const(float(b)) for b in right])
    found = Traced(ScalarFunction(solution), [], Sources([], []), 9, True)
    ours = torch.stack(evaluate(found, matrices[:, 0, 0], matrices.flatten(1)), -1)
    assert torch.allclose(ours, torch.linalg.solve(matrices, right.expand(7, 3)), rtol=1e-12, atol=1e-13)


def test_tensors_are_shared_or_one_each():
    rho, sigma = torch.linspace(0, 1, 7, dtype=F64), torch.tensor(10.0, dtype=F64)
    found, *_ = traced(lambda t, y, p: -y * p["rho"][:, None] * p["sigma"], args=({"rho": rho, "sigma": sigma},))
    assert [x is rho for x in found.sources.each] == [True]
    assert [x is sigma for x in found.sources.common] == [True]
    square = torch.eye(7, dtype=F64) + 1  # as many rows as trajectories, but not one each
    found, t, y = traced(lambda t, y, a: y @ a.T, size=7, args=(square,))
    assert [x is square for x in found.sources.common] == [True]
    assert torch.allclose(torch.stack(evaluate(found, t, y), -1), y @ square.T)


@pytest.mark.usefixtures("compiled")
def test_tree_states():
    y0 = {"x": torch.ones(4, 2, dtype=F64), "v": torch.zeros(4, dtype=F64)}

    def field(t, s):
        return {"x": -s["x"], "v": torch.cos(t)}

    ys = solve(field, y0, torch.linspace(0, 2, 5, dtype=F64), ensemble=True, rtol=1e-8, atol=1e-8).ys
    assert torch.allclose(ys["v"][-1], torch.sin(torch.tensor(2.0, dtype=F64)), atol=1e-7)
    assert torch.allclose(ys["x"][-1], torch.exp(torch.tensor(-2.0, dtype=F64)), atol=1e-7)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            lambda t, y: torch.linalg.svdvals(y)[:, None] * y,
            "aten._linalg_svd.default has no scalar form.*per_sample=True",
        ),
        (lambda t, y: y if y.sum() > 0 else -y, "looks at values.*torch.where.*per_sample=True"),
        (lambda t, y: y * float(y[0, 0]), "looks at values"),
        (lambda t, y: y - y.mean(0), r"mixes the trajectories of the batch \(reduce over dim=-1 only\)"),
        (lambda t, y: torch.fft.fft(y).real, "aten._fft_r2c.default"),
        (lambda t, y: y + torch.randn_like(y), "aten.randn_like.default"),
        (lambda t, y: y[:, :2], r"returns shape \(2, 2\) for \(2, 3\)"),
        (lambda t, y: y.long().double(), "aten._to_copy.default has no scalar form for these arguments"),
    ],
)
def test_fields_that_cannot_be_scalars_say_why(field, message):
    with pytest.raises(InputError, match=message):
        traced(field)
    with pytest.raises(InputError, match=message):
        solve(field, torch.ones(4, 3, dtype=F64), (0.0, 1.0), ensemble=True)


def test_what_an_ensemble_does_not_do_is_refused():
    y0 = torch.ones(4, 9, dtype=F64)

    def decay(t, y):
        return -y

    for settings, message in (
        ({"solver": "kvaerno5", "nonlinear": NewtonKrylov()}, "explicit methods with an error estimate"),
        ({"solver": "rk4"}, "per_sample"),
        ({"dense": True}, "keeps no steps"),
        ({"gradient": "adjoint"}, "per_sample|forward sensitivities"),
        ({"solver": "rodas5p"}, "at most 8 equations, got 9"),
        ({"ensemble": "cuda"}, "ensemble= takes True"),
    ):
        with pytest.raises(InputError, match=message):
            solve(decay, y0, (0.0, 1.0), **{"ensemble": True, **settings})
    with pytest.raises(InputError, match="float32 and float64"):
        solve(decay, y0.half(), (0.0, 1.0), ensemble=True)


def test_without_a_compiler_the_message_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"found no compiler .* use per_sample=True"):
        build.compiler()


def test_old_libraries_are_dropped(tmp_path):
    for age in range(5):
        library = tmp_path / f"{age}.so"
        library.touch()
        build.os.utime(library, (1000 - age, 1000 - age))
    build.drop_oldest(tmp_path, "*.so", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.so", "1.so", "2.so"]
