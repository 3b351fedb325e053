"""The gradient benchmark's gate is green, and turns red when a method is wrong. Nothing is timed."""

import pytest
import torch

from benchmarks import gradients
from odenets.solvers.gradients.replay import Replay


def test_the_gate_is_green(monkeypatch):
    monkeypatch.setattr(gradients, "FLOWS", ("oscillating",))
    assert gradients.gate()[0] < 1e-10


def test_the_gate_turns_red(monkeypatch):
    monkeypatch.setattr(gradients, "FLOWS", ("oscillating",))
    pull_back = Replay.pull_back
    monkeypatch.setattr(
        Replay, "pull_back", lambda self, n, state, grads: tuple(1.001 * g for g in pull_back(self, n, state, grads))
    )
    assert gradients.gate()[0] > 1e-4


def test_the_way_back_ends_at_the_start_and_loses_lambda_to_the_minus_n():
    back = gradients.reconstruction
    assert back("oscillating", 0.999, 50, torch.float64) < 1e-14
    assert back("oscillating", 0.8, 100, torch.float64) / back("oscillating", 1.0, 100, torch.float64) > 1e3


@pytest.mark.parametrize("how", ["autograd", "adjoint"])
def test_peers_find_the_same_gradient(how):
    pytest.importorskip("torchode")
    field, x = gradients.MLP(8), torch.linspace(-1, 1, 32).reshape(4, 8)
    mine = gradients.gradient(field, x, 200, "rk4", "autograd", 2.0)
    torchdiffeq = gradients.torchdiffeq_gradient(field, x, 200, how == "adjoint", 2.0)
    torchode = gradients.torchode_gradient(field, x, 0, how, 2.0)
    assert torch.allclose(mine, torchdiffeq, rtol=1e-3, atol=1e-4)
    assert torch.allclose(mine, torchode, rtol=1e-2, atol=1e-3)
