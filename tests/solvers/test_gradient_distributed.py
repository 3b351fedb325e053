"""Gradient methods under DistributedDataParallel: every process ends with the gradient of the whole batch."""

from __future__ import annotations

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from odenets.models import NeuralODE

BATCH = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3, dtype=torch.float64)

    def forward(self, t, y):
        return torch.tanh(self.linear(y)) * torch.cos(t)


def model(gradient: str) -> NeuralODE:
    solver = "reversible_heun" if gradient == "reversible" else "bosh3"
    return NeuralODE(Field(), solver, gradient)


GRADIENTS = ("checkpoint", "recursive", "discrete_adjoint", "forward", "reversible")


def _process(rank: int, port: int, results) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for gradient in GRADIENTS:
        wrapped = nn.parallel.DistributedDataParallel(model(gradient))
        wrapped(BATCH[2 * rank : 2 * rank + 2]).square().sum().backward()
        results[rank, gradient] = [p.grad.clone() for p in wrapped.parameters()]
    dist.destroy_process_group()


@pytest.mark.slow  # two processes, each of which imports torch
def test_two_processes_share_their_gradients():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_process, (port, results), nprocs=2)
        for gradient in GRADIENTS:
            halves = []
            for half in BATCH.split(2):  # each with its own steps, as in the two processes
                alone = model("autograd")
                alone.solver = model(gradient).solver
                alone(half).square().sum().backward()
                halves.append([p.grad for p in alone.parameters()])
            for rank in range(2):
                for mine, first, second in zip(results[rank, gradient], *halves):
                    assert torch.allclose(mine, (first + second) / 2, rtol=1e-10)
