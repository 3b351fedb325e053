"""Stiff problems with reference digits, on states [..., n]."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

_REFERENCE = json.loads((Path(__file__).parent / "reference_solutions.json").read_text())


class Stiff(NamedTuple):
    """`exact` is the state at `end`; `atol` suits rtol = 1e-6."""

    field: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    end: float
    exact: Tensor
    atol: float


def robertson(t: Tensor, y: Tensor, rate: Tensor | float = 1.0) -> Tensor:
    """Robertson's reactions; `rate` [] or [batch] scales the slow one."""
    a, b, c = y.unbind(-1)
    first, second, third = 0.04 * rate * a, 1e4 * b * c, 3e7 * b**2
    return torch.stack([second - first, first - second - third, third], -1)


def hires(t: Tensor, y: Tensor) -> Tensor:
    """Hairer and Wanner II, eq. IV.10.5."""
    y1, y2, y3, y4, y5, y6, y7, y8 = y.unbind(-1)
    reaction = 280 * y6 * y8
    return torch.stack(
        [
            -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007,
            1.71 * y1 - 8.75 * y2,
            -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
            8.32 * y2 + 1.71 * y3 - 1.12 * y4,
            -1.745 * y5 + 0.43 * y6 + 0.43 * y7,
            -reaction + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7,
            reaction - 1.81 * y7,
            -reaction + 1.81 * y7,
        ],
        -1,
    )


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    y1, y2 = y.unbind(-1)
    return torch.stack([y2, ((1 - y1**2) * y2 - y1) / 1e-6], -1)


def _problem(name: str, field: Callable[[Tensor, Tensor], Tensor], atol: float) -> Stiff:
    entry = _REFERENCE[name]
    y0, exact = (torch.tensor([float(x) for x in entry[key]], dtype=torch.float64) for key in ("y0", "y"))
    return Stiff(field, y0, float(entry["t"]), exact, atol)


STIFF = {
    "robertson": _problem("ROBER_1e11", robertson, 1e-14),
    "hires": _problem("HIRES", hires, 1e-10),
    "van_der_pol": _problem("VDPOL_eps1e-6", van_der_pol, 1e-8),
}


def relative_error(problem: Stiff, y: Tensor) -> float:
    return float(((y - problem.exact) / problem.exact).abs().max())


def prothero_robinson(t: Tensor, y: Tensor, stiffness: float = 1e6) -> Tensor:
    """y' = -stiffness (y - sin t) + cos t: sin t is a solution, all others fall onto it."""
    return -stiffness * (y - torch.sin(t)) + torch.cos(t)
