"""Semilinear flows `x' = A(t, x) x + b(t, x)`, their structured linear parts, and the steps schemes take on them.

Read in this order: `scheme` (a one-step map known by R and Q) with `rational`, `exponential` and `registry`; `linear/`
(one structured part per file); `flow` (the protocol) and the flows `residual`, `diagonal`, `delta`, `stream`, `skew`;
`step` (frozen, half-frozen and full steps); `held` (a flow for the exponential methods of the solvers).
"""

from odenets.flows.delta import DeltaFlow
from odenets.flows.diagonal import DiagonalFlow, HighwayFlow
from odenets.flows.exponential import Exponential
from odenets.flows.flow import Frozen, SemilinearFlow
from odenets.flows.held import semilinear_field
from odenets.flows.rational import Rational, theta
from odenets.flows.registry import SCHEMES, resolve_scheme
from odenets.flows.residual import ResidualFlow
from odenets.flows.scheme import Scheme
from odenets.flows.skew import SkewFlow
from odenets.flows.step import frozen_step, full_step, half_frozen_step
from odenets.flows.stream import StreamFlow

__all__ = [
    "SCHEMES",
    "DeltaFlow",
    "DiagonalFlow",
    "Exponential",
    "Frozen",
    "HighwayFlow",
    "Rational",
    "ResidualFlow",
    "Scheme",
    "SemilinearFlow",
    "SkewFlow",
    "StreamFlow",
    "frozen_step",
    "full_step",
    "half_frozen_step",
    "resolve_scheme",
    "semilinear_field",
    "theta",
]
