"""Data without a network: digits, lynx and hare, Python's sources, two moons, swings, oscillations, Robertson's reaction;
initial value problems."""

from odenets.data.bytes import ByteCorpus, Bytes
from odenets.data.digits import Digits, LabelledImages
from odenets.data.initial_value_problem import InitialValueProblem
from odenets.data.kinetics import RobertsonKinetics
from odenets.data.lynx_hare import LynxHare, Series
from odenets.data.moons import Moons, Points
from odenets.data.oscillations import DampedOscillations, IrregularSeries
from odenets.data.swings import PendulumSwings, Swings

__all__ = [
    "ByteCorpus",
    "Bytes",
    "DampedOscillations",
    "Digits",
    "InitialValueProblem",
    "IrregularSeries",
    "LabelledImages",
    "LynxHare",
    "Moons",
    "PendulumSwings",
    "Points",
    "RobertsonKinetics",
    "Series",
    "Swings",
]
