"""Automatic switching between an explicit and a stiff method, in the manner of LSODA.

While walking explicitly, the dominant eigenvalue along the solution is estimated at every step from the two stages that
share the step's end (HW II, eq. IV.2.9): |lambda| ~ |k_s - k_{s-1}| / |Y_s - Y_{s-1}|. A step whose h |lambda| lies
near the end of the method's real stability interval or beyond was limited by stability, not by accuracy: after some of
those the problem is taken as stiff. While walking with the stiff method its Jacobian's largest eigenvalue is known: once
steps of the present size would have been stable for the explicit method several times in a row, that takes over again.
Different counts and thresholds for the two ways keep it from going to and fro.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..adaptive import AdaptiveIntegrator
from ..integrator import Step
from ..one_step import Accuracy, Method, bind
from ..step import Field, add_scaled, weighted_sum
from ..tableau import ButcherTableau
from .rosenbrock import Rosenbrock, RosenbrockTableau


@dataclass(frozen=True)
class Switching:
    """The two methods and when to change.

    Args:
        name: as in `solver=`.
        explicit: first same as last, with a last but one stage at the end of the step as well.
        stiff: a Rosenbrock method, whose Jacobian is at hand.
        interval: length of the explicit method's real stability interval.
        onset: share of that interval from which on a step counts as limited by stability.
        patience: so many of these steps make the problem stiff (HW II: 15),
        forgive: so many others in a row clear the count (HW II: 6).
        margin: share of the interval within which a step of the stiff method counts as fit for the explicit one.
        relief: so many of these in a row bring the explicit method back.
    """

    name: str
    explicit: ButcherTableau
    stiff: RosenbrockTableau
    interval: float
    onset: float = 0.9
    patience: int = 15
    forgive: int = 6
    margin: float = 0.5
    relief: int = 5

    @property
    def order(self) -> int:
        return min(self.explicit.order, self.stiff.order)


class SwitchingIntegrator(AdaptiveIntegrator):
    """An `AdaptiveIntegrator` that changes its method on the way; the arguments are the same.

    Attributes:
        steps_of: accepted steps by the name of the method that took them.
    """

    def __init__(self, pair: Switching, field: Field, t0: Tensor, y0: Tensor, direction: float, **settings) -> None:
        super().__init__(field, pair.explicit, t0, y0, direction, **settings)
        self.pair = pair
        self._bound = {pair.explicit.name: self.bound}
        self.steps_of = {pair.explicit.name: 0, pair.stiff.name: 0}
        self._suspicious = self._harmless = 0

    def step(self) -> Step | None:
        method = self.method
        step = super().step()
        if step is None:
            return None
        self.steps_of[method.name] += 1
        with torch.no_grad():
            if method is self.pair.explicit:
                self._look_for_stiffness(step)
            else:
                self._look_for_relief(step)
        return step

    def _look_for_stiffness(self, step: Step) -> None:
        """HW II, section IV.2, with its counts."""
        row = self.pair.explicit.a[-2]
        size = step.h
        before = add_scaled(step.y0, size, weighted_sum(row, step.stages))
        slope, distance = step.stages[-1] - step.stages[-2], step.y1 - before
        product = abs(step.end - step.start) * self._quotient(slope, distance)
        if product > self.pair.onset * self.pair.interval:
            self._harmless = 0
            self._suspicious += 1
            if self._suspicious == self.pair.patience:
                self._change_to(self.pair.stiff)
        else:
            self._harmless += 1
            if self._harmless == self.pair.forgive:
                self._suspicious = 0

    def _quotient(self, slope: Tensor, distance: Tensor) -> float:
        """|slope| / |distance| in the norm of the error control; 0 where the distance is only rounding."""
        scale = (self.atol + self.rtol * self.y.abs()).reciprocal()
        above, below = float(self.norm(slope * scale)), float(self.norm(distance * scale))
        rounding = 100 * torch.finfo(self.y.dtype).eps * float(self.norm(self.y * scale))
        return above / below if below > rounding else 0.0

    def _look_for_relief(self, step: Step) -> None:
        bound = self._bound[self.pair.stiff.name]
        assert isinstance(bound, Rosenbrock)
        stable = abs(step.end - step.start) * bound.largest_eigenvalue() < self.pair.margin * self.pair.interval
        self._harmless = self._harmless + 1 if stable else 0
        if self._harmless == self.pair.relief:
            self._change_to(self.pair.explicit)

    def _change_to(self, method: Method) -> None:
        self.method = method
        if method.name not in self._bound:
            self._bound[method.name] = bind(method, self.field, Accuracy(self.rtol, self.atol, self.norm))
        self.bound = self._bound[method.name]
        self.bound.jumped()
        self.nodes = torch.tensor(method.c, dtype=self.nodes.dtype, device=self.nodes.device)
        self.previous = self.before = 1.0
        self._suspicious = self._harmless = 0
