"""The elementwise work of a Runge-Kutta step: stage sums, new state and the norm of the scaled error."""

from odenets.kernels.runge_kutta.op import finish, stage_sum

__all__ = ["finish", "stage_sum"]
