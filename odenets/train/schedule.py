"""Learning rate as a factor of the optimizer's own, by step."""

import math
from collections.abc import Callable


def factor(kind: str, total: int, warmup: float) -> Callable[[int], float]:
    """`step -> factor`: `constant`, `cosine` (linear warm-up over the fraction `warmup`, then cosine to 0), or
    `one_cycle` (cosine from 1/25 up to 1 over `warmup`, or 0.3 if that is 0, then cosine to 1e-4)."""
    if kind == "constant":
        return lambda step: 1.0
    if kind == "cosine":
        first = round(warmup * total)
        return lambda step: (
            (step + 1) / (first + 1) if step < first else _between(1.0, 0.0, (step - first) / max(1, total - first))
        )
    if kind == "one_cycle":
        top = max(1, round((warmup or 0.3) * total))
        return lambda step: (
            _between(1 / 25, 1.0, step / top) if step < top else _between(1.0, 1e-4, (step - top) / max(1, total - top))
        )
    raise ValueError(f"expected constant, cosine or one_cycle, got {kind!r}")


def _between(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
