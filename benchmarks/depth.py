"""Two hundred untrained blocks: does the signal, and does the gradient, get from end to end?

    python benchmarks/depth.py > docs/results/depth.md

For every block a stack of 200, width 32, MLP branches, fresh initialisation, input of unit normals [4, 6, 32]. Signal:
root mean square of the output over the input's. Gradient: of the gradient at the input over that of a random one at
the output. At h = 1 every layer makes the papers' full step; at h = 1/200 the stack integrates over unit time.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable

import torch
from torch import nn

from odenets.blocks import (
    Antisymmetric,
    AttentionResidual,
    Block,
    Delta,
    Hamiltonian,
    Highway,
    HyperConnections,
    ImplicitEuler,
    Leapfrog,
    LinearMultistep,
    Macaron,
    ManifoldHyperConnections,
    Momentum,
    Mudd,
    Plain,
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
    return MLP(DIM, 64, depth=1, activation="silu")


def norm() -> nn.Module:
    return nn.RMSNorm(DIM)


def disturbed(block: Block, name: str, scale: float) -> Block:
    """The block with noise on its stream mixing, as training would put there."""
    with torch.no_grad():
        p = block.get_parameter(f"flow.coefficients.{name}")
        p.add_(scale * torch.randn_like(p))
    return block


def hyper(disturbance: float) -> Block:
    return disturbed(HyperConnections(mlp(), DIM, dynamic=False, norm=norm()), "a_r", disturbance)


def manifold(disturbance: float = 0.0, **arguments) -> Block:
    return disturbed(ManifoldHyperConnections(mlp(), DIM, norm=norm(), **arguments), "b", disturbance)


BLOCKS: dict[str, Callable[[], Block]] = {
    "plain (no skip)": lambda: Plain(mlp(), norm()),
    "residual": lambda: Residual(mlp(), norm()),
    "highway": lambda: Highway(mlp(), DIM, norm=norm()),
    "highway, gate bias -6": lambda: Highway(mlp(), DIM, norm=norm(), bias=-6.0),
    "delta": lambda: Delta(mlp(), DIM),
    "delta, backward Euler": lambda: Delta(mlp(), DIM, scheme="backward_euler"),
    "delta, exponential": lambda: Delta(mlp(), DIM, scheme="exponential"),
    "delta, beta_0 = 0.1": lambda: Delta(mlp(), DIM, beta_0=0.1),
    "delta, d_v = 4": lambda: Delta(mlp(), DIM, value_channels=4),
    "delta, write only": lambda: Delta(mlp(), DIM, write_only=True),
    "HC": lambda: HyperConnections(mlp(), DIM, norm=norm()),
    "HC, mixing + 0.3 noise": lambda: hyper(0.3),
    "mHC, Sinkhorn": lambda: manifold(),
    "mHC, Sinkhorn, logits + 3 noise": lambda: manifold(3.0),
    "mHC, generator": lambda: manifold(parametrisation="generator"),
    "mHC, generator, logits + 3 noise": lambda: manifold(3.0, parametrisation="generator"),
    "momentum": lambda: Momentum(mlp(), norm=norm()),
    "RevNet": lambda: RevNet(mlp, norm=norm),
    "leapfrog": lambda: Leapfrog(mlp, norm=norm),
    "Hamiltonian": lambda: Hamiltonian(DIM),
    "antisymmetric": lambda: Antisymmetric(DIM),
    "linear multistep": lambda: LinearMultistep(mlp(), norm=norm()),
    "Macaron": lambda: Macaron(mlp, norm=norm),
    "Strang": lambda: Strang(mlp, norm=norm),
    "Runge-Kutta 4": lambda: RungeKuttaBlock(mlp(), norm=norm()),
    "PolyNet": lambda: PolyNet(mlp(), norm=norm()),
    "implicit Euler": lambda: ImplicitEuler(mlp(), norm=norm()),
    "MUDD": lambda: Mudd(mlp(), DIM, norm=norm()),
    "attention over depth": lambda: AttentionResidual(mlp(), DIM, norm()),
}


def gains(make: Callable[[], Block], T: float) -> tuple[float, float]:
    torch.manual_seed(0)
    stack = FlowStack(make, T=T, N=DEPTH)
    x = torch.randn(4, 6, DIM, requires_grad=True)
    y = stack(x)
    weights = torch.randn_like(y)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    return (y.norm() / x.norm()).item(), (gradient.norm() / weights.norm()).item()


def cell(value: float) -> str:
    return f"{value:.2g}" if 0.1 < value < 10 else f"**{value:.2g}**"


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    print("# 200 layers at initialisation\n")
    print(__doc__.split("\n\n")[2].replace("\n", " ") + "\n")
    print(f"`python benchmarks/depth.py`, commit {commit}, torch {torch.__version__}, {platform.machine()} CPU, fp32. "
          "Bold: outside 0.1 to 10.\n")  # fmt: skip
    print("| block | signal, h = 1 | gradient, h = 1 | signal, h = 1/200 | gradient, h = 1/200 |")
    print("|---|---|---|---|---|")
    for name, make in BLOCKS.items():
        cells = [cell(value) for T in (float(DEPTH), 1.0) for value in gains(make, T)]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(WHY)


WHY = """
Why the bold ones do not keep it:

- plain: there is no identity path; every layer shrinks what passes.
- highway at h = 1: gates half open replace the state; they keep it when their bias starts them closed (the paper's
  advice for deep stacks), or when h is small.
- delta with gates at 1: the state keeps its size, but the gradient also flows through the direction k(X), and what that
  adds compounds over layers. Gates that cannot overshoot (backward Euler, exponential) or start at 0.1 keep it.
- HC: products of unconstrained mixings grow with depth, which is what mHC's doubly stochastic ones cannot do.
- attention over depth starts as the plain mean of all earlier outputs, of which the input is one in 201.
- fields without a norm in front (Hamiltonian, antisymmetric) need a step that resolves their rotation.
"""

if __name__ == "__main__":
    main()
