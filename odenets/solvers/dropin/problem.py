"""Reads torchdiffeq's arguments: method and options into a solver, callbacks off the function, checks of y0 and t."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..controller import PIDController
from ..errors import InputError, InputTypeError
from ..field import FlatField
from ..gradients.base import smallest
from ..implicit.newton import Newton
from ..integrator import Callbacks
from ..methods import IMPLICIT_METHODS
from ..norms import Norm, state_norm
from ..solver import ADAPTIVE_METHODS, Adams, Adaptive, FixedStep, Scipy, Solver
from ..state import StateLayout

# torchdiffeq's names; its "rk4" is the 3/8 rule, its implicit methods have fixed steps
FIXED = {"euler": "euler", "midpoint": "midpoint", "heun2": "heun2", "heun3": "heun3", "ralston": "ralston",
         "rk4": "rk4_38", "rk4_38": "rk4_38", "rk4_classic": "rk4"}  # fmt: skip
IMPLICIT = tuple(name for name, method in IMPLICIT_METHODS.items() if not method.adaptive or name == "radauIIA5")
ADAMS = {"explicit_adams": False, "implicit_adams": True, "fixed_adams": True}
ADAPTIVE = tuple(name for name in ADAPTIVE_METHODS if name not in IMPLICIT)
DROPIN_METHODS = (*ADAPTIVE, *FIXED, *IMPLICIT, *ADAMS, "scipy_solver")

_STEP_OPTIONS = {"step_size", "grid_constructor", "interp", "perturb", "norm"}
_ADAPTIVE_OPTIONS = {"first_step", "min_step", "max_step", "step_t", "jump_t", "safety", "ifactor", "dfactor",
                     "max_num_steps", "norm", "dtype"}  # fmt: skip
_CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


@dataclass
class Problem:
    """An initial value problem in torchdiffeq's terms, checked and laid out.

    Attributes:
        func: the user's function; flat: the same on flat states.
        y0: flat state; t: times [T] as given, on y0's device; times: the same in the solver's precision.
        solver, norm: how to integrate; the norm of flat states.
        direction: +1.0 or -1.0.
        callbacks: the function's callbacks.
    """

    func: Callable[..., Any]
    flat: FlatField
    y0: Tensor
    t: Tensor
    times: Tensor
    solver: Solver
    norm: Norm
    direction: float
    callbacks: Callbacks

    @property
    def layout(self) -> StateLayout:
        return self.flat.layout

    @classmethod
    def read(
        cls,
        func: Callable[..., Any],
        y0: Any,
        t: Tensor,
        rtol: Any,
        atol: Any,
        method: str | None,
        options: dict[str, Any] | None,
    ) -> Problem:
        layout = StateLayout.of(y0)
        t = check_t(t)
        flat_y0 = layout.flatten(y0)
        if t.device != flat_y0.device:
            warnings.warn("t is not on the same device as y0. Coercing to y0.device.", stacklevel=4)
            t = t.to(flat_y0.device)
        method = "dopri5" if method is None else method
        solver, norm = read_solver(method, rtol, atol, dict(options or {}))
        direction = -1.0 if len(t) > 1 and bool(t[0] > t[1]) else 1.0
        callbacks = callbacks_on(func, layout)
        unsupported = _names(func, "") - _supported_callbacks(method)
        if unsupported:
            warnings.warn(f"Solver '{method}' does not support callbacks {unsupported}", stacklevel=4)
        return cls(
            func,
            FlatField(func, layout),
            flat_y0,
            t,
            t.to(torch.promote_types(t.dtype, torch.float64)),
            solver,
            state_norm(layout, norm),
            direction,
            callbacks,
        )

    def start(self, t0: Tensor, y0: Tensor):
        return self.solver.start(self.flat, t0, y0, self.direction, self.callbacks)


def check_t(t: Any) -> Tensor:
    """t itself, if it is a floating-point, one-dimensional, strictly monotone tensor; else an error."""
    if not isinstance(t, Tensor):
        raise InputError(f"t must be a torch.Tensor, got {type(t).__name__}.")
    if not t.is_floating_point():
        raise InputTypeError(f"`t` must be a floating point Tensor but is a {t.type()}")
    if t.dim() != 1:
        raise InputError(f"t must be one dimensional, got shape {tuple(t.shape)}.")
    if len(t) == 0:
        raise InputError("t must hold at least the initial time, got an empty tensor.")
    difference = t.detach().diff()
    if not bool((difference > 0).all() | (difference < 0).all()):
        raise InputError("t must be strictly increasing or decreasing")
    return t


def read_solver(method: str, rtol: Any, atol: Any, options: dict[str, Any]) -> tuple[Solver, Norm | None]:
    """A solver from torchdiffeq's method and options, and the user's norm; warns of options the method lacks."""
    if method not in DROPIN_METHODS:
        names = '{"' + '", "'.join(DROPIN_METHODS) + '"}.'
        raise InputError(f'Invalid method "{method}". Must be one of {names}')
    if method in ADAPTIVE:
        _warn_unused(method, options, _ADAPTIVE_OPTIONS)
        return _adaptive(method, rtol, atol, options), options.get("norm")
    if method == "scipy_solver":
        _warn_unused(method, options, {"solver", "min_step", "max_step", "norm", "grid_points", "eps"})
        limits = {name: float(options[name]) for name in ("min_step", "max_step") if name in options}
        return Scipy(options.get("solver", "LSODA"), smallest(rtol), smallest(atol), **limits), None
    grid = {
        "step_size": options.get("step_size"),
        "grid_constructor": options.get("grid_constructor"),
        "interpolation": options.get("interp", "linear"),
        "perturb": options.get("perturb", False),
    }
    if method in ADAMS:
        _warn_unused(method, options, _STEP_OPTIONS | {"max_order", "max_iters", "implicit"})
        implicit = options.get("implicit", ADAMS[method])
        name = "implicit_adams" if implicit else "explicit_adams"
        order, iterations = options.get("max_order"), int(options.get("max_iters", 4))
        return Adams(name, **grid, max_order=order, max_iters=iterations, rtol=rtol, atol=atol), options.get("norm")
    if method in IMPLICIT:
        _warn_unused(method, options, _STEP_OPTIONS | {"max_iters"})
        nonlinear = Newton(max_iterations=int(options["max_iters"])) if "max_iters" in options else None
        return FixedStep(method, **grid, nonlinear=nonlinear), options.get("norm")
    _warn_unused(method, options, _STEP_OPTIONS)
    return FixedStep(FIXED[method], **grid), options.get("norm")


def _adaptive(method: str, rtol: Any, atol: Any, options: dict[str, Any]) -> Adaptive:
    def number(name: str, default: float) -> float:
        return float(options.get(name, default))

    return Adaptive(
        method,
        rtol,
        atol,
        controller=PIDController(
            0.0,
            1.0,
            0.0,
            shrink_accepted=False,
            safety=number("safety", 0.9),
            factor_min=number("dfactor", 0.2),
            factor_max=number("ifactor", 10.0),
        ),
        first_step=None if options.get("first_step") is None else number("first_step", 0.0),
        min_step=number("min_step", 0.0),
        max_step=number("max_step", float("inf")),
        max_steps=int(options.get("max_num_steps", 2**31 - 1)),
        step_t=options.get("step_t"),
        jump_t=options.get("jump_t"),
        norm=options.get("norm"),
        time_dtype=options.get("dtype", torch.float64),
    )


def _warn_unused(method: str, options: dict[str, Any], known: set[str]) -> None:
    unused = {name: value for name, value in options.items() if name not in known}
    if unused:
        warnings.warn(
            f"{method}: Unexpected arguments {unused}; it takes {', '.join(sorted(known))}.", UserWarning, stacklevel=6
        )


def _supported_callbacks(method: str) -> set[str]:
    if method in ADAPTIVE:
        return set(_CALLBACKS)
    return set() if method == "scipy_solver" else {"callback_step"}


def _names(func: Any, suffix: str) -> set[str]:
    return {name for name in _CALLBACKS if getattr(func, name + suffix, None) is not None}


def callbacks_on(func: Any, layout: StateLayout, suffix: str = "") -> Callbacks:
    """The callbacks found on `func`, given states in the user's form (for the adjoint the tuple of its parts)."""

    def wrap(name: str):
        callback = getattr(func, name + suffix, None)
        if callback is None or layout.spec is None:
            return callback
        return lambda t0, y0, dt: callback(t0, layout.unflatten(y0), dt)

    return Callbacks(*(wrap(name) for name in _CALLBACKS))
