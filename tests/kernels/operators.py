"""Every operator with inputs to check it on: `CASES[name](shape...) -> tensors`; a new operator adds its lines."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odenets.flows.linear import generator_basis, generator_from_rates
from odenets.kernels.coefficients import coefficients
from odenets.kernels.delta import delta
from odenets.kernels.delta_compress import delta_compress
from odenets.kernels.depth_mix import attend, mix
from odenets.kernels.expand_project import expand_project
from odenets.kernels.generator import exponential, resolvent
from odenets.kernels.mhc import aggregate, aggregate_through, expand, project
from odenets.kernels.runge_kutta import finish, stage_sum
from odenets.kernels.sinkhorn import sinkhorn

Inputs = dict[str, Tensor | list[Tensor]]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# tokens and sizes: odd ones, one token, none, more tokens than a tile
TOKENS = [(1,), (3,), (2, 3), (2, 1, 2, 3), (0,)]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE)


@dataclass
class Operator:
    """An operator `call(backend=..., **inputs)` with a maker of its inputs for given token dimensions.

    `wide` are inputs that stay float32 whatever the state's precision is; `sizes` vary what is not tokens.
    """

    call: Callable[..., Tensor | tuple[Tensor, ...]]
    make: Callable[..., Inputs]
    sizes: Sequence[tuple[int, ...]]
    wide: frozenset[str] = frozenset()


def _delta(tokens, d, dv):
    return {"x": normal(*tokens, d, dv), "k": normal(*tokens, d), "v": normal(*tokens, dv), "beta": normal(*tokens)}


def _delta_and_next(tokens, d, dv):
    return _delta(tokens, d, dv) | {"weight": normal(d, dv), "gain": normal(d)}


def _generators(tokens, n):
    basis = generator_basis(n, "cyclic").to(DEVICE)
    return {"m": generator_from_rates(2 * torch.rand(*tokens, len(basis), device=DEVICE), basis)}


def _logits(tokens, n):
    N = n * n + 2 * n
    square = 0.1 + torch.rand(*tokens, device=DEVICE)
    return {"m": normal(*tokens, N), "square": square, "alpha": normal(3), "b": normal(N)}


def _streams(N):
    return math.isqrt(N + 1) - 1  # N = n^2 + 2n


def _sum(tokens, d):
    batch = (max(tokens[0], 1),)  # a sum over no state at all has no rows
    y = normal(*batch, *tokens[1:], d)
    return {"y": y, "h": torch.rand(batch, device=DEVICE), "stages": [normal(*y.shape) for _ in range(4)]}


WEIGHTS, ERRORS = (0.1, 0.0, 0.5, -0.2), (0.01, 0.02, 0.0, -0.03)

OPERATORS = {
    "delta": Operator(delta, _delta, [(63, 1), (127, 3), (16, 4), (2, 1), (1100, 4)], frozenset({"beta"})),
    "delta given k": Operator(
        lambda k, **rest: delta(k=k / 6, eps=None, **rest), _delta, [(33, 2)], frozenset({"beta"})
    ),
    "delta_compress": Operator(
        delta_compress, _delta_and_next, [(63, 3), (600, 4), (7, 1)], frozenset({"beta", "weight", "gain"})
    ),
    "delta_compress given k": Operator(
        lambda k, **rest: delta_compress(k=k / 6, eps=None, **rest), _delta_and_next, [(33, 2)],
        frozenset({"beta", "weight", "gain"}),
    ),
    "aggregate": Operator(
        aggregate, lambda t, n, c: {"x": normal(*t, n, c), "pre": normal(*t, n)}, [(4, 63), (3, 127), (1, 1)]
    ),
    "aggregate_through": Operator(
        aggregate_through,
        lambda t, n, c: {"x": normal(*t, n, c), "pre": normal(*t, n)},
        [(4, 63)],
        frozenset({"pre"}),
    ),
    "expand": Operator(
        expand,
        lambda t, n, c: {
            "x": normal(*t, n, c), "mixing": normal(*t, n, n), "post": normal(*t, n), "f": normal(*t, c)
        },
        [(4, 63), (3, 700), (1, 1)],
        frozenset({"mixing", "post"}),
    ),
    "project": Operator(
        project,
        lambda t, n, c: {"x": normal(*t, n, c), "phi": normal(n * c, n * n + 2 * n)},
        [(4, 63), (3, 17), (1, 1)],
        frozenset({"phi"}),
    ),
    "expand_project": Operator(
        expand_project,
        lambda t, n, c: {
            "x": normal(*t, n, c), "mixing": normal(*t, n, n), "post": normal(*t, n), "f": normal(*t, c),
            "phi": normal(n * c, n * n + 2 * n),
        },
        [(4, 63), (3, 17), (5, 3), (1, 1)],
        frozenset({"mixing", "post", "phi"}),
    ),
    "sinkhorn": Operator(sinkhorn, lambda t, n: {"logits": normal(*t, n, n)}, [(4,), (3,), (1,)]),
    "sinkhorn of huge logits": Operator(sinkhorn, lambda t, n: {"logits": 40 * normal(*t, n, n)}, [(4,)]),
    "coefficients": Operator(
        lambda m, **rest: coefficients(m=m, n=_streams(m.shape[-1]), **rest), _logits, [(4,), (3,), (1,)],
        frozenset({"square", "alpha", "b"}),
    ),
    "resolvent": Operator(resolvent, _generators, [(4,), (3,), (6,)]),
    "exponential": Operator(exponential, _generators, [(4,), (3,)]),
    "stage_sum": Operator(
        lambda stages, **rest: stage_sum(weights=WEIGHTS, stages=stages, **rest),
        _sum, [(63,), (1500,)], frozenset({"h"}),
    ),
    "finish": Operator(
        lambda stages, **rest: finish(b=WEIGHTS, b_error=ERRORS, rtol=1e-3, atol=1e-2, stages=stages, **rest),
        _sum, [(63,), (1500,)], frozenset({"h"}),
    ),
    "mix": Operator(
        mix, lambda t, c: {"weights": normal(*t, 5), "values": [normal(*t, c) for _ in range(5)]}, [(63,), (1,)],
        frozenset({"weights"}),
    ),
    "attend": Operator(
        attend,
        lambda t, c: {
            "query": 3 * normal(c) / c**0.5, "scales": torch.rand(*t, 3, device=DEVICE),
            "values": [normal(*t, c) for _ in range(3)],
        },
        [(63,), (127,)],
        frozenset({"scales", "query"}),
    ),
}  # fmt: skip


def tensors(inputs: Inputs) -> list[Tensor]:
    return [x for value in inputs.values() for x in (value if isinstance(value, list) else [value])]


def mapped(inputs: Inputs, function: Callable[[str, Tensor], Tensor]) -> Inputs:
    return {
        key: [function(key, x) for x in value] if isinstance(value, list) else function(key, value)
        for key, value in inputs.items()
    }


def outputs(operator: Operator, inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    result = operator.call(backend=backend, **inputs)
    return result if isinstance(result, tuple) else (result,)


def with_gradients(operator: Operator, inputs: Inputs, backend: str, probes: Sequence[Tensor]) -> list[Tensor | None]:
    """Outputs, and the gradients of their products with the probes with respect to every input."""
    inputs = mapped(inputs, lambda _, x: x.detach().requires_grad_())
    found = outputs(operator, inputs, backend)
    total = sum((a * p.to(a)).sum() for a, p in zip(found, probes) if a.requires_grad)
    return [*found, *torch.autograd.grad(total, tensors(inputs), allow_unused=True)]
