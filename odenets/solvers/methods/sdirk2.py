"""Alexander's two-stage SDIRK method, order 2, L-stable, stiffly accurate (Alexander 1977; Hairer, Wanner II, IV.6)."""

from math import sqrt

from ..tableau import ButcherTableau

_G = 1 - sqrt(0.5)

SDIRK2 = ButcherTableau("sdirk2", 2, a=((_G,), (1 - _G, _G)), b=(1 - _G, _G), c=(_G, 1.0))
