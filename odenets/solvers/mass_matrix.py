"""Systems M x' = f(t, x) with a constant matrix M, singular for differential-algebraic equations of index 1.

HW II, section VI.1: with M singular the rows of f in the left null space of M are algebraic equations, which the
start must satisfy. Index 1 means that their Jacobian with respect to the directions M does not see is invertible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError
