"""Real data that needs no network: handwritten digits, and the Hudson Bay lynx and hare counts."""

from odenets.data.digits import Digits, LabelledImages
from odenets.data.lynx_hare import LynxHare, Series

__all__ = ["Digits", "LabelledImages", "LynxHare", "Series"]
