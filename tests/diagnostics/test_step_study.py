"""A model that is an ODE and one that is not are told apart; other steps, schemes and solvers of one flow."""

import functools
import math

import pytest
import torch
from torch import nn

from odenets.blocks import Delta, ManifoldHyperConnections, Momentum, Residual
from odenets.diagnostics import StackField, coarsen, solved, step_study, with_steps
from odenets.diagnostics.step_study import _percent
from odenets.fields import MLP
from odenets.models import FlowODE, FlowStack, NeuralODE
from odenets.solvers import FixedStep
from tests.diagnostics.stacks import linear_stack

DOUBLE = torch.float64


def smooth_stack(N: int, T: float = 1.0) -> FlowStack:
    """x' = A(t) x with A(t) = cos(t) J - 0.5 I, J a rotation: samples of a smooth function of time."""
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=DOUBLE)
    times = [T * n / N for n in range(N)]
    return linear_stack([math.cos(t) * rotation - 0.5 * torch.eye(2) for t in times], T)


def rough_stack(N: int = 8) -> FlowStack:
    torch.manual_seed(0)
    return FlowStack(lambda: Residual(MLP(2, 16)), T=float(N), N=N).double()


def test_small_steps_along_a_smooth_flow_are_an_ode_and_independent_layers_at_h_1_are_not():
    x = torch.randn(8, 2, dtype=DOUBLE)
    smooth = step_study(smooth_stack(32), x)
    assert smooth.verdict == "yes", smooth.reason
    torch.manual_seed(1)
    independent = linear_stack([3 * torch.randn(2, 2, dtype=DOUBLE) for _ in range(8)], T=8.0)
    rough = step_study(independent, x)
    assert rough.verdict == "no", rough.reason
    steps = {row.name: row for row in smooth.rows}
    assert steps["h / 4"].h == pytest.approx(1 / 128)
    # Euler's error is proportional to h: the outputs of h, h/2, h/4 tend to a limit twice and four times as fast
    assert steps["h / 4"].distance / steps["h / 2"].distance == pytest.approx(1.5, abs=0.05)
    assert steps["rk4"].distance / steps["h / 2"].distance == pytest.approx(2.0, abs=0.1)


def test_a_trained_model_is_judged_by_its_measure():
    """Fit the map x -> -x: 48 small steps follow a rotation by half a turn, one step at h = 1 overshoots the origin,
    which no flow on the line does."""
    torch.manual_seed(0)
    x = torch.randn(64, 2, dtype=DOUBLE)

    def trained(stack: FlowStack, steps: int) -> FlowStack:
        optimizer = torch.optim.Adam(stack.parameters(), lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            (stack(x) + x).square().mean().backward()
            optimizer.step()
        return stack

    def study(stack: FlowStack):
        def evaluate(flow: nn.Module) -> dict[str, float]:
            share = ((flow(x) + x).norm(dim=1) < 0.3 * x.norm(dim=1)).double().mean()
            return {"accuracy": float(share)}

        return step_study(stack, x, evaluate=evaluate, measure="accuracy")

    rotation = torch.tensor([[0.0, 2.5], [-2.5, 0.0]], dtype=DOUBLE)
    flow = study(trained(linear_stack([rotation] * 48, T=1.0), 30))
    assert flow.rows[0].measures["accuracy"] == 1.0
    assert flow.verdict == "yes", flow.reason
    assert flow.critical_step >= flow.trained_h
    shortcut = study(trained(linear_stack([-0.5 * torch.eye(2, dtype=DOUBLE)], T=1.0), 80))
    assert shortcut.rows[0].measures["accuracy"] == 1.0  # x - 2x: exact in one Euler step, impossible for a flow
    assert shortcut.verdict == "no", shortcut.reason
    assert shortcut.critical_step is None or shortcut.critical_step < shortcut.trained_h


def test_coarser_steps_read_the_parameters_at_every_second_step():
    stack = smooth_stack(8)
    x = torch.randn(3, 2, dtype=DOUBLE)
    y = x
    for block in list(stack.blocks)[::2]:
        y = y + 0.25 * y @ block.branch.weight.T
    torch.testing.assert_close(with_steps(stack, 2)(x), y)
    assert coarsen(stack, 4).N == 2
    assert stack.N == 8
    with pytest.raises(ValueError, match="divides its 8"):
        coarsen(stack, 3)


def test_coarser_steps_of_two_kinds_of_tied_blocks_and_of_learned_step_sizes():
    torch.manual_seed(0)
    kinds = FlowStack([lambda: Residual(MLP(2, 4)), lambda: Residual(MLP(2, 4))], N=8)
    assert list(coarsen(kinds).blocks) == [kinds.blocks[n] for n in (0, 1, 4, 5)]
    tied = FlowStack(lambda: Residual(MLP(2, 4)), N=8, tied=True)
    x = expected = torch.randn(3, 2)
    for _ in range(4):
        expected = tied.blocks[0](0.0, expected, 0.25)
    torch.testing.assert_close(coarsen(tied)(x), expected)
    learned = FlowStack(lambda: Residual(MLP(2, 4)), N=4, steps="free")
    with torch.no_grad():
        learned.step_sizes.raw.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    h = nn.functional.softplus(learned.step_sizes.raw)
    expected = x + (h[0] + h[1]) * learned.blocks[0].branch(0.0, x)
    expected = expected + (h[2] + h[3]) * learned.blocks[2].branch(0.0, expected)
    torch.testing.assert_close(coarsen(learned)(x), expected)
    assert learned.step_sizes.raw.numel() == 4


def test_a_readout_that_only_the_last_block_owns_is_not_lost():
    stack = FlowStack(lambda: Delta(MLP(4, 6), 4, value_channels=2), N=4)
    with pytest.raises(ValueError, match="last Delta owns"):
        coarsen(stack)


def test_a_stack_solved_by_euler_on_its_own_steps_is_the_stack():
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=DOUBLE)
    stack = FlowStack(lambda: Residual(MLP(4, 6, time="concat")), T=2.0, N=4).double()
    torch.testing.assert_close(solved(stack, "euler", per_cycle=1)(x), stack(x))
    make = functools.partial(ManifoldHyperConnections, dim=4, parametrisation="generator")
    streams = FlowStack(lambda: make(MLP(4, 6)), T=1.0, N=2).double()
    assert_tends_to(streams, solved(streams, "rk4", 16), x)


