"""Every gradient method of a stack against autograd through the same steps."""

import functools

import pytest
import torch
from torch import nn

from odenets import blocks as b
from odenets.fields import MLP
from odenets.models import FlowStack
from odenets.models.gradients import STACK_GRADIENTS, Checkpoint, Downdate, Recursive, Reversible, Selective
from odenets.solvers import gradients as solver_gradients
from odenets.solvers.gradients.binomial import placed

F64 = torch.float64
DIM = 6


class Timed(nn.Module):
    """A branch that depends on t, so that a step evaluated again at another time shows."""

    channel_dim = -1

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.net = MLP(DIM)
        self.clock = nn.Parameter(torch.randn(DIM))
        self.dropout = nn.Dropout(dropout)

    def forward(self, t, x):
        return self.dropout(self.net(t, x + torch.sin(3 * torch.as_tensor(t)) * self.clock))


MIXED = functools.partial(b.ManifoldHyperConnections, dim=DIM, parametrisation="generator")
BLOCKS = {
    "residual": lambda branch: b.Residual(branch()),
    "momentum": lambda branch: b.Momentum(branch()),
    "revnet": lambda branch: b.RevNet(branch),
    "leapfrog": lambda branch: b.Leapfrog(branch),
    "hamiltonian": lambda branch: b.Hamiltonian(DIM),
    "delta": lambda branch: b.Delta(branch(), DIM),
    "delta, 4 channels": lambda branch: b.Delta(branch(), DIM, 4, step="half_frozen", coefficient="exact"),
    "delta, write only": lambda branch: b.Delta(branch(), DIM, 2, write_only=True),
    "mhc": lambda branch: b.ManifoldHyperConnections(branch(), DIM),
    "mhc, backward Euler": lambda branch: MIXED(branch()),
    "mhc, implicit midpoint": lambda branch: MIXED(branch(), scheme="implicit_midpoint"),
    "mhc, half frozen": lambda branch: MIXED(branch(), step="half_frozen"),
    "hyper-connections": lambda branch: b.HyperConnections(branch(), DIM),
    "mudd": lambda branch: b.Mudd(branch(), DIM),
}
REVERSIBLE = ("momentum", "revnet", "leapfrog", "hamiltonian")
STREAMS = ("mhc", "mhc, backward Euler", "mhc, implicit midpoint", "hyper-connections")
DELTAS = ("delta", "delta, 4 channels", "delta, write only")
CASES = [
    *[(Reversible(), name) for name in REVERSIBLE],
    *[(Downdate(), name) for name in (*DELTAS, *STREAMS, "mhc, half frozen")],
    *[(Selective(), name) for name in STREAMS],
    *[(method, name) for method in (Checkpoint(), Recursive()) for name in ("residual", "mudd", "leapfrog", "mhc")],
    (Reversible(every=3), "momentum"),
    (Downdate(every=4), "mhc"),
    (Downdate(growth=1.0), "mhc, backward Euler"),
    (Selective(every=1), "mhc"),
    (Checkpoint(every=5), "delta"),
    (Recursive(slots=1), "residual"),
    (Recursive(slots=3), "momentum"),
]
PARAMETERS = [{"tied": True}, {"parameters": "spline"}, {"steps": "free"}, {"steps": "sum_to_T"}]
OTHERS = [
    (gradient, name, settings)
    for gradient, name in [
        (Reversible(), "leapfrog"),
        (Downdate(), "delta"),
        (Downdate(), "mhc, backward Euler"),
        (Selective(), "mhc, implicit midpoint"),
        (Recursive(), "residual"),
        (Checkpoint(), "residual"),
    ]
    for settings in PARAMETERS
]


def stack(name, gradient, dropout=0.0, dtype=F64, **settings):
    """The same stack for every gradient, with weights away from their initial values."""
    torch.manual_seed(1)
    made = FlowStack(
        lambda: BLOCKS[name](lambda: Timed(dropout)), **{"N": 11, "T": 3.0, **settings}, gradient=gradient
    ).to(dtype)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def gradients(model, dtype=F64):
    """Output, and gradients with respect to the input and all parameters, by name."""
    torch.manual_seed(2)
    x = torch.randn(4, DIM, dtype=dtype, requires_grad=True)
    y = model(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).reshape(y.shape)).sum().backward()
    return {"y": y.detach(), "x": x.grad, **{name: p.grad for name, p in model.named_parameters()}}


