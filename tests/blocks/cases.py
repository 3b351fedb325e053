"""Every block with small branches, for the tests that all blocks must pass; a new block adds one line."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

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
from odenets.fields import MLP, Attention

DIM = 8


def attention() -> nn.Module:
    return Attention(DIM, 2, causal=True, time="concat", fused=False)


def mlp() -> nn.Module:
    return MLP(DIM, 12, depth=1, time="concat")


def half() -> nn.Module:
    return Attention(DIM // 2, 2, causal=True, time="concat")


def norm() -> nn.Module:
    return nn.RMSNorm(DIM, eps=1e-6)


class QKV(nn.Module):
    """Causal attention whose queries, keys and values come from streams of their own."""

    def __init__(self) -> None:
        super().__init__()
        # no biases: softmax is blind to one on the keys
        self.q, self.k, self.v = (nn.Linear(DIM, DIM, bias=False) for _ in range(3))

    def forward(self, t: Tensor | float, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(self.q(q), self.k(k), self.v(v), is_causal=True)


def memory() -> NgramMemory:
    return NgramMemory(16, slots=50, heads=2, std=1.0)


CASES: dict[str, Callable[[], Block]] = {
    "residual": lambda: Residual(attention(), norm()),
    "momentum": lambda: Momentum(attention(), norm=norm()),
    "revnet": lambda: RevNet(attention, mlp, norm),
    "revnet-halves": lambda: RevNet(half, split="halves"),
    "leapfrog": lambda: Leapfrog(attention, norm=norm),
    "leapfrog-halves": lambda: Leapfrog(half, split="halves"),
    "hamiltonian": lambda: Hamiltonian(DIM, 5),
    "hamiltonian-euler": lambda: Hamiltonian(DIM, scheme="symplectic_euler", split="halves"),
    "antisymmetric": lambda: Antisymmetric(DIM, branch=attention()),
    "antisymmetric-midpoint": lambda: Antisymmetric(DIM, scheme="midpoint"),
    "multistep": lambda: LinearMultistep(attention(), norm=norm()),
    "macaron": lambda: Macaron(attention(), mlp(), mlp()),
    "strang": lambda: Strang(attention(), mlp()),
    "rk2": lambda: RungeKuttaBlock(attention(), "heun2", norm=norm()),
    "rk4": lambda: RungeKuttaBlock(attention()),
    "rk4-learned": lambda: RungeKuttaBlock(attention(), weights="learned"),
    "rk2-gated": lambda: RungeKuttaBlock(attention(), "heun2", "gated", DIM),
    "poly-2": lambda: PolyNet(attention()),
    "mpoly-2": lambda: PolyNet(attention(), mlp(), "mpoly-2"),
    "2-way": lambda: PolyNet(attention, variant="2-way"),
    "implicit-euler": lambda: ImplicitEuler(attention(), norm=norm()),
    "implicit-euler-gradient": lambda: ImplicitEuler(attention(), 1, "gradient"),
    "mudd": lambda: Mudd(attention(), DIM, window=3, norm=norm()),
    "mudd-2": lambda: Mudd(attention(), DIM, window=3, streams=2, branch2=mlp(), norm2=norm()),
    "mudd-4": lambda: Mudd(QKV(), DIM, window=4, streams=4),
    "attention-residual": lambda: AttentionResidual(attention(), DIM, norm()),
    "engram": lambda: Engram(Residual(attention()), memory(), DIM),
    "engram-times": lambda: Engram(Residual(attention()), memory(), DIM, times=(0.05, 0.6)),
}


# The transposed Jacobian of a causal branch is anticausal, so descent on the residual looks ahead.
NOT_CAUSAL = ("implicit-euler-gradient",)


def made(factory: Callable[[], Block], seed: int = 0) -> Callable[[], Block]:
    """A factory of the block in float64, away from its initialisation: every parameter is moved at random."""
    generator = torch.Generator().manual_seed(seed)

    def build() -> Block:
        block = factory().double()
        with torch.no_grad():
            for p in block.parameters():
                p.add_(0.2 * torch.randn(p.shape, dtype=p.dtype, generator=generator))
        return block

    return build


def tensors(state: object) -> list[Tensor]:
    """The tensors of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    assert isinstance(state, tuple)
    return [x for part in state for x in tensors(part)]


def assert_same(actual: Tensor, expected: Tensor, wrt: Iterable[Tensor], tolerance: float = 1e-10) -> None:
    """Equal values and equal gradients with respect to every tensor of `wrt`."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    wrt = list(wrt)
    seed = torch.randn(actual.shape, dtype=actual.dtype, generator=torch.Generator().manual_seed(7))
    for a, e in zip(
        torch.autograd.grad((actual * seed).sum(), wrt, allow_unused=True, retain_graph=True),
        torch.autograd.grad((expected * seed).sum(), wrt, allow_unused=True, retain_graph=True),
    ):
        zero = torch.zeros(())
        a, e = (zero if g is None else g for g in (a, e))
        torch.testing.assert_close(*torch.broadcast_tensors(a.double(), e.double()), rtol=tolerance, atol=tolerance)
