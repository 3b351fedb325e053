"""PyTorch's operations on arrays of scalars: numpy object arrays, whose views behave as tensors' do.

Elementwise operations, views, copies into views, indexing, reductions, small products of matrices. Each entry of
`OPERATIONS` is named as the operation is in `torch.ops.aten` and takes its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .scalars import COMPARISONS, UNARY, Scalar, apply, cast, const, where

Array = Any  # np.ndarray of Scalars, or a Python number


def constant(values: Any) -> np.ndarray:
    """Numbers as an array of constant scalars."""
    values = np.asarray(values)
    kind = "bool" if values.dtype == bool else "real"
    out = np.empty(values.shape, dtype=object)
    for index in np.ndindex(values.shape):
        out[index] = const(values[index], kind)
    return out


def mapped(function: Callable[..., Scalar], *arrays: Array) -> np.ndarray:
    """function of the elements, broadcast."""
    inputs = [x if isinstance(x, np.ndarray) and x.dtype == object else constant(x) for x in arrays]
    inputs = [np.asarray(x, dtype=object) for x in np.broadcast_arrays(*inputs)]
    out = np.empty(inputs[0].shape, dtype=object)
    for index in np.ndindex(out.shape):
        out[index] = function(*(x[index] for x in inputs))
    return out


def real(x: Scalar) -> Scalar:
    return cast(x, "real")


def _elementwise(function: Callable[..., Scalar]) -> Callable[..., np.ndarray]:
    return lambda *arrays, **_: mapped(lambda *xs: function(*map(real, xs)), *arrays)


def _op(name: str) -> Callable[..., np.ndarray]:
    return _elementwise(lambda *xs: apply(name, *xs))


def _scaled(name: str) -> Callable[..., np.ndarray]:
    def combined(x: Array, y: Array, alpha: float = 1) -> np.ndarray:
        return mapped(lambda a, b: apply(name, real(a), real(b) * float(alpha)), x, y)

    return combined


def _logic(name: str) -> Callable[..., np.ndarray]:
    return lambda *arrays: mapped(lambda *xs: apply(name, *(cast(x, "bool") for x in xs)), *arrays)


def _sign(x: Scalar) -> Scalar:
    return where(apply("gt", x, 0.0), const(1.0), where(apply("lt", x, 0.0), const(-1.0), x))


def _sigmoid(x: Scalar) -> Scalar:
    return 1.0 / (1.0 + apply("exp", -x))


def _softplus(x: Scalar, beta: float = 1.0, threshold: float = 20.0) -> Scalar:
    return where(apply("gt", x * beta, threshold), x, apply("log1p", apply("exp", x * beta)) / beta)


def _gelu(x: Scalar, approximate: str = "none") -> Scalar:
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
        return 0.5 * x * (1.0 + apply("tanh", inner))
    return 0.5 * x * (1.0 + apply("erf", x * math.sqrt(0.5)))


def _clamp(x: Array, low: Array = None, high: Array = None) -> np.ndarray:
    x = x if low is None else _op("max")(x, low)
    return x if high is None else _op("min")(x, high)


def _dims(x: np.ndarray, dim: Any) -> tuple[int, ...]:
    if dim is None or dim == []:
        return tuple(range(x.ndim))
    return tuple(d % max(x.ndim, 1) for d in (dim if isinstance(dim, (list, tuple)) else [dim]))


def reduced(function: Callable[[Scalar, Scalar], Scalar], x: np.ndarray, dim: Any, keep: bool) -> np.ndarray:
    """x with a function of two scalars folded along dimensions."""
    dims = _dims(x, dim)
    rest = [d for d in range(x.ndim) if d not in dims]
    flat = np.transpose(x, (*rest, *dims)).reshape(*(x.shape[d] for d in rest), -1)
    out = np.empty(flat.shape[:-1], dtype=object)
    for index in np.ndindex(out.shape):
        total, *others = (real(v) for v in flat[index])
        for value in others:
            total = function(total, value)
        out[index] = total
    return np.expand_dims(out, dims) if keep else out


def _sum(x: Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> np.ndarray:
    return reduced(lambda a, b: a + b, x, dim, keepdim)


def _mean(x: Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> np.ndarray:
    count = math.prod(x.shape[d] for d in _dims(x, dim))
    return _op("div")(_sum(x, dim, keepdim), float(count))


def _norm(x: Array, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> np.ndarray:
    if ord != 2:
        raise NotImplementedError
    return _op("sqrt")(_sum(_op("mul")(x, x), dim, keepdim))


def _extreme(name: str) -> Callable[..., np.ndarray]:
    return lambda x, dim=None, keepdim=False: reduced(lambda a, b: apply(name, a, b), x, dim, keepdim)


def _softmax(x: Array, dim: int, half: bool = False) -> np.ndarray:
    powers = _op("exp")(_op("sub")(x, _extreme("max")(x, dim, True)))
    return _op("div")(powers, _sum(powers, dim, True))


def _log_softmax(x: Array, dim: int, half: bool = False) -> np.ndarray:
    x = _op("sub")(x, _extreme("max")(x, dim, True))
    return _op("sub")(x, _op("log")(_sum(_op("exp")(x), dim, True)))


def _cumsum(x: Array, dim: int, dtype: Any = None) -> np.ndarray:
    out = x.copy()
    along = np.moveaxis(out, dim, 0)
    for i in range(1, len(along)):
        along[i] = _op("add")(along[i - 1], along[i])
    return out


def product(x: Array, y: Array) -> np.ndarray:
    """Matrix product, of vectors too."""
    if x.size == 0 or y.size == 0:
        raise NotImplementedError
    return np.asarray(np.matmul(_elementwise(lambda v: v)(x), _elementwise(lambda v: v)(y)), dtype=object)


def _select(x: Array, dim: int, index: int) -> np.ndarray:
    at: list[Any] = [slice(None)] * x.ndim
    at[dim] = slice(index, index + 1) if index != -1 else slice(-1, None)
    return x[tuple(at)].squeeze(dim)  # a view, of one element too


def _slice(x: Array, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> np.ndarray:
    at: list[Any] = [slice(None)] * x.ndim
    at[dim] = slice(start, end, step)
    return x[tuple(at)]


def _split(x: Array, sizes: Any, dim: int = 0) -> list[np.ndarray]:
    total = x.shape[dim]
    steps = [sizes] * math.ceil(total / sizes) if isinstance(sizes, int) else list(sizes)
    ends = np.cumsum(steps)
    return [_slice(x, dim, end - step, min(end, total)) for step, end in zip(steps, ends)]


def _index(x: Array, indices: Sequence[Any]) -> np.ndarray:
    at = tuple(slice(None) if i is None else integers(i) for i in indices)
    return np.asarray(x[at], dtype=object)


def integers(index: Any) -> np.ndarray:
    """Indices that are known when the field is traced."""
    if isinstance(index, np.ndarray) and index.dtype != object:
        return index
    raise NotImplementedError


def _expand(x: Array, sizes: Sequence[int], **_: Any) -> np.ndarray:
    lead = len(sizes) - x.ndim
    return np.broadcast_to(x, [x.shape[i - lead] if s == -1 else s for i, s in enumerate(sizes)])


def _copy_(target: np.ndarray, source: Array, *_: Any) -> np.ndarray:
    target[...] = mapped(real, source)
    return target


def _filled(x: Array, value: float) -> np.ndarray:
    return constant(np.full(np.shape(x), float(value)))


def _to(x: Array, dtype: Any = None, **_: Any) -> np.ndarray:
    if dtype in (torch.float64, torch.float32, None):
        return mapped(real if dtype is not None else (lambda v: v), x)
    if dtype == torch.bool:
        return mapped(lambda v: cast(v, "bool"), x)
    raise NotImplementedError


def _squeeze(x: Array, dim: Any = None) -> np.ndarray:
    dims = [d for d in _dims(x, dim) if x.shape[d] == 1]
    return x.squeeze(tuple(dims))


def _new(value: float) -> Callable[..., np.ndarray]:
    return lambda size, *_, **__: constant(np.full(size, value))


def _new_like_self(value: float) -> Callable[..., np.ndarray]:
    return lambda x, size, *_, **__: constant(np.full(size, value))


OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: _op(name) for name in UNARY},
    **{name: _op(name) for name in ("mul", "atan2")},
    **{name: _op(name) for name in COMPARISONS},
    "add": _scaled("add"), "sub": _scaled("sub"), "rsub": lambda x, y, alpha=1: _scaled("sub")(y, x, alpha),
    "pow": _op("pow"), "maximum": _op("max"), "minimum": _op("min"), "fmax": _op("max"), "fmin": _op("min"),
    "div": lambda x, y, rounding_mode=None: _elementwise(_divided[rounding_mode])(x, y),
    "remainder": _elementwise(lambda a, b: a - apply("floor", a / b) * b),
    "square": _elementwise(lambda a: a * a), "reciprocal": _elementwise(lambda a: 1.0 / a),
    "rsqrt": _elementwise(lambda a: 1.0 / apply("sqrt", a)), "exp2": _elementwise(lambda a: apply("exp", a * math.log(2))),
    "log2": _elementwise(lambda a: apply("log", a) * (1 / math.log(2))),
    "log10": _elementwise(lambda a: apply("log", a) * (1 / math.log(10))),
    "hypot": _elementwise(lambda a, b: apply("sqrt", a * a + b * b)),
    "sign": _elementwise(_sign), "sgn": _elementwise(_sign), "sigmoid": _elementwise(_sigmoid),
    "relu": _elementwise(lambda a: where(apply("gt", a, 0.0), a, 0.0)),
    "leaky_relu": lambda x, slope=0.01: _elementwise(lambda a: where(apply("gt", a, 0.0), a, a * slope))(x),
    "elu": lambda x, a=1.0: _elementwise(lambda v: where(apply("gt", v, 0.0), v, apply("expm1", v) * a))(x),
    "silu": _elementwise(lambda a: a * _sigmoid(a)),
    "softplus": lambda x, *settings: _elementwise(lambda a: _softplus(a, *settings))(x),
    "gelu": lambda x, approximate="none": _elementwise(lambda a: _gelu(a, approximate))(x),
    "clamp": _clamp, "clamp_min": lambda x, low: _clamp(x, low), "clamp_max": lambda x, high: _clamp(x, None, high),
    "lerp": _elementwise(lambda a, b, w: a + w * (b - a)), "addcmul": lambda x, a, b, value=1: _elementwise(
        lambda x, a, b: x + a * b * float(value))(x, a, b),
    "addcdiv": lambda x, a, b, value=1: _elementwise(lambda x, a, b: x + a / b * float(value))(x, a, b),
    "where": lambda c, x, y: mapped(lambda c, a, b: where(c, real(a), real(b)), c, x, y),
    "masked_fill": lambda x, c, y: mapped(lambda a, c, b: where(c, real(b), real(a)), x, c, y),
    "logical_and": _logic("and"), "logical_or": _logic("or"), "logical_not": _logic("not"),
    "bitwise_and": _logic("and"), "bitwise_or": _logic("or"), "bitwise_not": _logic("not"),
    "sum": _sum, "mean": _mean, "amax": _extreme("max"), "amin": _extreme("min"), "linalg_vector_norm": _norm,
    "prod": lambda x, dim=None, keepdim=False, dtype=None: reduced(lambda a, b: a * b, x, dim, keepdim),
    "cumsum": _cumsum, "_softmax": _softmax, "_log_softmax": _log_softmax,
    "mm": product, "bmm": product, "mv": product, "dot": product, "matmul": product,
    "addmm": lambda c, a, b, beta=1, alpha=1: _scaled("add")(_op("mul")(c, float(beta)), product(a, b), alpha),
    "baddbmm": lambda c, a, b, beta=1, alpha=1: _scaled("add")(_op("mul")(c, float(beta)), product(a, b), alpha),
    "addmv": lambda c, a, b, beta=1, alpha=1: _scaled("add")(_op("mul")(c, float(beta)), product(a, b), alpha),
    "stack": lambda xs, dim=0: np.stack([_elementwise(lambda v: v)(x) for x in xs], dim),
    "cat": lambda xs, dim=0: np.concatenate([_elementwise(lambda v: v)(x) for x in xs], dim),
    "unbind": lambda x, dim=0: [_select(x, dim, i) for i in range(x.shape[dim])],
    "select": _select, "slice": _slice, "split": _split, "split_with_sizes": _split,
    "index": _index, "index_select": lambda x, dim, i: np.take(x, integers(i), axis=dim),
    "roll": lambda x, shifts, dims=(): np.roll(x, tuple(shifts), tuple(dims)) if dims else np.roll(x, shifts[0]),
    "flip": lambda x, dims: np.flip(x, tuple(dims)),
    "t": lambda x: x.T, "transpose": lambda x, a, b: np.swapaxes(x, a, b), "permute": np.transpose,
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: np.diagonal(x, offset, dim1, dim2),
    "view": lambda x, size: x.reshape(size), "reshape": lambda x, size: x.reshape(size),
    "_unsafe_view": lambda x, size: x.reshape(size),
    "expand": _expand, "unsqueeze": lambda x, dim: np.expand_dims(x, dim), "squeeze": _squeeze,
    "repeat": lambda x, times: np.tile(x, times), "alias": lambda x: x, "detach": lambda x: x,
    "lift_fresh_copy": lambda x: x.copy(), "lift_fresh": lambda x: x, "clone": lambda x, **_: x.copy(),
    "_to_copy": _to, "copy_": _copy_, "copy": lambda x, source, *_: np.broadcast_to(mapped(real, source), x.shape),
    "fill_": lambda x, value: _copy_(x, value), "zero_": lambda x: _copy_(x, 0.0),
    "zeros": _new(0.0), "ones": _new(1.0), "empty": _new(math.nan),
    "new_zeros": _new_like_self(0.0), "new_ones": _new_like_self(1.0), "new_empty": _new_like_self(math.nan),
    "full": lambda size, value, **_: constant(np.full(size, float(value))),
    "new_full": lambda x, size, value, **_: constant(np.full(size, float(value))),
    "scalar_tensor": lambda value, **_: constant(float(value)),
    "zeros_like": lambda x, **_: _filled(x, 0.0), "ones_like": lambda x, **_: _filled(x, 1.0),
    "empty_like": lambda x, **_: _filled(x, math.nan), "full_like": lambda x, value, **_: _filled(x, value),
}  # fmt: skip

_divided: dict[str | None, Callable[[Scalar, Scalar], Scalar]] = {
    None: lambda a, b: a / b,
    "floor": lambda a, b: apply("floor", a / b),
}