@torch.no_grad()
def assert_tends_to(stack: FlowStack, exact: NeuralODE, x: torch.Tensor) -> None:
    """The refined stack converges to it with order 1."""
    errors = [float((stack.refine(f)(x) - exact(x)).norm()) for f in (20, 40)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)


def test_kinds_of_block_are_added_up_and_the_refined_stack_tends_to_it():
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=DOUBLE)
    stack = FlowStack([lambda: Residual(MLP(4, 6)), lambda: Residual(MLP(4, 6))], T=2.0, N=4, steps="free").double()
    with torch.no_grad():
        stack.step_sizes.raw.add_(0.5 * torch.randn(4))
    exact = solved(stack, "rk4", 16)
    assert_tends_to(stack, exact, x)
    # an adaptive solver stops where the weights jump
    adaptive = solved(stack, "dopri5")
    assert adaptive.solver.jump_t == StackField(stack).jump_times
    torch.testing.assert_close(adaptive(x), exact(x), rtol=1e-5, atol=1e-5)


def test_blocks_whose_weights_vary_in_time_are_solved_with_them():
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=DOUBLE)
    stack = FlowStack(lambda: Residual(MLP(4, 6)), N=4, parameters="spline", nodes=4).double()
    assert_tends_to(stack, solved(stack, "rk4", 8), x)


def test_ways_that_do_not_apply_are_rows_with_the_cause():
    study = step_study(FlowStack(lambda: Momentum(MLP(4, 6)), N=3), torch.randn(2, 4))
    causes = {row.name: row.error for row in study.rows}
    assert "divides its 3 steps" in causes["2 h"]
    assert "no scheme" in causes["exponential"]
    assert "without a vector field" in causes["rk4"]
    assert causes["h / 2"] == ""


@pytest.mark.parametrize("solver", [FixedStep("euler", steps=64), "dopri5"])
def test_a_neural_ode_is_an_ode(solver):
    torch.manual_seed(0)
    study = step_study(NeuralODE(MLP(4, 8, time="concat"), solver).double(), torch.randn(4, 4, dtype=DOUBLE))
    assert study.verdict == "yes", study.reason
    assert [row.name for row in study.rows] == ["as trained", "2 h", "h / 2", "h / 4", "rk4"]
    assert not any(row.error for row in study.rows)


def test_a_neural_ode_with_too_large_steps_is_not_one():
    torch.manual_seed(0)
    field = MLP(4, 8)
    with torch.no_grad():
        for p in field.parameters():
            p.mul_(6)
    study = step_study(FlowODE(lambda: Residual(field), FixedStep("euler", steps=2), T=4.0), torch.randn(4, 4))
    assert study.verdict == "no", study.reason


def test_an_evaluation_needs_a_measure_that_it_returns():
    stack = smooth_stack(4)
    with pytest.raises(ValueError, match="go together"):
        step_study(stack, torch.randn(2, 2, dtype=DOUBLE), evaluate=lambda flow: {"loss": 1.0})
    with pytest.raises(ValueError, match="expected one of loss"):
        step_study(stack, torch.randn(2, 2, dtype=DOUBLE), evaluate=lambda flow: {"loss": 1.0}, measure="los")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0123, "1.2 % of"),
        (0.456, "46 % of"),
        (1.5, "150 % of"),
        (37.2, "37 times"),
        (math.inf, "an infinite multiple of"),
    ],
)
def test_shares_of_the_displacement_have_sensible_digits(share: float, text: str):
    assert _percent(share) == text
