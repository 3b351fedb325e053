"""The nonstiff DETEST problems (Hull, Enright, Fellen, Sedgwick, SIAM J. Numer. Anal. 9, 1972) on [0, 20], with
reference values to many digits (reference_solutions.json). C5 is left out: its reference is not at hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

REFERENCE = json.loads((Path(__file__).parent / "reference_solutions.json").read_text())


@dataclass(frozen=True)
class Problem:
    """y' = field(t, y), y(0) = y0 and the reference state `exact` at t = 20; non-autonomous where t enters."""

    name: str
    field: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    exact: Tensor


def _vector(*components: Tensor) -> Tensor:
    return torch.stack(components)


def _linear(matrix: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, y: matrix @ y


def _b4(t: Tensor, y: Tensor) -> Tensor:
    r = torch.hypot(y[0], y[1])
    return _vector(-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r)


def _two_body(t: Tensor, y: Tensor) -> Tensor:
    return torch.cat([y[2:], -y[:2] / torch.linalg.vector_norm(y[:2]) ** 3])


def _chain(loss: list[float], gain: list[float]) -> Tensor:
    n = len(loss)
    matrix = torch.diag(torch.tensor(loss, dtype=torch.float64))
    return matrix + torch.diag(torch.tensor(gain[: n - 1], dtype=torch.float64), -1)


def _laplacian(n: int) -> Tensor:
    one = torch.ones(n - 1, dtype=torch.float64)
    return torch.diag(one, 1) + torch.diag(one, -1) - 2 * torch.eye(n, dtype=torch.float64)


_B2 = torch.tensor([[-1.0, 1, 0], [1, -2, 1], [0, 1, -1]], dtype=torch.float64)
_COUNT = [float(i) for i in range(1, 10)]

_FIELDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "A1": lambda t, y: -y,
    "A2": lambda t, y: -(y**3) / 2,
    "A3": lambda t, y: y * torch.cos(t),
    "A4": lambda t, y: y / 4 * (1 - y / 20),
    "A5": lambda t, y: (y - t) / (y + t),
    "B1": lambda t, y: _vector(2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])),
    "B2": _linear(_B2),
    "B3": lambda t, y: _vector(-y[0], y[0] - y[1] ** 2, y[1] ** 2),
    "B4": _b4,
    "B5": lambda t, y: _vector(y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]),
    "C1": _linear(_chain([-1.0] * 9 + [0.0], [1.0] * 9)),
    "C2": _linear(_chain([-i for i in _COUNT] + [0.0], _COUNT)),
    "C3": _linear(_laplacian(10)),
    "C4": _linear(_laplacian(51)),
    "D1": _two_body,
    "D2": _two_body,
    "D3": _two_body,
    "D5": _two_body,
    "E1": lambda t, y: _vector(y[1], -(y[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y[0])),
    "E2": lambda t, y: _vector(y[1], (1 - y[0] ** 2) * y[1] - y[0]),
    "E3": lambda t, y: _vector(y[1], y[0] ** 3 / 6 - y[0] + 2 * torch.sin(2.78535 * t)),
    "E4": lambda t, y: _vector(y[1], 0.032 - 0.4 * y[1] ** 2),
    "E5": lambda t, y: _vector(y[1], torch.sqrt(1 + y[1] ** 2) / (25 - t)),
}
_KEYS = {"E2": "E2_vdp_mu1_t20", "E4": "E4_detest_0.032"}
_ECCENTRICITY = {"D1": 0.1, "D2": 0.3, "D3": 0.5, "D5": 0.9}


def _tensor(values: list[str]) -> Tensor:
    return torch.tensor([float(v) for v in values], dtype=torch.float64)


def _problem(name: str) -> Problem:
    entry = REFERENCE[_KEYS.get(name, name)]
    if name in _ECCENTRICITY:
        e = _ECCENTRICITY[name]
        y0 = torch.tensor([1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))], dtype=torch.float64)
    else:
        y0 = _tensor(entry.get("y0", ["1"]))
    assert entry["t"] == "20"
    return Problem(name, _FIELDS[name], y0, _tensor(entry["y"]))


PROBLEMS = {name: _problem(name) for name in _FIELDS}
