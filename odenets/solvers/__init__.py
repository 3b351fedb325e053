"""Numerical integration of vector fields `f(t, x)`: methods, adaptive control, dense output, gradients."""

if __name__ != "odenets.solvers":
    raise ImportError(f"import odenets.solvers, not {__name__}: the top-level folder 'solvers' is a link.")
