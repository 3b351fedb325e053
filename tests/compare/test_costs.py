"""Costs of a run against counts made by hand."""

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from odenets.blocks import Residual
from odenets.compare.costs import _step, evaluations, gradient_error
from odenets.compare.memory import peak_bytes
from odenets.fields import MLP
from odenets.models import FlowStack, NeuralODE
from odenets.models.gradients import Autograd
from odenets.solvers import FixedStep
from odenets.train.ema import Averaged
from odenets.train.loop import Parts
from odenets.train.task import Task


class Distance(Task):
    """Squared distance of a network's output from zero."""

    headline = ("distance",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def attach(self, data: object) -> None: ...

    def order(self, generator, batch_size, rank, world):  # type: ignore[no-untyped-def]
        return []

    def select(self, index):  # type: ignore[no-untyped-def]
        return ()

    def evaluate(self) -> dict[str, float]:
        return {}

    def forward(self, x: torch.Tensor, progress: float) -> torch.Tensor:
        return self.network(x).square().sum()


def field() -> MLP:
    torch.manual_seed(0)
    return MLP(dim=2, hidden=16, depth=1, time="concat")


def parts_of(network: nn.Module, precision: Any = "32-true") -> Parts:
    task = Distance(network)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    module, optimizer = fabric.setup(task, torch.optim.SGD(task.parameters(), lr=0.1))
    return Parts(fabric, task, module, optimizer, None, Averaged(task, 0.0), 0, {})


def test_peak_memory_counts_what_is_held_at_one_time():
    kept = torch.zeros(1000, 1000)

    def work() -> None:
        first = kept * 2  # 4 MB
        second = first + 1  # 8 MB
        del first, second
        torch.empty(500, 1000)  # 2 MB after the others are gone

    assert abs(peak_bytes(work, torch.device("cpu")) - 8e6) < 1e4


def test_the_gradients_of_a_step_are_part_of_its_memory():
    parts = parts_of(nn.Linear(1000, 1000, bias=False))  # weights and gradient of 4 MB each; outputs of 4 kB
    batch = (torch.ones(1, 1000),)
    assert 4e6 <= peak_bytes(lambda: _step(parts, batch), torch.device("cpu")) < 4.1e6


def test_evaluations_are_counted_per_forward_pass():
    batch = (torch.randn(3, 2),)
    assert evaluations(Distance(FlowStack(lambda: Residual(field()), N=5)), batch) == 5
    assert evaluations(Distance(NeuralODE(field(), FixedStep("rk4", steps=3))), batch) == 12

    class Own(nn.Module):
        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return -x * t

    assert evaluations(Distance(NeuralODE(Own(), FixedStep("midpoint", steps=4))), batch) == 8


def test_the_gradient_error_is_rounding_for_autograd_and_discretisation_for_the_adjoint():
    batch = (torch.randn(3, 2, generator=torch.Generator().manual_seed(1)),)
    errors = {
        (gradient, steps): gradient_error(parts_of(NeuralODE(field(), FixedStep("rk4", steps=steps), gradient)), batch)
        for gradient in ("autograd", "adjoint")
        for steps in (1, 2)
    }
    assert max(errors["autograd", 1], errors["autograd", 2]) < 1e-6
    assert errors["adjoint", 1] > 1e-5
    assert 8 < errors["adjoint", 1] / errors["adjoint", 2] < 40  # order 4: near 16


def test_the_gradient_error_is_that_of_the_runs_own_precision_and_method():
    batch = (torch.randn(3, 2, generator=torch.Generator().manual_seed(1)),)
    single = gradient_error(parts_of(FlowStack(lambda: Residual(field()), N=3)), batch)
    half = gradient_error(parts_of(FlowStack(lambda: Residual(field()), N=3), "bf16-mixed"), batch)
    assert single < 1e-6
    assert 1e-4 < half < 0.2


def test_the_reference_of_a_stack_is_autograd_whatever_the_stack_uses():
    class Wrong(Autograd):
        """Twice the gradient."""

        def run(self, steps, state):  # type: ignore[no-untyped-def]
            y = super().run(steps, state)
            return 2 * y - y.detach()

    batch = (torch.randn(3, 2, generator=torch.Generator().manual_seed(1)),)
    stack = FlowStack(lambda: Residual(field()), N=3)
    stack.gradient = Wrong()
    assert abs(gradient_error(parts_of(stack), batch) - 1) < 1e-6
