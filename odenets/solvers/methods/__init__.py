"""One file per method; adding a file means adding its line here.

`TABLEAUS` holds the explicit Runge-Kutta methods by name, `IMPLICIT_TABLEAUS` the implicit ones; `ONE_STEP` is
everything that the fixed and adaptive integrators take.
"""

import re

from ..errors import InputError
from ..implicit.runge_kutta import ImplicitRungeKutta
from ..one_step import Method
from ..tableau import ButcherTableau
from .adaptive_heun import ADAPTIVE_HEUN
from .alf import AsynchronousLeapfrog
from .bosh3 import BOSH3
from .coupled import Coupled
from .dopri5 import DOPRI5
from .dopri8 import DOPRI8
from .etd import ETD1, ETDRK2, ETDRK4, HOCHOST4
from .euler import EULER
from .fehlberg2 import FEHLBERG2
from .gauss import GL4, GL6, IMPLICIT_MIDPOINT
from .heun2 import HEUN2
from .heun3 import HEUN3
from .implicit_euler import IMPLICIT_EULER
from .kencarp import KENCARP3, KENCARP4, KENCARP5
from .kvaerno3 import KVAERNO3
from .kvaerno4 import KVAERNO4
from .kvaerno5 import KVAERNO5
from .midpoint import MIDPOINT
from .radau import ERROR_WEIGHTS, GAMMA0, RADAU_IIA3, RADAU_IIA5
from .ralston import RALSTON
from .reversible_heun import ReversibleHeun
from .rk4 import RK4, RK4_38
from .rodas5p import RODAS5P
from .sdirk2 import SDIRK2
from .symplectic import LEAPFROG, SYMPLECTIC_EULER, SYMPLECTIC_EULER_DRIFT, YOSHIDA4, YOSHIDA6
from .theta import theta
from .trapezoid import TRAPEZOID
from .trbdf2 import TRBDF2
from .tsit5 import TSIT5

TABLEAUS: dict[str, ButcherTableau] = {
    tableau.name: tableau
    for tableau in (
        EULER,
        MIDPOINT,
        HEUN2,
        RALSTON,
        HEUN3,
        RK4,
        RK4_38,
        ADAPTIVE_HEUN,
        FEHLBERG2,
        BOSH3,
        TSIT5,
        DOPRI5,
        DOPRI8,
    )
}

IMPLICIT_METHODS: dict[str, ImplicitRungeKutta] = {
    method.name: method
    for method in (
        *map(ImplicitRungeKutta, (IMPLICIT_EULER, IMPLICIT_MIDPOINT, TRAPEZOID, SDIRK2, TRBDF2, GL4, GL6, RADAU_IIA3)),
        ImplicitRungeKutta(RADAU_IIA5, error_weights=ERROR_WEIGHTS, error_filter=GAMMA0, error_order=4),
        *map(ImplicitRungeKutta, (KVAERNO3, KVAERNO4, KVAERNO5)),
    )
}
IMPLICIT_TABLEAUS: dict[str, ButcherTableau] = {name: method.tableau for name, method in IMPLICIT_METHODS.items()}

EXPONENTIAL = (ETD1, ETDRK2, ETDRK4, HOCHOST4)
SYMPLECTIC = (SYMPLECTIC_EULER, SYMPLECTIC_EULER_DRIFT, LEAPFROG, YOSHIDA4, YOSHIDA6)
ONE_STEP: dict[str, Method] = {
    **TABLEAUS,
    **IMPLICIT_METHODS,
    RODAS5P.name: RODAS5P,
    **{method.name: method for method in (KENCARP3, KENCARP4, KENCARP5)},
    ReversibleHeun.name: ReversibleHeun(),
    AsynchronousLeapfrog.name: AsynchronousLeapfrog(),
    **{method.name: method for method in (*EXPONENTIAL, *SYMPLECTIC)},
}


def Reversible(base: str = "rk4", coupling: float = 0.999, wide: bool = False) -> Coupled:
    """The reversible form of an explicit method, as in `FixedStep(Reversible("rk4"), steps=100)`; see `Coupled`."""
    if base not in TABLEAUS:
        known = ", ".join(TABLEAUS)
        raise InputError(f"Reversible needs one of the explicit Runge-Kutta methods {known}, got {base!r}.")
    return Coupled(TABLEAUS[base], coupling, wide)


_THETA = re.compile(r"theta\(([0-9.eE+-]+)\)")


def one_step_method(name: str) -> Method | None:
    """A method by its name, "theta(0.7)" included; None if there is none. Raises InputError for a theta out of range."""
    found = _THETA.fullmatch(name) if name not in ONE_STEP else None
    if found is None:
        return ONE_STEP.get(name)
    try:
        value = float(found[1])
    except ValueError:
        raise InputError(f"theta must be a number, got {name!r}.") from None
    return ImplicitRungeKutta(theta(value))
