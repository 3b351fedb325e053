"""An operator's kernel against the float64 reference: outputs and every gradient. Needs no pytest, so that
`benchmarks/gpu.py` can ask before it measures.
"""

import torch
from torch import Tensor

from odenets.kernels.backend import interpreted
from tests.kernels.operators import OPERATORS, mapped, outputs, with_gradients

# normwise, against the float64 reference of the inputs as rounded; the interpreter cuts off where a GPU rounds
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7 if interpreted() else 2**-8}
# logits of 100 lose two digits to their own rounding; every squaring of the exponential doubles the relative error
LOOSER = {"sinkhorn of huge logits": 10, "exponential": 4}


def error(actual: Tensor, exact: Tensor) -> float:
    assert torch.isfinite(actual).all()
    return float((actual.detach().double() - exact.detach()).norm() / exact.detach().norm().clamp(min=1e-6))


def compare(name: str, tokens: tuple[int, ...], size: tuple[int, ...], dtype: torch.dtype, noncontiguous=False):
    operator = OPERATORS[name]
    torch.manual_seed(hash((tokens, size)) % 1000)
    inputs = mapped(operator.make(tokens, *size), lambda key, x: x if key in operator.wide else x.to(dtype))
    if noncontiguous:
        inputs = mapped(inputs, lambda _, x: x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() > 1 else x)
    wide = mapped(inputs, lambda _, x: x.double())
    probes = [torch.randn_like(x) for x in outputs(operator, wide, "reference")]
    actual = with_gradients(operator, inputs, "triton", probes)
    exact = with_gradients(operator, wide, "reference", probes)
    for i, (a, e) in enumerate(zip(actual, exact, strict=True)):
        if e is None:
            assert a is None or not a.any(), f"number {i} has a gradient it should not have"
        elif e.numel():
            assert a.shape == e.shape
            assert error(a, e) <= TOLERANCE[dtype] * LOOSER.get(name, 1), (
                f"result number {i} (outputs first, then gradients)"
            )
