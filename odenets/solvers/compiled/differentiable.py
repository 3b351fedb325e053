"""What compiled solves that are differentiated have in common: what they are differentiated with respect to, and one node
of autograd's graph for the whole solve.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..constants import constant
from ..errors import InputError
from ..gradients.base import Gradient, SolveProblem
from ..gradients.parameters import distinct
from ..once import differentiable_once
from ..tableau import ButcherTableau
from . import trace


def differentiates(problem: SolveProblem) -> bool:
    """Whether the solve is to be differentiated. A module and arguments show what they depend on, a function may close
    over anything: what it reads is asked of its capture.

    Raises:
        CannotCapture: if that fails.
    """
    if not torch.is_grad_enabled():
        return False
    func, args = problem.flat.func, problem.flat.args
    owner = getattr(func, "__self__", func)
    visible = itertools.chain(
        (problem.y, problem.ts),
        pytree.tree_leaves(args) if args else (),
        owner.parameters() if isinstance(owner, nn.Module) else (),
    )
    if any(isinstance(x, Tensor) and x.requires_grad for x in visible):
        return True
    y, t = start_of(problem)
    return bool(trace.reads(problem.flat, t, y))


def parameters_of(
    problem: SolveProblem, gradient: Gradient, read: Sequence[Tensor] | None = None
) -> tuple[Tensor, ...]:
    """What to differentiate with respect to besides y, each tensor once: the given params, else what the field reads, and
    the parameters of a module that it does not. `read` is what the field reads, where a program has told already.

    Raises:
        CannotCapture: if the field cannot be captured.
    """
    if problem.params is not None and gradient.name != "autograd":
        return distinct(problem.params)
    if read is None:
        y, t = start_of(problem)
        read = trace.reads(problem.flat, t, y)
    if gradient.name == "autograd":
        return distinct(read)
    try:
        return distinct([*read, *problem.parameters(gradient.name)])
    except InputError:  # a plain function, of which only its capture shows what it depends on
        return distinct(read)


class Differentiable(torch.autograd.Function):
    """`run.ys`, with `run.backward(grad_ys) -> (gradient of y, gradients of params by their ids)` as its derivative."""

    @staticmethod
    def forward(ctx: Any, run: Any, y: Tensor, *params: Tensor) -> Tensor:
        ctx.run, ctx.params = run, [id(p) for p in params]
        device = y.device.type
        ctx.precision = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(y, *params)  # for autograd to notice changes in place
        ys, run.ys = run.ys, None  # it will hold on to this node
        return ys  # type: ignore[no-any-return]

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_ys: Tensor) -> Any:
        params = ctx.saved_tensors[1:]
        device, dtype, enabled = ctx.precision
        if enabled or torch.is_autocast_enabled(device):
            with torch.autocast(device, dtype=dtype, enabled=enabled):
                grad_y, found = ctx.run.backward(grad_ys)
        else:
            grad_y, found = ctx.run.backward(grad_ys)
        return None, grad_y, *(
            found[key] if key in found else torch.zeros_like(p) for key, p in zip(ctx.params, params)
        )  # fmt: skip


def start_of(problem: SolveProblem) -> tuple[Tensor, Tensor]:
    """The state and the time that the solve starts with, as the field gets them, as tensors that nobody else holds."""
    y = problem.y.detach()
    t = problem.ts.detach()[..., 0].to(torch.empty((), dtype=y.dtype).abs().dtype)
    return y, t.expand(len(y)).clone() if problem.per_sample else t.clone()


def nodes_of(tableau: ButcherTableau, like: Tensor) -> Tensor:
    """The nodes c [s] in the dtype of times."""
    return constant("nodes", tableau.c, like.dtype, like.device)


def of_any_length(x: Tensor) -> Tensor:
    """With a first dimension whose size is not compiled in."""
    x = x.detach()
    torch._dynamo.maybe_mark_dynamic(x, 0)
    return x


def room_for(rows: int, like: Tensor) -> Tensor:
    """A tensor with so many rows and nothing in them: how programs are told a number that is not compiled in."""
    return of_any_length(_room(rows, like.device, torch.is_inference_mode_enabled()))


@functools.lru_cache(maxsize=64)
def _room(rows: int, device: torch.device, inference: bool) -> Tensor:
    return torch.empty(rows, 0, device=device)
