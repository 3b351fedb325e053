"""One file per method; adding a file means adding its line here.

`TABLEAUS` holds the explicit Runge-Kutta methods by name, `ONE_STEP` these and every other one-step method.
"""

from ..errors import InputError
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
from .heun2 import HEUN2
from .heun3 import HEUN3
from .midpoint import MIDPOINT
from .ralston import RALSTON
from .reversible_heun import ReversibleHeun
from .rk4 import RK4, RK4_38
from .rodas5p import RODAS5P
from .symplectic import LEAPFROG, SYMPLECTIC_EULER, SYMPLECTIC_EULER_DRIFT, YOSHIDA4, YOSHIDA6
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

EXPONENTIAL = (ETD1, ETDRK2, ETDRK4, HOCHOST4)
SYMPLECTIC = (SYMPLECTIC_EULER, SYMPLECTIC_EULER_DRIFT, LEAPFROG, YOSHIDA4, YOSHIDA6)
ONE_STEP: dict[str, Method] = {
    **TABLEAUS,
    RODAS5P.name: RODAS5P,
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
