"""Where output times lie among the steps of a solve, the states there, and what reaches the steps from their gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..step import over_state


@dataclass(frozen=True)
class Outputs:
    """Times [M, *B] in walking order among N steps, B being [batch] or [].

    Attributes:
        steps: N.
        step: the step that each lies in, int64 [M, *B].
        theta: where in it, in (0, 1].
        h: that step's signed size.
        at_end: whether it is the very end of the step.
        degree: of the steps' polynomials; 0 if all are at the ends of steps.
    """

    steps: int
    step: Tensor
    theta: Tensor
    h: Tensor
    at_end: Tensor
    degree: int

    @classmethod
    def among(cls, grid: Tensor, ts: Tensor, direction: float, degree: int) -> Outputs:
        """Of the times ts [M, *B], all of them reached, on the grid [N + 1, *B] of the steps' starts and the end; rows
        after a sample's last step repeat its end.
        """
        ends, wanted = grid[1:] * direction, ts * direction
        if ts.dim() > 1:
            step = torch.searchsorted(ends.T.contiguous(), wanted.T.contiguous()).T
        else:
            step = torch.searchsorted(ends, wanted)
        step = step.clamp(max=len(ends) - 1)
        start, end = grid.gather(0, step), grid.gather(0, step + 1)
        h, at_end = end - start, ts == end
        theta = (ts - start) / torch.where(h == 0, 1.0, h)
        return cls(len(ends), step, theta, h, at_end, 0 if bool(at_end.all()) else degree)

    @classmethod
    def on_grid(cls, steps: int, places: list[int], like: Tensor) -> Outputs:
        """At the ends of steps: on these places of the grid, all of them after the start."""
        step = torch.tensor(places, device=like.device) - 1
        one = torch.ones(len(places), dtype=torch.float64, device=like.device)
        return cls(steps, step, one, one, one.bool(), 0)

    def part(self, start: int, stop: int) -> tuple[Outputs, slice]:
        """Those in the steps from `start` up to `stop`, of all samples together, and which of the times they are."""
        first, last = (
            int(x) for x in torch.searchsorted(self.step, torch.tensor([start, stop], device=self.step.device))
        )
        which = slice(first, last)
        step, theta, h, at_end = (x[which] for x in (self.step - start, self.theta, self.h, self.at_end))
        return replace(self, steps=stop - start, step=step, theta=theta, h=h, at_end=at_end), which

    def states(self, starts: Tensor, end: Tensor, polynomials: Tensor | None) -> Tensor:
        """The states [M, *state], from those that the steps start from [N or more, *state], the last one [*state], and
        where any output lies inside a step, the coefficients of all polynomials [N or more, *B, degree, ...].
        """
        last = over_state(self.step == self.steps - 1, end.expand(len(self.step), *end.shape))
        after = torch.where(last, end, _rows(starts, (self.step + 1).clamp(max=self.steps - 1)))
        if not self.degree:
            return after
        assert polynomials is not None
        terms = _rows(polynomials, self.step)
        powers = self.theta[..., None] ** torch.arange(1, self.degree + 1, device=end.device) * self.h[..., None]
        change = (over_state(powers, terms).to(end.dtype) * terms).sum(self.step.dim())
        return torch.where(over_state(self.at_end, after), after, _rows(starts, self.step) + change)

    def reached(self, grads: Tensor) -> Tensor:
        """What reaches the steps from the gradients of the states [M, *state]: [N + 1, 1 + degree, *state], of the n-th
        step's start and then of h times its polynomial's coefficients.
        """
        dims, size = self.step.dim(), 1 + self.degree
        clocks, state = self.step.shape[1:], grads.shape[dims:]
        powers = self.theta[..., None] ** torch.arange(size, device=grads.device)
        direct = torch.zeros_like(powers)
        direct[..., 0] = 1
        powers = torch.where(self.at_end[..., None], direct, powers)
        rows = self.step + self.at_end.to(self.step.dtype)  # a step's end is the next one's start
        if dims > 1:
            rows = rows * clocks[0] + torch.arange(clocks[0], device=grads.device)
        given = grads.reshape(-1, 1, *state)
        total = grads.new_zeros((self.steps + 1) * math.prod(clocks), size, *state)
        total.index_add_(0, rows.reshape(-1), over_state(powers.reshape(-1, size), given).to(given.dtype) * given)
        total = total.reshape(self.steps + 1, *clocks, size, *state)
        return total.transpose(1, 2).contiguous() if dims > 1 else total


def _rows(x: Tensor, step: Tensor) -> Tensor:
    """Row `step` of x [N, ...], or with step [M, batch] every sample's own of x [N, batch, ...]."""
    if step.dim() == 1:
        return x.index_select(0, step)
    return x[step, torch.arange(step.shape[1], device=x.device)]
