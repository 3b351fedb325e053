"""What a trained flow does: spectra, gains, stability, order, and whether it is an ODE.

Read `trace` (a stack seen step by step) and `jacobian` (a derivative as an operator) first. Each question is a file:

    spectrum     singular values and eigenvalues of Jacobians          (krylov: how, for large states)
    gains        signal and gradient over depth; products of stream mixings
    contraction  logarithmic norm, one-sided Lipschitz constant
    lyapunov     Lyapunov exponents of a field, finite-time exponents of a stack
    gates        gates and step sizes of delta blocks
    stability    stability regions and the layers' eigenvalues in them
    step_study   is it an ODE: other steps, schemes and solvers than it was trained with (restep: how)
    weights      smoothness of the weights over depth
    order        measured order of convergence
    reversible   reconstruction error of reversible steps
    multistep    zero-stability
    streams      do the streams collapse onto one
    diagnose     all that applies to a model (flow_input: the flow inside it; summary: the table)

Every result is a dataclass with `to_dict()`.
"""

from odenets.diagnostics.contraction import Contraction, contraction, logarithmic_norm, one_sided_lipschitz
from odenets.diagnostics.diagnose import Diagnosis, diagnose
from odenets.diagnostics.flow_input import FlowInput, flow_input, substituted
from odenets.diagnostics.gains import DepthGains, StreamGains, depth_gains, stream_gains
from odenets.diagnostics.gates import Histogram, LayerGates, gates, step_sizes
from odenets.diagnostics.jacobian import Jacobian
from odenets.diagnostics.lyapunov import LyapunovExponents, depth_exponents, lyapunov_exponents
from odenets.diagnostics.multistep import (
    Propagation,
    RootCondition,
    ZeroStability,
    propagation_matrices,
    root_condition,
    zero_stability,
)
from odenets.diagnostics.order import MeasuredOrder, measured_order
from odenets.diagnostics.restep import StackField, coarsen, solved, step_of, with_solver, with_steps
from odenets.diagnostics.reversible import Reconstruction, reconstruction
from odenets.diagnostics.spectrum import (
    Eigenvalues,
    LayerSpectra,
    SingularValues,
    eigenvalues,
    layer_spectra,
    singular_values,
)
from odenets.diagnostics.stability import (
    LayerEigenvalues,
    StabilityRegion,
    layer_eigenvalues,
    ode_eigenvalues,
    stability_region,
)
from odenets.diagnostics.step_study import StepRow, StepStudy, step_study
from odenets.diagnostics.streams import StreamCollapse, stream_collapse
from odenets.diagnostics.summary import summary, table
from odenets.diagnostics.weights import WeightSmoothness, weight_smoothness

__all__ = [
    "Contraction",
    "DepthGains",
    "Diagnosis",
    "Eigenvalues",
    "FlowInput",
    "Histogram",
    "Jacobian",
    "LayerEigenvalues",
    "LayerGates",
    "LayerSpectra",
    "LyapunovExponents",
    "MeasuredOrder",
    "Propagation",
    "Reconstruction",
    "RootCondition",
    "SingularValues",
    "StabilityRegion",
    "StackField",
    "StepRow",
    "StepStudy",
    "StreamCollapse",
    "StreamGains",
    "WeightSmoothness",
    "ZeroStability",
    "coarsen",
    "contraction",
    "depth_exponents",
    "depth_gains",
    "diagnose",
    "eigenvalues",
    "flow_input",
    "gates",
    "layer_eigenvalues",
    "layer_spectra",
    "logarithmic_norm",
    "lyapunov_exponents",
    "measured_order",
    "ode_eigenvalues",
    "one_sided_lipschitz",
    "propagation_matrices",
    "reconstruction",
    "root_condition",
    "singular_values",
    "solved",
    "stability_region",
    "step_of",
    "step_sizes",
    "step_study",
    "stream_collapse",
    "stream_gains",
    "substituted",
    "summary",
    "table",
    "weight_smoothness",
    "with_solver",
    "with_steps",
    "zero_stability",
]
