"""Numerical integration of vector fields `f(t, x)`: methods, step size control, dense output, gradients.

Read in this order: `tableau` and `methods/` (a method is data), `one_step` (what every method offers the loops), `step`
(an explicit step, pure), `controller`, `integrator` with `adaptive` and `fixed` (the loops), `masked` and `per_sample`
(a clock per sample), `solver` (settings as data), `solve`; then the families: `implicit/`, `structured/` (exponential,
splitting, reversible), `events/`, `gradients/`, `steady_state`, `ensemble/`, and `dropin/` (torchdiffeq's interface).
"""

if __name__ != "odenets.solvers":
    raise ImportError(f"import odenets.solvers, not {__name__}: the top-level folder 'solvers' is a link.")

from .controller import PIDController
from .dropin import odeint, odeint_adjoint, odeint_dense, odeint_event
from .errors import InputError, SolveError, Status
from .events.event import Event, EventRecord
from .gradients import GRADIENTS, Gradient, resolve_gradient
from .implicit.fixed_point import FixedPoint
from .implicit.mass_matrix import MassMatrix, consistent_start
from .implicit.newton import Newton, NewtonKrylov
from .implicit.phantom import Phantom
from .implicit.split_field import SplitField
from .methods import IMPLICIT_TABLEAUS, TABLEAUS, Reversible
from .solution import Solution, Stats
from .solve import solve
from .solver import METHODS, Adams, Adaptive, FixedStep, Scipy, Solver, Torchdiffeq, resolve_solver
from .steady_state import SteadyState, steady_state
from .structured.semilinear_field import SemilinearField
from .structured.separable_field import SeparableField, SeparableHamiltonian
from .tableau import ButcherTableau

__all__ = [
    "GRADIENTS",
    "IMPLICIT_TABLEAUS",
    "METHODS",
    "TABLEAUS",
    "Adams",
    "Adaptive",
    "ButcherTableau",
    "Event",
    "EventRecord",
    "FixedPoint",
    "FixedStep",
    "Gradient",
    "InputError",
    "MassMatrix",
    "Newton",
    "NewtonKrylov",
    "PIDController",
    "Phantom",
    "Reversible",
    "Scipy",
    "SemilinearField",
    "SeparableField",
    "SeparableHamiltonian",
    "Solution",
    "SolveError",
    "Solver",
    "SplitField",
    "Stats",
    "Status",
    "SteadyState",
    "Torchdiffeq",
    "consistent_start",
    "odeint",
    "odeint_adjoint",
    "odeint_dense",
    "odeint_event",
    "resolve_gradient",
    "resolve_solver",
    "solve",
    "steady_state",
]
