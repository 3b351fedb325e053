"""Physical systems as vector fields, with fixed or learnable coefficients."""

from odenets.fields.systems.base import Coefficient, System
from odenets.fields.systems.brusselator import Brusselator
from odenets.fields.systems.damped_oscillator import DampedOscillator
from odenets.fields.systems.henon_heiles import HenonHeiles
from odenets.fields.systems.kepler import Kepler
from odenets.fields.systems.lorenz import Lorenz
from odenets.fields.systems.lotka_volterra import LotkaVolterra
from odenets.fields.systems.pendulum import Pendulum
from odenets.fields.systems.robertson import Robertson
from odenets.fields.systems.van_der_pol import VanDerPol

__all__ = [
    "Brusselator",
    "Coefficient",
    "DampedOscillator",
    "HenonHeiles",
    "Kepler",
    "Lorenz",
    "LotkaVolterra",
    "Pendulum",
    "Robertson",
    "System",
    "VanDerPol",
]
