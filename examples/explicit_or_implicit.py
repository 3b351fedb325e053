"""A damped oscillator at one step size, and a stiff oscillator at one tolerance, by explicit and implicit methods.

python examples/explicit_or_implicit.py
python examples/explicit_or_implicit.py compare.measure=false      # errors alone, no times and gradients

The same on the command line: odenets compare compare=oscillator, odenets compare compare=stiff

With steps of a quarter of a second forward Euler's amplitude grows although the oscillator is damped, since 1 + h lambda
lies outside the unit circle; backward Euler damps it too much; the trapezoidal rule only shifts the phase. On the stiff
one the explicit pair takes several times the steps of the implicit methods, which its accuracy would not need.
"""

import sys

from odenets.compare.main import compare

if __name__ == "__main__":
    compare(["compare=oscillator", *sys.argv[1:]])
    compare(["compare=stiff", *sys.argv[1:]])
