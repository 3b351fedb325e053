"""200 untrained layers: which blocks carry signal and gradient from end to end, and why the others do not."""

import pytest
import torch
from torch import nn

from odenets.blocks import Block, Delta, Highway, HyperConnections, ManifoldHyperConnections, Plain, Residual
from odenets.fields import MLP
from odenets.models import FlowStack

D, LAYERS = 32, 200


def branch() -> nn.Module:
    return MLP(D, 64, depth=1, activation="silu")


def norm() -> nn.Module:
    return nn.RMSNorm(D)


def gains(make, T: float) -> tuple[float, float]:
    """|output| / |input| and |gradient of the input| / |gradient of the output| of the stack, random ones."""
    torch.manual_seed(0)
    stack = FlowStack(make, T=T, N=LAYERS)
    x = torch.randn(16, 2, D, requires_grad=True)
    y = stack(x)
    weights = torch.randn_like(y)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    return (y.norm() / x.norm()).item(), (gradient.norm() / weights.norm()).item()


def mixing_shaken(block: Block, name: str, scale: float) -> Block:
    with torch.no_grad():
        p = block.get_parameter(f"flow.coefficients.{name}")
        p.add_(scale * torch.randn_like(p))
    return block


# At h = 1 each layer makes a full step, as in the papers; at h = 1/200 the stack integrates over unit time.
FLOWS = {
    "residual": lambda: Residual(branch(), norm()),
    "highway": lambda: Highway(branch(), D, norm=norm()),
    "delta": lambda: Delta(branch(), D),
    "delta d_v=4": lambda: Delta(branch(), D, value_channels=4),
    "write-only": lambda: Delta(branch(), D, write_only=True),
    "HC": lambda: HyperConnections(branch(), D, norm=norm()),
    "mHC": lambda: ManifoldHyperConnections(branch(), D, norm=norm()),
    "mHC generator": lambda: ManifoldHyperConnections(branch(), D, norm=norm(), parametrisation="generator"),
}


@pytest.mark.parametrize("name", FLOWS)
def test_unit_integration_time_keeps_signal_and_gradient(name: str):
    for gain in gains(FLOWS[name], T=1.0):
        assert 0.1 < gain < 10


@pytest.mark.parametrize("name", ["residual", "write-only", "mHC", "mHC generator"])
def test_full_steps_keep_signal_and_gradient_in_residual_and_manifold_blocks(name: str):
    for gain in gains(FLOWS[name], T=LAYERS):
        assert 0.1 < gain < 10


def test_full_steps_of_gates_that_cannot_overshoot_keep_the_deltas_gradient():
    for scheme in ("backward_euler", "exponential"):
        for gain in gains(lambda scheme=scheme: Delta(branch(), D, scheme=scheme), T=LAYERS):
            assert 0.1 < gain < 10


class Detached(nn.Module):
    """A field that no gradient goes through."""

    def __init__(self, field: nn.Module):
        super().__init__()
        self.field = field

    def forward(self, t: torch.Tensor | float, x: torch.Tensor) -> torch.Tensor:
        return self.field(t, x).detach()


def test_full_steps_of_delta_at_beta_1_multiply_the_gradient_through_the_direction():
    # The state neither grows, as a residual one does, nor shrinks: what each layer's k(X) adds to the gradient does not
    # fade with depth and compounds. With k held fixed, or gates of 0.1, nothing of the kind.
    signal, gradient = gains(FLOWS["delta"], T=LAYERS)
    assert 0.1 < signal < 10
    assert gradient > 10
    for make in (lambda: Delta(Detached(branch()), D), lambda: Delta(branch(), D, beta_0=0.1)):
        for gain in gains(make, T=LAYERS):
            assert 0.1 < gain < 10


def test_full_steps_of_highways_forget_the_input_unless_their_gates_are_closed():
    forgotten = gains(FLOWS["highway"], T=LAYERS)
    assert max(forgotten) < 0.2
    for gain in gains(lambda: Highway(branch(), D, norm=norm(), bias=-6.0), T=LAYERS):
        assert 0.1 < gain < 10


def test_without_a_skip_connection_the_gradient_is_lost():
    assert gains(lambda: Plain(branch(), norm()), T=LAYERS)[1] < 0.02


def test_unconstrained_mixing_explodes_where_doubly_stochastic_mixing_of_any_kind_does_not():
    make = {
        "HC": lambda: mixing_shaken(HyperConnections(branch(), D, dynamic=False, norm=norm()), "a_r", 0.3),
        "mHC": lambda: mixing_shaken(FLOWS["mHC"](), "b", 3.0),
        "generator": lambda: mixing_shaken(FLOWS["mHC generator"](), "b", 3.0),
    }
    signal, gradient = gains(make["HC"], T=LAYERS)
    assert signal > 1e3
    assert gradient > 1e3
    for name in ("mHC", "generator"):
        for gain in gains(make[name], T=LAYERS):
            assert 0.1 < gain < 10, name
