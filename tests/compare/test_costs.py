"""Costs of a run against counts made by hand."""

import torch
from torch import nn

from odenets.blocks import Residual
from odenets.compare.costs import evaluations, gradient_error
from odenets.compare.memory import peak_bytes
from odenets.fields import MLP
from odenets.models import FlowStack, NeuralODE
from odenets.solvers import FixedStep
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


def test_peak_memory_counts_what_is_held_at_one_time():
    kept = torch.zeros(1000, 1000)

    def work() -> None:
        first = kept * 2  # 4 MB
        second = first + 1  # 8 MB
        del first, second
        torch.empty(500, 1000)  # 2 MB after the others are gone

    assert abs(peak_bytes(work, torch.device("cpu")) - 8e6) < 1e4


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
        (gradient, steps): gradient_error(Distance(NeuralODE(field(), FixedStep("rk4", steps=steps), gradient)), batch)
        for gradient in ("autograd", "adjoint")
        for steps in (1, 2)
    }
    assert max(errors["autograd", 1], errors["autograd", 2]) < 1e-6
    assert errors["adjoint", 1] > 1e-5
    assert 8 < errors["adjoint", 1] / errors["adjoint", 2] < 40  # order 4: near 16
