"""Data that needs no network: handwritten digits, lynx and hare counts, Python's own sources as bytes, two moons."""

from odenets.data.bytes import ByteCorpus, Bytes
from odenets.data.digits import Digits, LabelledImages
from odenets.data.lynx_hare import LynxHare, Series
from odenets.data.moons import Moons, Points

__all__ = ["ByteCorpus", "Bytes", "Digits", "LabelledImages", "LynxHare", "Moons", "Points", "Series"]
