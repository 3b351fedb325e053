"""A stack as a flow in time: kinds of block, functions of time, refinement, other schemes, learned steps."""

import itertools
import math

import pytest
import torch
from torch import nn

from odenets.blocks import Block, Delta, ManifoldHyperConnections, Residual
from odenets.fields import MLP, Autonomous, TimeVarying
from odenets.flows import resolve_scheme
from odenets.models import FlowStack


def mlp() -> MLP:
    return MLP(3, 8, time="concat")


def states() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(5, 3, dtype=torch.float64)


def stack(**settings) -> FlowStack:
    torch.manual_seed(1)
    return FlowStack(lambda: Residual(mlp()), **{"T": 1.5, "N": 4} | settings).double()


MODES = [{}, {"tied": True}, {"parameters": "spline"}, {"parameters": "fourier"}, {"parameters": "piecewise"}]


@pytest.mark.parametrize("settings", [*MODES, {"steps": "free"}, {"steps": "sum_to_T"}])
@pytest.mark.parametrize("interpolation", ["constant", "linear"])
def test_refining_by_one_is_the_identity_and_twice_by_two_is_by_four(settings, interpolation):
    trained, x = stack(**settings), states()
    assert torch.equal(trained.refine(1, interpolation)(x), trained(x))
    twice = trained.refine(2, interpolation).refine(2, interpolation)
    assert torch.equal(twice(x), trained.refine(4, interpolation)(x))
    assert not torch.equal(twice(x), trained(x))


