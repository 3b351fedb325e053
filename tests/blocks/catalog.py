"""The blocks that the contract tests run over: a new block adds a line."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from odenets.blocks import Block, Delta, Highway, HyperConnections, ManifoldHyperConnections, Plain, Residual

Make = Callable[[nn.Module, int], Block]

BLOCKS: dict[str, Make] = {
    "residual": lambda f, d: Residual(f),
    "plain": lambda f, d: Plain(f),
    "highway": lambda f, d: Highway(f, d, norm=nn.RMSNorm(d)),
    "highway exponential": lambda f, d: Highway(f, d, scheme="exponential", step="half_frozen"),
    "delta": lambda f, d: Delta(f, d),
    "delta half frozen": lambda f, d: Delta(f, d, step="half_frozen", coefficient="exact"),
    "delta CC": lambda f, d: Delta(f, d, value_channels=4, gate_hidden=6, scheme="backward_euler"),
    "delta write-only": lambda f, d: Delta(f, d, value_channels=2, write_only=True),
    "HC static": lambda f, d: HyperConnections(f, d, dynamic=False),
    "HC": lambda f, d: HyperConnections(f, d),
    "mHC": lambda f, d: ManifoldHyperConnections(f, d),
    "mHC generator": lambda f, d: ManifoldHyperConnections(f, d, parametrisation="generator"),
    "mHC cyclic": lambda f, d: ManifoldHyperConnections(
        f, d, streams=3, parametrisation="generator", permutations="cyclic", scheme="exponential", step="half_frozen"
    ),
    "mHC laplacian": lambda f, d: ManifoldHyperConnections(
        f, d, parametrisation="generator", permutations="laplacian", scheme="implicit_midpoint"
    ),
}

# Those that convolve over a sequence take [B, T, d] only.
SEQUENCE_BLOCKS: dict[str, Make] = BLOCKS | {
    "delta TC": lambda f, d: Delta(f, d, value_channels=4, compress="token"),
    "delta TC EC": lambda f, d: Delta(f, d, value_channels=4, compress="token", expand="conv"),
    "delta CC EC": lambda f, d: Delta(f, d, value_channels=3, expand="conv"),
}


@torch.no_grad()
def shaken(block: Block, scale: float = 0.3) -> Block:
    """The block with noise on every parameter: nothing is left at a special value."""
    for p in block.parameters():
        p.add_(scale * torch.randn_like(p))
    return block


def step(block: Block, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
    """One block as a whole network: lift, step, readout."""
    return block.readout(block(t, block.lift(x), h))


def assert_same_with_gradients(
    actual: Tensor, expected: Tensor, leaves: list[Tensor], tolerance: float = 1e-10
) -> None:
    """Values and the gradients of a random projection with respect to all leaves agree."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    weights = torch.randn_like(expected)
    one = torch.autograd.grad((actual * weights).sum(), leaves, retain_graph=True)
    two = torch.autograd.grad((expected * weights).sum(), leaves, retain_graph=True)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        assert a.abs().max() > 0
