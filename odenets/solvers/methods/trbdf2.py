"""TR-BDF2: a trapezoidal step to 2 gamma, then BDF2, as an ESDIRK method of order 2, L-stable.

Bank et al. 1985; in this form Hosea and Shampine, "Analysis and implementation of TR-BDF2" (1996).
"""

from math import sqrt

from ..tableau import ButcherTableau

_G = 1 - sqrt(0.5)
_W = sqrt(2) / 4

TRBDF2 = ButcherTableau("trbdf2", 2, a=((), (_G, _G), (_W, _W, _G)), b=(_W, _W, _G), c=(0.0, 2 * _G, 1.0))
