"""Data without a network: digits, lynx and hare, Python's sources, two moons, swings, Robertson's reaction."""

from odenets.data.bytes import ByteCorpus, Bytes
from odenets.data.digits import Digits, LabelledImages
from odenets.data.kinetics import RobertsonKinetics
from odenets.data.lynx_hare import LynxHare, Series
from odenets.data.moons import Moons, Points
from odenets.data.swings import PendulumSwings, Swings

__all__ = [
    "ByteCorpus",
    "Bytes",
    "Digits",
    "LabelledImages",
    "LynxHare",
    "Moons",
    "PendulumSwings",
    "Points",
    "RobertsonKinetics",
    "Series",
    "Swings",
]