def assert_same(found, expected, tolerance):
    for name, value in expected.items():
        if value is None:
            assert found[name] is None or not found[name].any(), name
        else:
            scale = float(value.abs().max()) + 1e-12
            assert float((found[name] - value).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize(("gradient", "name"), CASES, ids=str)
def test_gradient_is_that_of_autograd(gradient, name):
    assert_same(gradients(stack(name, gradient)), gradients(stack(name, "autograd")), 1e-10)


@pytest.mark.parametrize(("gradient", "name", "settings"), OTHERS, ids=str)
def test_shared_parameters_functions_of_time_and_learned_step_sizes(gradient, name, settings):
    found, expected = (gradients(stack(name, g, **settings)) for g in (gradient, "autograd"))
    assert_same(found, expected, 1e-10)


@pytest.mark.parametrize(
    ("gradient", "name"), [(Reversible(), "leapfrog"), (Recursive(), "mhc"), (Downdate(), "delta")]
)
def test_refined_with_interpolated_weights(gradient, name):
    found, expected = (gradients(stack(name, g, N=4).refine(3, "linear")) for g in (gradient, "autograd"))
    assert_same(found, expected, 1e-10)


@pytest.mark.parametrize(
    ("gradient", "name"),
    [
        (Checkpoint(), "residual"),
        (Recursive(slots=2), "residual"),
        (Reversible(), "momentum"),
        (Reversible(), "revnet"),  # its inverse evaluates the branches in the other order
        (Reversible(), "leapfrog"),
        (Downdate(), "delta"),
        (Downdate(), "mhc, half frozen"),
        (Selective(), "mhc"),
    ],
    ids=str,
)
def test_dropout_is_drawn_once(gradient, name):
    found, expected = (gradients(stack(name, g, dropout=0.4)) for g in (gradient, "autograd"))
    assert_same(found, expected, 1e-10)
    model = stack(name, gradient, dropout=0.4)
    y = model(torch.ones(4, DIM, dtype=F64))
    after_forward = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), after_forward)


