"""How to integrate, as data: a method with its tolerances or its grid. These are what a config names.

The type says what the method can do, so that a wrong combination fails before the solve: `Adaptive` needs a method
with an error estimate, `FixedStep` takes any one-step method, `Adams` the multistep ones, `Scipy` and `Torchdiffeq`
hand the problem to those libraries.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .adams import DEFAULT_ORDER, AdamsIntegrator
from .adaptive import AdaptiveIntegrator
from .controller import PIDController
from .errors import InputError, near_names
from .external import ScipyIntegrator, TorchdiffeqIntegrator
from .field import FlatField
from .fixed import FixedIntegrator
from .implicit.bdf import BDFIntegrator
from .implicit.nonlinear import Nonlinear
from .implicit.switching import SwitchingIntegrator
from .integrator import Callbacks, Integrator
from .masked import Stepper
from .methods import ONE_STEP, one_step_method
from .methods.auto_tsit5_rodas5p import AUTO_TSIT5_RODAS5P
from .methods.rk4 import RK4_38
from .norms import Norm, rms_norm_per_sample, state_norm
from .one_step import Accuracy, Method
from .state import StateLayout

ADAMS_METHODS = tuple(DEFAULT_ORDER)
# methods with an adaptive integrator of their own
WALKERS: dict[str, Callable[..., AdaptiveIntegrator]] = {
    "bdf": BDFIntegrator,
    AUTO_TSIT5_RODAS5P.name: functools.partial(SwitchingIntegrator, AUTO_TSIT5_RODAS5P),
}
ADAPTIVE_METHODS = (*(name for name, method in ONE_STEP.items() if method.adaptive), *WALKERS)
METHODS = (*ONE_STEP, *WALKERS, *ADAMS_METHODS, "scipy_solver", "torchdiffeq")
Tolerance = float | Tensor | tuple[float, ...]


@dataclass(frozen=True)
class Adaptive:
    """Step size control to a tolerance.

    Args:
        method: adaptive_heun, fehlberg2, bosh3, tsit5, dopri5, dopri8; for stiff problems rodas5p, kvaerno3, kvaerno4,
            kvaerno5, radauIIA5 and bdf (NDFs of order 1 to 5); auto_tsit5_rodas5p finds out on the way; kencarp3,
            kencarp4 and kencarp5 are for a `SplitField`.
        rtol, atol: the local error of a step is kept below atol + rtol max(|y0|, |y1|) in the norm. Numbers, tensors
            that broadcast against the state, or for a tree of tensors one number per leaf.
        controller: see `PIDController`.
        first_step: first size; None chooses it.
        min_step, max_step: bounds of the size; a step of at most min_step is accepted whatever its error.
        max_steps: trial steps at most.
        step_t, jump_t: times to step on; at those of jump_t the field is discontinuous and is evaluated on both sides.
        norm: of the scaled error, given the user's state (tensor or tree); None is the root mean square, for a tree
            the largest of its leaves'.
        per_sample: every sample (first dimension) has its own step size and its own norm.
        time_dtype: precision in which times are kept (float64 in any case with per_sample).
        nonlinear: how an implicit method solves its equations; None is `Newton()`.
    """

    method: Any = "dopri5"
    rtol: Any = 1e-6
    atol: Any = 1e-8
    controller: PIDController = field(default_factory=PIDController)
    first_step: float | None = None
    min_step: float = 0.0
    max_step: float = math.inf
    max_steps: int = 1_000_000
    step_t: Any = None
    jump_t: Any = None
    norm: Norm | None = None
    per_sample: bool = False
    time_dtype: torch.dtype = torch.float64
    nonlinear: Nonlinear | None = None

    def __post_init__(self) -> None:
        _check_method(self.method, ADAPTIVE_METHODS, "Adaptive")
        _check_nonlinear(self)
        for name in ("rtol", "atol"):
            _check_tolerance(name, getattr(self, name))
        if self.per_sample and (self.norm is not None or self.step_t is not None or self.jump_t is not None):
            raise InputError("per_sample steps have their own norm and clock: leave out norm, step_t and jump_t.")
        if self.per_sample and self.method in WALKERS:
            raise InputError(f"{self.method} has one step size for the batch: leave out per_sample, or use rodas5p.")
        if self.min_step < 0 or self.max_step <= 0 or self.min_step > self.max_step:
            raise InputError(f"need 0 <= min_step <= max_step, got {self.min_step} and {self.max_step}.")
        if self.first_step is not None and not self.first_step > 0:
            raise InputError(f"first_step must be positive, got {self.first_step}.")

    def start(
        self, flat: FlatField, t0: Tensor, y0: Tensor, direction: float, callbacks: Callbacks | None = None
    ) -> Integrator:
        dtype = torch.promote_types(self.time_dtype, torch.empty((), dtype=y0.dtype).abs().dtype)
        rtol, atol = (tolerance(name, getattr(self, name), flat.layout, y0) for name in ("rtol", "atol"))
        walk = WALKERS.get(self.method) or functools.partial(AdaptiveIntegrator, method=with_nonlinear(self))
        return walk(
            field=flat,
            t0=t0.to(dtype),
            y0=y0,
            direction=direction,
            rtol=rtol,
            atol=atol,
            norm=state_norm(flat.layout, self.norm),
            controller=self.controller,
            first_step=self.first_step,
            min_step=self.min_step,
            max_step=self.max_step,
            max_steps=self.max_steps,
            step_t=_times(self.step_t, dtype, y0.device),
            jump_t=_times(self.jump_t, dtype, y0.device),
            callbacks=callbacks,
        )

    def stepper(self, flat: FlatField, ts: Tensor, y0: Tensor, direction: float) -> Stepper:
        """The constants of a per-sample solve over ts [..., T] (already in time precision)."""
        method = with_nonlinear(self)
        rtol, atol = (tolerance(name, getattr(self, name), flat.layout, y0) for name in ("rtol", "atol"))
        nodes = torch.tensor(method.c, dtype=ts.dtype, device=ts.device)
        return Stepper(
            flat, method, nodes, ts[..., -1], direction, rtol, atol, rms_norm_per_sample, self.controller,
            self.min_step, self.max_step, self.max_steps,
        )  # fmt: skip


@dataclass(frozen=True)
class FixedStep:
    """A one-step method on a fixed grid.

    Args:
        method: any of the one-step methods by name, explicit or implicit ("theta(0.7)" is the theta method with that
            value), or a `Method` such as `Reversible("rk4", coupling=0.99)`; the error estimate of an adaptive one is
            not formed.
        steps: equal steps over the whole interval, or
        step_size: their size, the last step being what is left, or
        grid_constructor: (field, y0, ts) -> grid. Without any of the three the output times are the grid.
        interpolation: between grid points: "dense" (the method's own), "cubic" (Hermite) or "linear".
        perturb: evaluate the field just inside each step, for fields that jump at grid points.
        nonlinear: how an implicit method solves its equations, which it does to about the state's precision; None is
            `Newton()`.
    """

    method: Any = "rk4"
    steps: int | None = None
    step_size: Any = None
    grid_constructor: Callable[..., Tensor] | None = None
    interpolation: str = "dense"
    perturb: bool = False
    nonlinear: Nonlinear | None = None

    def __post_init__(self) -> None:
        _check_method(self.method, (*ONE_STEP, "theta(0.5)"), "FixedStep")
        _check_nonlinear(self)
        _check_grid(self)

    def start(
        self, flat: FlatField, t0: Tensor, y0: Tensor, direction: float, callbacks: Callbacks | None = None
    ) -> Integrator:
        method = with_nonlinear(self)
        accuracy = _full_accuracy(y0) if hasattr(method, "nonlinear") else None
        return FixedIntegrator(
            flat, method, t0, y0, direction, callbacks=callbacks, accuracy=accuracy, **_grid_arguments(self)
        )


@dataclass(frozen=True)
class Adams:
    """A multistep method on a fixed grid; see `AdamsIntegrator`.

    Args:
        method: "explicit_adams" (Adams-Bashforth) or "implicit_adams" (Adams-Bashforth-Moulton).
        max_order: order reached once there is enough history, 1 to 12; None is 5 for the explicit method, whose higher
            orders are hardly stable, and 12 for the implicit one.
        max_iters: corrector iterations at most (implicit only), until the change is below rtol, atol.

    The other arguments are those of `FixedStep`.
    """

    method: str = "explicit_adams"
    steps: int | None = None
    step_size: Any = None
    grid_constructor: Callable[..., Tensor] | None = None
    interpolation: str = "dense"
    perturb: bool = False
    max_order: int | None = None
    max_iters: int = 4
    rtol: Any = 1e-3
    atol: Any = 1e-4

    def __post_init__(self) -> None:
        _check_name(self.method, ADAMS_METHODS, "Adams")
        _check_grid(self)

    def start(
        self, flat: FlatField, t0: Tensor, y0: Tensor, direction: float, callbacks: Callbacks | None = None
    ) -> Integrator:
        rtol, atol = (tolerance(name, getattr(self, name), flat.layout, y0) for name in ("rtol", "atol"))
        max_order = DEFAULT_ORDER[self.method] if self.max_order is None else self.max_order
        return AdamsIntegrator(
            flat, RK4_38, t0, y0, direction, callbacks=callbacks, max_order=max_order, max_iters=self.max_iters,
            implicit=self.method == "implicit_adams", rtol=rtol, atol=atol, **_grid_arguments(self),
        )  # fmt: skip


@dataclass(frozen=True)
class Scipy:
    """`scipy.integrate.solve_ivp` on the CPU in float64: a reference, not differentiable by autograd.

    Args:
        method: RK45, RK23, DOP853, Radau, BDF or LSODA.
        rtol, atol, min_step, max_step: as there.
    """

    method: str = "LSODA"
    rtol: float = 1e-6
    atol: float = 1e-8
    min_step: float = 0.0
    max_step: float = math.inf

    def __post_init__(self) -> None:
        _check_name(self.method, ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA"), "Scipy")

    def start(
        self, flat: FlatField, t0: Tensor, y0: Tensor, direction: float, callbacks: Callbacks | None = None
    ) -> Integrator:
        return ScipyIntegrator(flat, t0, y0, direction, **dataclasses.asdict(self))


@dataclass(frozen=True)
class Torchdiffeq:
    """The library torchdiffeq as a backend, to compare it with ours inside the same model.

    Args:
        method: any method of the installed torchdiffeq.
        rtol, atol: tolerances.
        options: its `options`.
    """

    method: str = "dopri5"
    rtol: float = 1e-6
    atol: float = 1e-8
    options: dict[str, Any] | None = None

    def start(
        self, flat: FlatField, t0: Tensor, y0: Tensor, direction: float, callbacks: Callbacks | None = None
    ) -> Integrator:
        options = None if self.options is None else dict(self.options)
        return TorchdiffeqIntegrator(
            flat, t0, y0, direction, method=self.method, rtol=self.rtol, atol=self.atol, options=options
        )


Solver = Adaptive | FixedStep | Adams | Scipy | Torchdiffeq
_PLAIN = (bool, int, float, str, PIDController)  # settings that are told apart by their values


def resolve_solver(solver: Solver | Method | str, **overrides: Any) -> Solver:
    """A solver from its name, with some of its settings replaced.

    Raises:
        InputError: for an unknown name or setting, with the near matches.
    """
    if isinstance(solver, str) and all(type(value) in _PLAIN for value in overrides.values()):
        return _named(solver, tuple((name, type(value), value) for name, value in overrides.items()))
    return _resolved(solver, overrides)


@functools.lru_cache(maxsize=256)
def _named(name: str, overrides: tuple[tuple[str, type, Any], ...]) -> Solver:
    """A solver that is asked for again and again, checked once; the type keeps 1, 1.0 and True apart."""
    return _resolved(name, {key: value for key, _, value in overrides})


def _resolved(solver: Solver | Method | str, overrides: dict[str, Any]) -> Solver:
    if isinstance(solver, str):
        if one_step_method(solver) is None:
            _check_name(solver, METHODS, "solver")
        if solver in WALKERS or (solver in ADAPTIVE_METHODS and not {"steps", "step_size"} & set(overrides)):
            solver = Adaptive(solver)
        elif one_step_method(solver) is not None:
            solver = FixedStep(solver)
        elif solver in ADAMS_METHODS:
            solver = Adams(solver)
        else:
            solver = Scipy() if solver == "scipy_solver" else Torchdiffeq()
    elif not isinstance(solver, Solver) and hasattr(solver, "control_order"):  # a method with settings of its own
        adaptive = solver.adaptive and not {"steps", "step_size"} & set(overrides)
        solver = Adaptive(solver) if adaptive else FixedStep(solver)
    if not isinstance(solver, Solver):
        raise InputError(f"solver must be a name or one of odenets.solvers' solvers, got {type(solver).__name__}.")
    names = [f.name for f in dataclasses.fields(solver)]
    for name in overrides:
        if name not in names:
            kind = f"{type(solver).__name__}({solver.method!r})"
            raise InputError(f"{kind} has no setting {name!r}{near_names(name, names)}")
    return dataclasses.replace(solver, **overrides) if overrides else solver


def tolerance(name: str, value: Tolerance, layout: StateLayout, y0: Tensor) -> float | Tensor:
    """A tolerance as a float, or as a tensor that broadcasts against the flat state."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise InputError(f"{name} cannot require gradient")
        if layout.spec is None or value.dim() == 0:
            return value.to(y0.device)
    elif not isinstance(value, Iterable):
        return float(value)
    if layout.spec is None:
        return torch.as_tensor(value, device=y0.device)
    parts = tuple(value)
    if len(parts) != len(layout.shapes):
        raise InputError(
            f"If using tupled {name} it must have the same length as the tuple y0: "
            f"got {len(parts)} for {len(layout.shapes)}."
        )
    dtype = torch.empty((), dtype=y0.dtype).abs().dtype
    leaves = [torch.as_tensor(x, dtype=dtype, device=y0.device).expand(n) for x, n in zip(parts, layout.sizes)]
    return torch.cat(leaves)


def method_of(method: Method | str) -> Method:
    """A one-step method by its name."""
    found = one_step_method(method) if isinstance(method, str) else method
    assert found is not None
    return found


def _check_method(method: Any, known: tuple[str, ...], what: str) -> None:
    if isinstance(method, str) and what != "Adaptive" and one_step_method(method) is not None:
        return
    if not hasattr(method, "control_order"):
        _check_name(method, known, what)
    elif what == "Adaptive" and not method.adaptive:
        raise InputError(f"Adaptive needs a method that estimates its error, {method.name!r} does not: use FixedStep.")


def with_nonlinear(solver: Adaptive | FixedStep) -> Method:
    """The solver's method, with its setting of how implicit equations are solved."""
    method = method_of(solver.method)
    if solver.nonlinear is None:
        return method
    return dataclasses.replace(method, nonlinear=solver.nonlinear)  # type: ignore[type-var]


def _check_nonlinear(solver: Adaptive | FixedStep) -> None:
    if solver.nonlinear is not None and (
        solver.method in WALKERS or not hasattr(method_of(solver.method), "nonlinear")
    ):
        name = getattr(solver.method, "name", solver.method)
        raise InputError(f"{name} has no implicit equations to solve: leave out nonlinear=.")


def _full_accuracy(y0: Tensor) -> Accuracy:
    """What the equations of a fixed step are solved to: near the precision of the state, as nothing else is known."""
    epsilon = torch.finfo(y0.dtype).eps ** 0.8
    size = y0.detach().abs().amax() if y0.numel() else 0.0
    return Accuracy(epsilon, 1e-2 * epsilon * size + torch.finfo(y0.dtype).tiny, lambda x: x.abs().amax())


def _check_name(name: str, known: tuple[str, ...], what: str) -> None:
    if name not in known:
        raise InputError(f"Invalid method {name!r} for {what}{near_names(str(name), known)}")


def _check_tolerance(name: str, value: Any) -> None:
    if isinstance(value, (int, float)) and not value >= 0:
        raise InputError(f"{name} must not be negative, got {value}.")


def _check_grid(solver: FixedStep | Adams) -> None:
    given = [name for name in ("steps", "step_size", "grid_constructor") if getattr(solver, name) is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are mutually exclusive arguments.")
    if solver.steps is not None and solver.steps < 1:
        raise InputError(f"steps must be at least 1, got {solver.steps}.")
    if solver.step_size is not None and not float(solver.step_size) > 0:
        raise InputError(f"step_size must be positive, got {float(solver.step_size)}.")
    if solver.interpolation not in ("dense", "cubic", "linear"):
        raise InputError(f"Unknown interpolation method {solver.interpolation}: use dense, cubic or linear.")


def _grid_arguments(solver: FixedStep | Adams) -> dict[str, Any]:
    names = ("steps", "step_size", "grid_constructor", "interpolation", "perturb")
    return {name: getattr(solver, name) for name in names}


def _times(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    return None if values is None else torch.as_tensor(values, dtype=dtype, device=device).reshape(-1)
