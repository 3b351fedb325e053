"""Two hundred blocks at initialisation: the signal and its gradient get through from end to end."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from odenets.blocks import (
    Antisymmetric,
    AttentionResidual,
    Block,
    Engram,
    Hamiltonian,
    ImplicitEuler,
    Leapfrog,
    LinearMultistep,
    Macaron,
    Momentum,
    Mudd,
    NgramMemory,
    PolyNet,
    Residual,
    RevNet,
    RungeKuttaBlock,
    Strang,
)
from odenets.fields import MLP
from odenets.models import FlowStack

DIM, DEPTH = 32, 200


def mlp() -> nn.Module:
    return MLP(DIM, DIM, depth=1, activation="gelu")


def norm() -> nn.Module:
    return nn.RMSNorm(DIM)


DEEP: dict[str, Callable[[], Block]] = {
    "residual": lambda: Residual(mlp(), norm()),
    "momentum": lambda: Momentum(mlp(), norm=norm()),
    "revnet": lambda: RevNet(mlp, norm=norm),
    "leapfrog": lambda: Leapfrog(mlp, norm=norm),
    "hamiltonian": lambda: Hamiltonian(DIM),
    "antisymmetric": lambda: Antisymmetric(DIM),
    "antisymmetric-midpoint": lambda: Antisymmetric(DIM, 0.0, scheme="midpoint"),
    "multistep": lambda: LinearMultistep(mlp(), norm=norm()),
    "macaron": lambda: Macaron(mlp, norm=norm),
    "strang": lambda: Strang(mlp, norm=norm),
    "rk4": lambda: RungeKuttaBlock(mlp(), norm=norm()),
    "rk2-gated": lambda: RungeKuttaBlock(mlp(), "heun2", "gated", DIM, norm()),
    "poly-2": lambda: PolyNet(mlp(), norm=norm()),
    "implicit-euler": lambda: ImplicitEuler(mlp(), norm=norm()),
    "mudd": lambda: Mudd(mlp(), DIM, norm=norm()),
    "attention-residual": lambda: AttentionResidual(mlp(), DIM, norm()),
    "engram": lambda: Engram(Residual(mlp(), norm()), NgramMemory(16, 50, heads=2), DIM),
}


def through(name: str, h: float) -> dict[str, float]:
    """Root mean squares relative to the input's: of the output, and of the gradient that reaches the input when one of
    size 1 enters at the output; and the spread of the blocks' parameter gradients, largest over smallest."""
    torch.manual_seed(0)
    stack = FlowStack(DEEP[name], T=DEPTH * h, N=DEPTH)
    x = torch.randn(4, 6, DIM, requires_grad=True)
    y = stack(x, {"ids": torch.randint(0, 20, (4, 6))})
    y.backward(torch.randn_like(y))
    assert x.grad is not None
    grads = [
        torch.cat([p.grad.flatten() for p in block.parameters() if p.grad is not None]).norm().item()
        for block in stack.blocks
    ]
    rms = [z.detach().square().mean().sqrt().item() for z in (x, y, x.grad)]
    return {"signal": rms[1] / rms[0], "gradient": rms[2], "spread": max(grads) / min(grads)}


# Without a norm the step size must resolve the rotation: at h = 1 the gradient of these grows by 1e4 and more.
COARSEST = {"antisymmetric": 0.1, "antisymmetric-midpoint": 0.1}
# The mean over depth, where the others have the sum.
SCALE = {"attention-residual": DEPTH + 1}


@pytest.mark.parametrize("name", DEEP)
def test_signal_and_gradient_get_through(name: str):
    seen, scale = through(name, COARSEST.get(name, 1.0)), SCALE.get(name, 1)
    assert 0.1 < scale * seen["signal"] < 10, seen
    assert 0.1 < scale * seen["gradient"] < 50, seen
    assert seen["spread"] < 50, seen
