"""What a trained flow does: spectra, gains, stability, order, and whether it is an ODE.

Read `trace` (a stack seen step by step) and `jacobian` (a derivative as an operator) first. Each question is a file:

    spectrum     singular values and eigenvalues of Jacobians          (krylov: how, for large states)
    gains        signal and gradient over depth; products of stream mixings
    contraction  logarithmic norm, one-sided Lipschitz constant
    lyapunov     Lyapunov exponents of a field, finite-time exponents of a stack
    gates        gates and step sizes of delta blocks
    stability    stability regions and the layers' eigenvalues in them
    step_study   is it an ODE: other steps, schemes and solvers than it was trained with
    weights      smoothness of the weights over depth
    order        measured order of convergence
    reversible   reconstruction error of reversible steps
    multistep    zero-stability
    streams      do the streams collapse onto one
    diagnose     all that applies to a model

Every result is a dataclass with `to_dict()`.
"""

from odenets.diagnostics.jacobian import Jacobian
from odenets.diagnostics.spectrum import (
    Eigenvalues,
    LayerSpectra,
    SingularValues,
    eigenvalues,
    layer_spectra,
    singular_values,
)
from odenets.diagnostics.stability import LayerEigenvalues, StabilityRegion, layer_eigenvalues, stability_region

__all__ = [
    "Eigenvalues",
    "Jacobian",
    "LayerEigenvalues",
    "LayerSpectra",
    "SingularValues",
    "StabilityRegion",
    "eigenvalues",
    "layer_eigenvalues",
    "layer_spectra",
    "singular_values",
    "stability_region",
]
