"""Which block, which scheme? Train every combination on the digits and look at what each costs.

python examples/compare_on_digits.py                       # a few minutes; prints the table and the report's path
python examples/compare_on_digits.py trainer.epochs=5      # any key of the comparison can be changed

The same on the command line: odenets compare compare=digits
"""

import sys

from odenets.compare.main import compare

if __name__ == "__main__":
    compare(["compare=digits", *sys.argv[1:]])
