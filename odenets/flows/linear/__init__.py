"""Structured linear parts: one file each. A part gives `R(hA) x + h Q(hA) b` in closed form for any scheme."""

from odenets.flows.linear.base import Along, Forcing, LinearPart, Outer
from odenets.flows.linear.diagonal import Diagonal
from odenets.flows.linear.generator import (
    Generator,
    cfl_limit,
    check_generator,
    generator_basis,
    generator_from_rates,
    rates_count,
)
from odenets.flows.linear.rank_one import RankOne, guarded_unit
from odenets.flows.linear.sinkhorn import DoublyStochasticError, doubly_stochastic_error, sinkhorn
from odenets.flows.linear.skew import Skew
from odenets.flows.linear.stream import StreamMatrix
from odenets.flows.linear.undo import RankOneUndo, StreamUndo, Undo
from odenets.flows.linear.zero import Zero

__all__ = [
    "Along",
    "Diagonal",
    "DoublyStochasticError",
    "Forcing",
    "Generator",
    "LinearPart",
    "Outer",
    "RankOne",
    "RankOneUndo",
    "Skew",
    "StreamMatrix",
    "StreamUndo",
    "Undo",
    "Zero",
    "cfl_limit",
    "check_generator",
    "doubly_stochastic_error",
    "generator_basis",
    "generator_from_rates",
    "guarded_unit",
    "rates_count",
    "sinkhorn",
]
