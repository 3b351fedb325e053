"""The lynx-hare fit over gradient methods: the same fit, differentiated exactly or by an adjoint equation.

python examples/compare_gradients.py                       # 12 short fits; prints the table and the report's path
python examples/compare_gradients.py gradient=autograd,adjoint solver.step_size=1.0 solver=rk4

The same on the command line: odenets compare compare=lynx_hare
"""

import sys

from odenets.compare.main import compare

if __name__ == "__main__":
    compare(["compare=lynx_hare", *sys.argv[1:]])