@pytest.mark.parametrize("parameters", ["piecewise", "spline", "fourier"])
def test_parameters_as_functions_of_time_are_those_of_a_time_varying_field(parameters):
    varying = stack(parameters=parameters, nodes=4)
    field = TimeVarying(mlp(), parameters, nodes=4, T=1.5).double()
    block = varying.blocks[0].varying.template
    with torch.no_grad():
        for name, weight in field.template.named_parameters():
            weight.copy_(block.get_parameter(f"branch.{name}"))
    tied = FlowStack(lambda: Residual(field), T=1.5, N=4, tied=True).double()
    torch.testing.assert_close(varying(states()), tied(states()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(varying.refine(3)(states()), tied.refine(3)(states()), rtol=1e-12, atol=1e-12)


def test_refinement_converges_at_order_one_to_the_flow_with_interpolated_weights():
    trained, x = stack(N=3, T=0.9), states()
    blocks = [dict(b.branch.named_parameters()) for b in trained.blocks]
    template = mlp().double()

    def field(t: float, x: torch.Tensor) -> torch.Tensor:
        u = t / 0.3
        n = min(int(u), 2)
        w = u - n if n < 2 else 0.0
        weights = {k: (1 - w) * p + w * blocks[min(n + 1, 2)][k] for k, p in blocks[n].items()}
        return torch.func.functional_call(template, weights, (torch.tensor(t, dtype=x.dtype), x))

    y, h = x, 0.9 / 600
    with torch.no_grad():
        for n in range(600):  # the explicit midpoint rule, steps that end on the knots: an error near 1e-6
            y = y + h * field((n + 0.5) * h, y + h / 2 * field(n * h, y))
        errors = [float((trained.refine(2**k, "linear")(x) - y).norm()) for k in (3, 4, 5)]
    assert all(abs(math.log2(a / b) - 1) < 0.1 for a, b in itertools.pairwise(errors)), errors


def test_linear_interpolation_takes_the_mean_half_way_and_the_last_weights_to_the_end():
    trained, x = stack(N=2, T=1.0), states()
    first, last = (dict(b.branch.named_parameters()) for b in trained.blocks)
    mean = {name: (p + last[name]) / 2 for name, p in first.items()}
    y, template = x, mlp().double()
    for n, weights in enumerate((first, mean, last, last)):
        y = y + 0.25 * torch.func.functional_call(template, weights, (0.25 * n, y))
    torch.testing.assert_close(trained.refine(2, "linear")(x), y, rtol=1e-6, atol=1e-6)
    trained.refine(2, "linear")(x).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in trained.parameters())


def rotation(angle: float) -> Autonomous:
    linear = nn.Linear(2, 2, bias=False).double()
    linear.weight.data = angle * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    return Autonomous(linear)


def test_kinds_alternate_and_refine_to_the_flow_of_their_sum():
    kinds = [lambda: rotation(0.5), lambda: rotation(1.5)]
    two = FlowStack(Residual, T=2.0, N=4, branches=kinds)
    assert [type(b.branch) for b in two.blocks] == [Autonomous] * 4
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    y = x
    for n in range(4):  # by hand: attention, MLP, attention, MLP
        y = y + 0.5 * rotation((0.5, 1.5)[n % 2])(0.0, y)
    torch.testing.assert_close(two(x), y)
    # Each kind has half the steps: over T it is integrated for T/2, so the flow is (0.5 + 1.5) T/2 = 2.
    exact = torch.tensor([[math.cos(2.0), math.sin(2.0)]], dtype=torch.float64)
    errors = [(two.refine(2**k)(x) - exact).norm().item() for k in (4, 5, 6)]
    assert all(abs(math.log2(a / b) - 1) < 0.05 for a, b in itertools.pairwise(errors)), errors


def test_refined_kinds_keep_their_order_and_their_cycle():
    two = FlowStack(Residual, N=4, branches={"attention": mlp, "mlp": mlp})
    finer = two.refine(2)
    assert [list(two.blocks).index(finer.block(n)) for n in range(8)] == [0, 1, 0, 1, 2, 3, 2, 3]
    assert two.kinds == 2
    tied = FlowStack(Residual, N=4, tied=True, branches=[mlp, mlp])
    assert tied.tied
    assert [list(tied.blocks).index(tied.block(n)) for n in range(4)] == [0, 1, 0, 1]
    factories = FlowStack([lambda: Residual(mlp()), lambda: Delta(mlp(), 3)], N=2)
    assert [type(b) for b in factories.blocks] == [Residual, Delta]


@pytest.mark.parametrize("steps", ["free", "sum_to_T"])
def test_learned_steps_start_equal_and_all_get_gradients(steps):
    learned, fixed, x = stack(steps=steps), stack(), states()
    torch.testing.assert_close(learned(x), fixed(x), rtol=1e-6, atol=1e-6)
    assert learned.step_sizes is not None
    learned(x).square().sum().backward()
    gradient = learned.step_sizes.raw.grad
    assert (gradient.abs() > 1e-6).all()
    with torch.no_grad():
        learned.step_sizes.raw.add_(torch.tensor([-5.0, 0.0, 1.0, 9.0]))
    times, sizes = zip(*learned.schedule(x))
    assert all(h > 0 for h in sizes)
    assert (abs(sum(h.item() for h in sizes) - 1.5) < 1e-12) == (steps == "sum_to_T")
    torch.testing.assert_close(torch.stack(times)[1:], torch.stack(sizes).cumsum(0)[:-1])
    finer = learned.refine(2).schedule(x)
    torch.testing.assert_close(torch.stack([h for _, h in finer]), torch.stack(sizes).repeat_interleave(2) / 2)


def test_a_sum_that_is_fixed_moves_time_between_steps():
    learned, x = stack(steps="sum_to_T"), states()
    learned(x).square().sum().backward()
    h = torch.stack([h for _, h in learned.schedule(x)]).detach()
    # Adding the same to every h is undone by the normalisation: the gradient with respect to raw is orthogonal to it.
    assert abs(float(learned.step_sizes.raw.grad @ torch.ones_like(h))) < 1e-10


@pytest.mark.parametrize("name", ["exponential", "backward_euler", "rk4", "theta(0.7)"])
@pytest.mark.parametrize("settings", [{}, {"tied": True}, {"parameters": "spline"}])
def test_another_scheme_takes_the_same_flows_steps(name, settings):
    torch.manual_seed(1)
    trained = FlowStack(lambda: Delta(MLP(3, 8), 3), T=2.0, N=4, **settings).double()
    other, x = trained.with_scheme(name), states()
    assert all(a is b for a, b in zip(trained.parameters(), other.parameters()))
    before = trained(x)
    assert not torch.equal(other(x), before)
    assert torch.equal(trained(x), before)  # the trained stack keeps its own
    if "parameters" not in settings:
        y = x
        for n in range(4):  # the delta rule with this scheme's gate, on the trained flow
            k, v, rate = trained.block(n).coefficients(0.5 * n, y)
            beta = resolve_scheme(name).gate(0.5 * rate)
            y = y + (beta * (v[..., 0] - (k * y).sum(-1)))[..., None] * k
        torch.testing.assert_close(other(x), y, rtol=1e-12, atol=1e-12)


def test_schemes_of_one_flow_agree_in_the_limit_of_small_steps():
    torch.manual_seed(1)
    trained = FlowStack(lambda: Delta(MLP(3, 8), 3), T=1.0, N=2).double()
    x = states()

    def gap(factor: int) -> float:
        euler, exact = (trained.with_scheme(s).refine(factor)(x) for s in ("forward_euler", "exponential"))
        return (euler - exact).norm().item()

    gaps = [gap(2**k) for k in (4, 5, 6)]
    assert all(abs(math.log2(a / b) - 1) < 0.1 for a, b in itertools.pairwise(gaps)), gaps


class Pair(Block):
    """A block whose state is a tuple: position and velocity of an oscillator."""

    def lift(self, x):
        return x, torch.zeros_like(x)

    def forward(self, t, x, h):
        return x[0] + h * x[1], x[1] - h * (x[0] + h * x[1])

    def readout(self, state):
        return state[0]


def test_a_state_may_be_a_tuple():
    oscillator, x = FlowStack(Pair, T=math.pi, N=200), torch.ones(2, 3)
    torch.testing.assert_close(oscillator(x), -x, rtol=0, atol=1e-2)
    assert oscillator.trajectory(x).shape == (201, 2, 3)
    torch.testing.assert_close(oscillator.trajectory(x)[-1], oscillator(x))


def test_learned_steps_and_functions_of_time_compile_to_one_graph():
    torch._dynamo.reset()
    learned = stack(steps="sum_to_T", parameters="spline")
    x = states()
    torch.testing.assert_close(torch.compile(learned, backend="eager", fullgraph=True)(x), learned(x))


def uneven():
    """A factory whose blocks differ from call to call."""
    widths = itertools.count(4)
    return lambda: Residual(MLP(3, next(widths)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FlowStack(Residual, N=3, branches=[mlp, mlp]), "N to be a multiple of its 2 kinds of block, got N=3"),
        (lambda: FlowStack([Residual, Residual], branches=[mlp]), "got 2 factories and 1 branches"),
        (lambda: stack(parameters="splines"), "got 'splines'"),
        (lambda: stack(steps="learned"), "'fixed', 'free' or 'sum_to_T', got 'learned'"),
        (lambda: stack().refine(2, "cubic"), "got 'cubic'"),
        (lambda: stack().with_scheme("exponential"), "Residual has no scheme to change to 'exponential'"),
        (lambda: FlowStack(lambda: Delta(mlp(), 3)).with_scheme("exponentia"), "did you mean exponential"),
        (
            lambda: FlowStack(lambda: ManifoldHyperConnections(mlp(), 3)).with_scheme("exponential"),
            "no scheme to change to 'exponential'.*parametrisation='generator'",
        ),
        (
            lambda: FlowStack(uneven(), N=2).refine(2, "linear")(torch.zeros(1, 3)),
            "same parameters, got Residual and Residual",
        ),
    ],
)
def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
