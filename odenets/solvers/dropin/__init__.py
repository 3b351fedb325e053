"""torchdiffeq's interface over our core: change `from torchdiffeq import odeint` to `from odenets import odeint`.

Names, signatures, options, callbacks, warnings and error types are torchdiffeq's; every error is at the same time
our own type (`odenets.solvers.errors`).
"""

from .dense import odeint_dense
from .event import odeint_event
from .odeint import odeint
from .odeint_adjoint import odeint_adjoint

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
