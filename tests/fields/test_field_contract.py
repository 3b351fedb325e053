"""What every vector field must do, whatever it computes. A new field is one more entry in FIELDS."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from odenets import fields
from odenets.fields.systems import System

TIMES = ("none", "concat", "modulate")
BASES = (("piecewise", 3), ("spline", 5), ("fourier", 5))
SYSTEMS: tuple[type[System], ...] = (
    fields.Brusselator,
    fields.DampedOscillator,
    fields.HenonHeiles,
    fields.Kepler,
    fields.Lorenz,
    fields.LotkaVolterra,
    fields.Pendulum,
    fields.Robertson,
    fields.VanDerPol,
)

Entry = tuple[Callable[[], nn.Module], tuple[int, ...]]


def mlp() -> nn.Module:
    return fields.MLP(3, 8)


# name -> (makes a field, the shape of one batch of states)
FIELDS: dict[str, Entry] = {
    "mlp-sequence": (partial(fields.MLP, 3, 8, time="modulate"), (5, 4, 3)),
    "attention-explicit": (partial(fields.Attention, 6, 2, causal=True, fused=False), (5, 4, 6)),
    "time-scaled": (lambda: fields.TimeScaled(mlp(), (1.0, 1e-2, 10.0)), (5, 3)),
    "autonomous": (lambda: fields.Autonomous(nn.Linear(3, 3)), (5, 3)),
    "hamiltonian": (partial(fields.HamiltonianField, 4, 8), (5, 4)),
    "separable-hamiltonian": (partial(fields.SeparableHamiltonianField, 4, 8), (5, 3, 4)),
    "spline-conv": (lambda: fields.TimeVarying(fields.Conv(4, norm="group"), "spline", 4), (5, 4, 6, 7)),
}
for time in TIMES:
    FIELDS[f"mlp-{time}"] = (partial(fields.MLP, 3, 8, time=time), (5, 3))
    FIELDS[f"conv-{time}"] = (partial(fields.Conv, 4, 6, time=time, norm="group"), (5, 4, 6, 7))
    FIELDS[f"rotary-attention-{time}"] = (partial(fields.RotaryAttention, 8, 2, time=time), (5, 4, 8))
    FIELDS[f"swiglu-{time}"] = (partial(fields.SwiGLU, 6, 8, time=time), (5, 4, 6))
    FIELDS[f"attention-{time}"] = (partial(fields.Attention, 6, 2, causal=True, time=time), (5, 4, 6))
for mode in ("sequential", "parallel"):
    FIELDS[f"combined-{mode}"] = (
        partial(fields.Combined, [partial(fields.RotaryAttention, 8, 2), partial(fields.SwiGLU, 8)], mode),
        (5, 4, 8),
    )
for basis, nodes in BASES:
    FIELDS[f"{basis}-mlp"] = (partial(fields.TimeVarying, mlp, basis, nodes), (5, 3))
for system in SYSTEMS:
    FIELDS[system.__name__] = (system, (5, len(system.names)))
    FIELDS[f"{system.__name__}-learnable"] = (partial(system, learnable=True), (5, 2, len(system.names)))


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, torch.Tensor]:
    """The field with every parameter moved off its initial value, and positive states."""
    torch.manual_seed(0)
    make, shape = FIELDS[name]
    field = make().to(dtype)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return field, torch.rand(shape, dtype=dtype) + 0.5


@pytest.mark.parametrize("name", FIELDS)
def test_one_time_per_sample_equals_a_loop_over_samples(name):
    field, x = build(name)
    ts = torch.linspace(0, 1, len(x), dtype=x.dtype)
    together = field(ts, x)
    assert together.shape == x.shape
    for i, t in enumerate(ts):
        torch.testing.assert_close(together[i], field(t, x[i : i + 1])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FIELDS)
def test_a_float_time_equals_a_tensor_time_and_the_dtype_is_kept(name):
    for dtype in (torch.float32, torch.float64):
        field, x = build(name, dtype)
        y = field(0.4, x)
        assert y.dtype == dtype
        torch.testing.assert_close(y, field(torch.tensor(0.4, dtype=dtype), x), rtol=0, atol=0)


@pytest.mark.parametrize("name", FIELDS)
def test_gradients_reach_every_parameter_and_the_state(name):
    field, x = build(name)
    x.requires_grad_()
    field(torch.linspace(0, 0.99, len(x), dtype=x.dtype), x).square().sum().backward()
    assert x.grad is not None
    for parameter_name, parameter in field.named_parameters():
        assert parameter.grad is not None, parameter_name
        per_node = parameter.grad.flatten(1) if isinstance(field, fields.TimeVarying) else parameter.grad.reshape(1, -1)
        assert (per_node.abs().amax(-1) > 0).all(), parameter_name


# One of each kind: a graph break or a value read on the host fails here. A float time and a time per sample each cost
# one more compilation, so only where the code differs.
COMPILED = {
    "mlp-modulate": ("0-dim", "per sample", "float"),
    "conv-concat": ("0-dim", "per sample"),
    "attention-modulate": ("0-dim",),
    "combined-sequential": ("0-dim",),
    "piecewise-mlp": ("0-dim", "per sample"),
    "spline-mlp": ("0-dim",),
    "fourier-mlp": ("0-dim",),
    "Pendulum-learnable": ("0-dim", "per sample", "float"),
    "Kepler": ("0-dim",),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiles_to_one_graph_and_gives_the_same_numbers(name):
    field, x = build(name)
    times = {"0-dim": torch.tensor(0.4), "per sample": torch.linspace(0, 1, len(x)), "float": 0.3}
    torch._dynamo.reset()
    compiled = torch.compile(field, backend="eager", fullgraph=True)
    for kind in COMPILED[name]:
        torch.testing.assert_close(compiled(times[kind], x), field(times[kind], x), rtol=1e-12, atol=1e-12)


def test_a_time_of_the_wrong_length_is_an_error_with_the_fix():
    with pytest.raises(ValueError, match=r"one time per sample.*got t \[3\] with x \[5, 2\].*pass a 0-dim t"):
        fields.MLP(2, time="concat")(torch.zeros(3), torch.zeros(5, 2))
