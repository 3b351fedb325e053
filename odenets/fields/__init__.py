"""Vector fields `f(t, x) -> dx/dt`: networks, weights that vary in time, physical systems."""

from odenets.fields.attention import Attention
from odenets.fields.autonomous import Autonomous
from odenets.fields.combined import Combined
from odenets.fields.conv import Conv
from odenets.fields.hamiltonian import HamiltonianField, SeparableHamiltonianField
from odenets.fields.mlp import MLP
from odenets.fields.rotary_attention import RotaryAttention
from odenets.fields.swiglu import SwiGLU
from odenets.fields.systems import (
    Brusselator,
    DampedOscillator,
    HenonHeiles,
    Kepler,
    Lorenz,
    LotkaVolterra,
    Pendulum,
    Robertson,
    VanDerPol,
)
from odenets.fields.time_scaled import TimeScaled
from odenets.fields.varying import TimeVarying

__all__ = [
    "MLP",
    "Attention",
    "Autonomous",
    "Brusselator",
    "Combined",
    "Conv",
    "DampedOscillator",
    "HamiltonianField",
    "HenonHeiles",
    "Kepler",
    "Lorenz",
    "LotkaVolterra",
    "Pendulum",
    "Robertson",
    "RotaryAttention",
    "SeparableHamiltonianField",
    "SwiGLU",
    "TimeScaled",
    "TimeVarying",
    "VanDerPol",
]
