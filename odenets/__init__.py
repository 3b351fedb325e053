"""odenets: a network block is one step of a numerical scheme on a flow, and depth is integration time.

`from odenets import odeint` replaces torchdiffeq's; `odenets.solvers.solve` is the fuller interface.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .solvers import odeint, odeint_adjoint, odeint_dense, odeint_event, solve

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event", "solve"]


def __getattr__(name: str) -> Any:
    """Import the solvers on first use: torch takes a second, and `odenets list` does not need it."""
    if name in __all__:
        from . import solvers

        return getattr(solvers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
