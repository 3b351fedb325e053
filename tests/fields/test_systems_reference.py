"""Physical systems from their standard start to a late time, against solutions known to 20 digits.

The values come from extrapolation methods run with 40 digits and two step sizes (Kepler: from Kepler's equation).
"""

import math

import pytest
import torch

from odenets.fields import Brusselator, Kepler, Lorenz, LotkaVolterra, Pendulum, Robertson, VanDerPol
from odenets.fields.systems import System
from odenets.solvers import Scipy, solve

REFERENCES: list[tuple[System, tuple[float, ...], float, tuple[float, ...]]] = [
    (LotkaVolterra(), (1.0, 1.0), 10.0, (1.026344767575089319, 0.9096910781360416176)),
    (Brusselator(), (1.5, 3.0), 20.0, (0.4986370712683478487, 4.596780349452011183)),
    (VanDerPol(), (2.0, 0.0), 20.0, (2.008149762174948592, -0.04250887527320214699)),
    (Lorenz(), (1.0, 0.0, 0.0), 1.0, (-9.408450567056036205, -9.096199071186478968, 28.58162762439233911)),
    (
        Kepler(),
        (0.4, 0.0, 0.0, 2.0),
        20.0,
        (-0.7700755784112404493, 0.7883448169944243891, -0.8941837319886914970, -0.1234617641584409589),
    ),
]


@pytest.mark.parametrize(("system", "start", "t", "expected"), REFERENCES, ids=lambda v: type(v).__name__)
def test_the_solution_equals_the_reference(system, start, t, expected):
    if not isinstance(system, Lorenz):
        assert system.initial == start
    y0 = torch.tensor(start, dtype=torch.float64)
    end = solve(system, y0, (0.0, t), solver="dopri8", rtol=1e-11, atol=1e-12).ys[-1]
    torch.testing.assert_close(end, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-8)


def test_robertson_equals_the_reference_over_six_decades():
    # From another library's test of its implicit method at tolerance 1e-20.
    ts = [0.0, 1e-2, 1.0, 100.0]
    expected = torch.tensor(
        [
            [0.999600682688295, 3.645047887844264e-05, 0.0003628668328283568],
            [0.9664597373330129, 3.0746265785786866e-05, 0.033509516401211095],
            [0.6172348823960672, 6.153591274638884e-06, 0.3827589640126406],
        ],
        dtype=torch.float64,
    )
    system = Robertson()
    start = system.initial_state(dtype=torch.float64)
    ys = solve(system, start, ts, solver=Scipy("Radau", rtol=1e-9, atol=1e-13)).ys
    torch.testing.assert_close(ys[1:], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(system.total(ys), torch.ones(4, dtype=torch.float64), rtol=1e-12, atol=0)


def test_a_pendulum_of_large_swing_has_the_period_of_the_elliptic_integral():
    # Period 4 K(sin(theta0/2)) sqrt(length/gravity), K by the arithmetic-geometric mean.
    theta0, gravity, length = 2.0, 9.81, 0.7
    a, b = 1.0, math.cos(theta0 / 2)
    for _ in range(6):
        a, b = (a + b) / 2, math.sqrt(a * b)
    period = 2 * math.pi / a * math.sqrt(length / gravity)
    start = torch.tensor([theta0, 0.0], dtype=torch.float64)
    ts = torch.tensor([0.0, 3 * period], dtype=torch.float64)
    end = solve(Pendulum(gravity, length), start, ts, solver="dopri8", rtol=1e-11, atol=1e-12).ys[-1]
    torch.testing.assert_close(end, start, rtol=0, atol=1e-8)
