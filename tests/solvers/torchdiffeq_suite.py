"""Runs torchdiffeq's own test-suite with odenets in torchdiffeq's place.

    python tests/solvers/torchdiffeq_suite.py /path/to/checkout-of-torchdiffeq

The checkout is only read for its `tests/` folder; none of it is part of this project. Left out: the methods that
odenets does not have yet (the implicit ones), and one test that fails in torchdiffeq itself with new scipy.
"""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

import odenets

NOT_YET = (
    "implicit_euler", "implicit_midpoint", "trapezoid", "radauIIA3", "gl4", "radauIIA5", "gl6", "sdirk2", "trbdf2",
)  # fmt: skip
FAILS_UPSTREAM = ("TestMinMaxStep.test_min_max_step",)  # scipy's LSODA now refuses min_step > max_step / its own limits


def load(checkout: Path) -> unittest.TestSuite:
    """The suite's tests, with `import torchdiffeq` resolved to odenets and the missing methods taken off its lists."""
    sys.modules["torchdiffeq"] = odenets
    sys.path.insert(0, str(checkout / "tests"))
    import problems  # type: ignore[import-not-found]

    for name in dir(problems):
        value = getattr(problems, name)
        if name.endswith("METHODS") and isinstance(value, tuple):
            setattr(problems, name, tuple(method for method in value if method not in NOT_YET))
    names = ("api_tests", "event_tests", "gradient_tests", "norm_tests", "odeint_tests")
    loaded = unittest.defaultTestLoader.loadTestsFromNames(names)
    return unittest.TestSuite(test for test in _flatten(loaded) if not test.id().endswith(FAILS_UPSTREAM))


def _flatten(suite: unittest.TestSuite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _flatten(test)
        else:
            yield test


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "tests" / "problems.py").exists():
        sys.exit(f"usage: {sys.argv[0]} CHECKOUT, a folder that holds torchdiffeq's tests/problems.py")
    result = unittest.TextTestRunner(verbosity=2).run(load(Path(sys.argv[1])))
    sys.exit(not result.wasSuccessful())
