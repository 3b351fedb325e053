"""Per-step operators: reference, Triton, autograd op. Nothing here yet: the operators arrive with the flows."""

if __name__ != "odenets.kernels":
    raise ImportError(f"import odenets.kernels, not {__name__}: the top-level folder 'kernels' is a link into the package.")