@pytest.mark.parametrize(
    ("gradient", "name", "tolerance"),
    [
        (Checkpoint(), "residual", 0.0),
        (Recursive(), "residual", 0.0),
        (Selective(), "mhc", 1e-6),  # the same operations; two contributions are added in another order
        # a rebuilt state differs in the last digits of float32, which bfloat16 may round to its own neighbours
        (Reversible(), "leapfrog", 2e-2),
        (Downdate(), "mhc, backward Euler", 2e-2),
    ],
    ids=str,
)
def test_autocast_applies_to_what_is_evaluated_again(gradient, name, tolerance):
    results = []
    for method in (gradient, "autograd"):
        model = stack(name, method, dtype=torch.float32)
        torch.manual_seed(3)
        x = torch.randn(4, DIM, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        y.float().square().sum().backward()  # outside: as training loops do
        results.append({"y": y.detach(), "x": x.grad, **{n: p.grad for n, p in model.named_parameters()}})
    full = gradients(stack(name, "autograd", dtype=torch.float32), torch.float32)
    assert float((results[0]["y"] - full["y"]).abs().max()) > 1e-4  # autocast was on
    assert_same(results[0], results[1], tolerance)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.norm = nn.Linear(DIM, DIM), nn.BatchNorm1d(DIM)

    def forward(self, t, x):
        return self.norm(self.net(x))


@pytest.mark.parametrize(
    ("gradient", "block"),
    [
        (Checkpoint(), b.Residual),
        (Recursive(slots=2), b.Residual),
        (Reversible(), b.Momentum),
        (Downdate(), lambda f: b.Delta(f, DIM)),
    ],
    ids=["checkpoint", "recursive", "reversible", "downdate"],
)
def test_running_statistics_are_updated_once(gradient, block):
    found = []
    for method in ("autograd", gradient):
        torch.manual_seed(0)
        model = FlowStack(lambda: block(Normed()), N=5, gradient=method)
        model(torch.randn(16, DIM)).sum().backward()
        found.append(dict(model.named_buffers()))
    for name, buffer in found[0].items():
        assert torch.equal(found[1][name], buffer), name


def test_a_branch_without_gradient_does_not_stop_that_of_the_streams():
    class Constant(nn.Module):
        def forward(self, t, x):
            return torch.ones_like(x)

    results = []
    for method in ("selective", "autograd"):
        torch.manual_seed(0)
        model = FlowStack(lambda: MIXED(Constant()), N=4, gradient=method).double()
        results.append(gradients(model))
    assert_same(results[0], results[1], 1e-10)


@pytest.mark.parametrize("gradient", [*STACK_GRADIENTS], ids=str)
def test_backward_twice_and_without_a_graph(gradient):
    name = {"reversible": "revnet", "downdate": "delta", "selective": "mhc"}.get(gradient, "residual")
    model = stack(name, gradient)
    x = torch.randn(2, DIM, dtype=F64, requires_grad=True)
    y = model(x)
    first, second = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.allclose(first, second, rtol=1e-12)
    with torch.no_grad():
        assert torch.equal(model(x), y)


@pytest.mark.parametrize(
    ("gradient", "name"), [("reversible", "leapfrog"), ("recursive", "residual"), ("selective", "mhc")]
)
def test_second_derivatives_are_refused_where_there_are_none(gradient, name):
    x = torch.randn(2, DIM, dtype=F64, requires_grad=True)
    (grad,) = torch.autograd.grad(stack(name, gradient)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        grad.sum().backward()


def test_second_derivatives_through_checkpoints():
    def run(x, method):
        return stack("residual", method, N=3)(x).square().sum()

    x = torch.randn(2, DIM, dtype=F64)
    found, expected = (
        torch.autograd.functional.hessian(lambda x, m=m: run(x, m), x) for m in ("checkpoint", "autograd")
    )
    assert torch.allclose(found, expected, rtol=1e-10)


def test_a_state_changed_in_place_is_refused():
    x = torch.randn(2, DIM, dtype=F64, requires_grad=True)
    model = stack("delta", "downdate")
    state = model.gradient.run(model.steps(x), model.block(0).lift(x))
    loss = state.square().sum()
    with torch.no_grad():
        state.add_(1)
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_recursion_evaluates_as_little_as_the_best_schedule(slots):
    """Against dynamic programming over all schedules."""

    @functools.cache
    def fewest(length, free):
        if length <= 1:
            return 0
        if free == 0:
            return length * (length - 1) // 2
        return min(m + fewest(length - m, free - 1) + fewest(m, free) for m in range(1, length))

    calls = []

    class Counted(Timed):
        def forward(self, t, x):
            calls.append(float(t))
            return super().forward(t, x)

    n = 30
    model = FlowStack(lambda: b.Residual(Counted()), N=n, gradient=Recursive(slots=slots))
    model(torch.randn(2, DIM)).sum().backward()
    # the forward pass makes the schedule's first sweep up to the last checkpoint, then goes on to the end; each step is
    # evaluated once more with a graph
    assert len(calls) == n + (fewest(n, slots - 1) - placed(n, slots)[-1]) + n


def test_blocks_that_a_method_needs_are_named():
    for gradient, says in [
        ("reversible", "momentum, revnet, leapfrog, hamiltonian.*got Residual"),
        ("downdate", "delta, hyper_connections, manifold_hyper_connections.*got Residual"),
        ("selective", "hyper_connections, manifold_hyper_connections.*got Residual"),
        ("revresible", "did you mean reversible"),
        (solver_gradients.Adjoint(), "gradient=adjoint: a stack of blocks has no such method"),
    ]:
        with pytest.raises(ValueError, match=says):
            stack("residual", gradient)
    with pytest.raises(ValueError, match="step=frozen, got 'half_frozen'"):
        stack("mhc, half frozen", "selective")
    with pytest.raises(ValueError, match="gamma > 0"):
        FlowStack(lambda: b.Momentum(MLP(4), gamma=0.0), gradient="reversible")


def test_settings_are_checked():
    for method in (Checkpoint, Reversible, Downdate, Selective):
        with pytest.raises(ValueError, match="every >= 1"):
            method(every=0)
    with pytest.raises(ValueError, match="slots >= 1"):
        Recursive(slots=0)


def test_an_empty_batch_of_streams_is_undone():
    made = stack("mhc, backward Euler", Downdate())
    made(torch.zeros(0, DIM, dtype=F64, requires_grad=True)).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in made.parameters())
