"""The pendulum, with optional damping and periodic drive."""

import torch
from torch import Tensor

from odenets.fields.systems.base import Coefficient, System
from odenets.fields.time import expand_time


class Pendulum(System):
    """`theta' = omega,  omega' = -(gravity/length) sin(theta) - damping omega + drive cos(drive_frequency t)`.

    theta in rad from hanging, omega in rad/s, gravity in m/s^2, length in m, damping in 1/s, drive in rad/s^2 and
    drive_frequency in rad/s. Standard: gravity 9.81, length 1, no damping, no drive, from (1, 0). For the chaotic
    driven pendulum in its usual dimensionless form take gravity = length = 1, damping 0.5, drive 1.15, drive_frequency
    2/3 (Baker, Gollub, Chaotic Dynamics, 2nd ed. 1996, ch. 3).

    Source: any text on mechanics, e.g. Landau, Lifshitz, Mechanics, sections 11 and 25-26.
    """

    names = ("theta", "omega")
    initial = (1.0, 0.0)
    span = (0.0, 10.0)

    def __init__(
        self,
        gravity: float | Tensor = 9.81,
        length: float | Tensor = 1.0,
        damping: float | Tensor = 0.0,
        drive: float | Tensor = 0.0,
        drive_frequency: float | Tensor = 2.0 / 3.0,
        learnable: bool = False,
    ):
        super().__init__()
        self.gravity = Coefficient("gravity", gravity, learnable)
        self.length = Coefficient("length", length, learnable)
        # Damping and drive may be zero, where a logarithm cannot start.
        self.damping = Coefficient("damping", damping, learnable, positive=False)
        self.drive = Coefficient("drive", drive, learnable, positive=False)
        self.drive_frequency = Coefficient("drive_frequency", drive_frequency, learnable, positive=False)

    def rhs(self, t: Tensor, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        theta, omega = x
        force = self.drive() * torch.cos(self.drive_frequency() * t).to(theta.dtype)
        return omega, -(self.gravity() / self.length()) * theta.sin() - self.damping() * omega + force

    def drift(self, t: Tensor | float, omega: Tensor) -> Tensor:
        """theta' = omega for omega [..., 1]: with `kick` what symplectic methods take."""
        return omega

    def kick(self, t: Tensor | float, theta: Tensor) -> Tensor:
        """omega' for theta [..., 1], without damping.

        Raises:
            ValueError: the damping is not fixed to the number 0; it acts on omega, which a kick does not see.
        """
        if isinstance(self.damping.value, Tensor) or self.damping.value != 0:
            raise ValueError("a damped pendulum is not separable: symplectic methods need damping=0, not learnable")
        angle = theta.squeeze(-1)
        return self.rhs(expand_time(t, angle), (angle, torch.zeros_like(angle)))[1].unsqueeze(-1)

    def energy(self, x: Tensor) -> Tensor:
        """`H = omega^2 / 2 + (gravity/length) (1 - cos theta)` [...] in 1/s^2 (energy per mass and length squared), for
        x [..., 2]; constant along solutions without damping and drive, zero at rest.
        """
        theta, omega = self.split(x)
        return omega * omega / 2 + self.gravity() / self.length() * (1 - theta.cos())
