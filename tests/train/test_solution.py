"""The error of a solver on a given field, against closed forms."""

import math

import pytest
import torch
from torch import nn

from odenets.data import InitialValueProblem
from odenets.errors import UserError
from odenets.fields import MLP, DampedOscillator
from odenets.models import NeuralODE
from odenets.solvers import Adaptive, FixedStep
from odenets.train.solution import SolutionAccuracy

FREQUENCY, DAMPING = 2.0, 0.15


def oscillation(t: torch.Tensor) -> torch.Tensor:
    """x(t), v(t) of the damped oscillator from (1, 0), by hand."""
    rate, turn = FREQUENCY * DAMPING, FREQUENCY * math.sqrt(1 - DAMPING**2)
    decay = torch.exp(-rate * t)
    x = decay * (torch.cos(turn * t) + rate / turn * torch.sin(turn * t))
    return torch.stack([x, -decay * FREQUENCY**2 / turn * torch.sin(turn * t)], -1)


def task(solver, problem: InitialValueProblem, field: nn.Module | None = None) -> SolutionAccuracy:
    field = field or DampedOscillator(FREQUENCY, DAMPING)
    found = SolutionAccuracy(NeuralODE(field, solver, output="trajectory"))
    found.attach(problem)
    return found


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_the_reference_is_the_solution(spacing):
    found = task("dopri5", InitialValueProblem(t1=5.0, points=9, spacing=spacing))
    assert len(found.times) == 10
    assert (float(found.times[0]), float(found.times[-1])) == (0.0, 5.0)
    torch.testing.assert_close(found.truth[:, 0], oscillation(found.times), rtol=1e-9, atol=1e-9)


def test_the_error_is_that_of_the_scheme():
    """One explicit Euler step of size h to each time: (1 + h A)^n x0 against the closed form."""
    found = task(FixedStep("euler"), InitialValueProblem(t1=2.0, points=40))
    step = torch.eye(2, dtype=torch.float64) + 0.05 * torch.tensor(
        [[0.0, 1.0], [-(FREQUENCY**2), -2 * DAMPING * FREQUENCY]], dtype=torch.float64
    )
    state, states = torch.tensor([1.0, 0.0], dtype=torch.float64), []
    for _ in range(41):
        states.append(state)
        state = step @ state
    exact = oscillation(found.times)
    error = (torch.stack(states) - exact).abs() / exact.abs().amax(0)
    measures = found.evaluate()
    assert measures["relative_error"] == pytest.approx(float(error.max()), rel=1e-7)
    assert measures["relative_error_at_the_end"] == pytest.approx(float(error[-1].max()), rel=1e-7)
    assert found.facts() == {"evaluations": 40, "steps": 40, "rejected": 0}


def test_the_loss_is_differentiated_by_start_and_coefficients():
    """The mean square of cos and sin over whole periods of the undamped oscillator, over their sizes: 1/2."""
    field = DampedOscillator(1.0, 0.0, learnable=True)
    found = task(Adaptive("dopri8", rtol=1e-9, atol=1e-10), InitialValueProblem(t1=2 * math.pi, points=16), field)
    loss = found(progress=1.0)
    assert loss.item() == pytest.approx(0.5, abs=0.05)  # t = 0 counts twice
    loss.backward()
    twice = 2 * loss.item()  # the loss is quadratic in the start
    assert float((found.start.grad * found.start.detach()).sum()) == pytest.approx(twice, rel=1e-9)
    assert field.damping.value.grad < 0


def test_a_field_says_where_it_starts_or_the_problem_does():
    plain = MLP(2, 8)
    with pytest.raises(UserError, match="MLP has no `initial`"):
        task("rk4", InitialValueProblem(t1=1.0), plain)
    with pytest.raises(UserError, match="MLP has no `span`"):
        task("rk4", InitialValueProblem(start=[1.0, 0.0]), plain)
    found = task("dopri5", InitialValueProblem(start=[1.0, 0.0], t1=1.0, points=4), plain)
    assert found.evaluate()["relative_error"] < 1e-4
    assert [len(x) for x in found.portrait()["states"]] == [2] * 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": 0}, "points=0"),
        ({"spacing": "even"}, "linear or log"),
        ({"t0": 1.0, "t1": 1.0}, "two different"),
        ({"t1": 1.0, "spacing": "log", "first": 2.0}, "first < 1"),
    ],
)
def test_problems_that_are_none_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        task("rk4", InitialValueProblem(**settings))
